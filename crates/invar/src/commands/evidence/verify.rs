//! `invar evidence verify`

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fs_err as fs;
use invar_evidence::{Action, EvidenceStore, PublicKey, Verification};

use super::export::beside;
use crate::cli::Cli;
use crate::exit;
use crate::printer::{self, Format};

/// Check that evidence, or an exported archive of it, is byte for byte what was sealed; ends with
/// 3 when it is not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the evidence, or its beginning or end; or the path of an archive (`-` for standard
    /// input)
    #[arg(value_name = "ID|FILE")]
    id: String,

    /// Signature of the archive (default: the name of the archive with `.dsse.json`)
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,

    /// Public key (PEM) to check it with (default: that of this state root)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Args {
    /// Whether an archive is named: no id looks like a path.
    pub(crate) fn is_archive(&self) -> bool {
        self.id == "-" || self.id.contains(['/', '.'])
    }
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    if args.is_archive() {
        return archive(args, &key(cli, args)?);
    }
    if args.signature.is_some() {
        return Err(exit::failure(
            "--signature is for an exported archive",
            "name the archive by its path, for example ./FILE.tar",
        ));
    }
    let store = EvidenceStore::open(cli.root())?;
    // The first one makes the key when it is sealed.
    let evidence = super::find(cli, &store, &args.id)?;
    let key = key(cli, args)?;
    let found = invar_evidence::verify(&store, &evidence, &key)?;
    print(args, &found)?;
    if !found.is_valid() {
        printer::note(format!("evidence {} is NOT what was sealed", evidence.id));
        return Ok(ExitCode::from(exit::FOUND));
    }
    invar_evidence::record(&store, &evidence, Action::Verified)?;
    printer::note(format!(
        "evidence {} is what was sealed: {} files, {} custody entries, key {}",
        evidence.id, found.files, found.custody, found.key
    ));
    Ok(ExitCode::SUCCESS)
}

/// What signatures are checked with.
fn key(cli: &Cli, args: &Args) -> anyhow::Result<PublicKey> {
    match &args.key {
        Some(path) => Ok(PublicKey::read(path)?),
        None => PublicKey::of_root(cli.root())?.ok_or_else(|| {
            exit::failure(
                format!("there is no key below {}", cli.root().display()),
                "name the public key of the host that sealed it with --key FILE",
            )
        }),
    }
}

/// Checks an archive, on this host or any other that has the public key.
fn archive(args: &Args, key: &PublicKey) -> anyhow::Result<ExitCode> {
    let path = Path::new(&args.id);
    let mut source: Box<dyn Read> = if args.id == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(fs::File::open(path)?)
    };
    let beside = args
        .signature
        .clone()
        .or_else(|| Some(beside(path)).filter(|path| args.id != "-" && path.exists()));
    let mut signature = None;
    if let Some(path) = &beside {
        let mut bytes = Vec::new();
        let limit = invar_evidence::LONGEST_SIGNATURE;
        fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        signature = Some(bytes);
    }
    let found = invar_evidence::verify_archive(&mut source, signature.as_deref(), key)?;
    print(args, &found)?;
    let name = printer::escape(args.id.as_bytes());
    if !found.is_valid() {
        printer::note(format!("the archive {name} is NOT what was exported"));
        return Ok(ExitCode::from(exit::FOUND));
    }
    let signed = match &beside {
        Some(_) => "as a whole, and what is in it",
        None => "what is in it (there is no signature beside it)",
    };
    printer::note(format!(
        "the archive {name} is what was exported: {} files, signed {signed}, key {}",
        found.files, found.key
    ));
    Ok(ExitCode::SUCCESS)
}

fn print(args: &Args, found: &Verification) -> anyhow::Result<()> {
    match args.format {
        Format::Table => printer::lines(
            found
                .problems
                .iter()
                .map(|problem| format!("{}: {}", problem.what, problem.reason)),
        )?,
        Format::Json => printer::json(found)?,
        Format::Jsonl => printer::jsonl([found])?,
    }
    Ok(())
}
