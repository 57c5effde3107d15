//! `invar evidence verify`

use std::path::PathBuf;
use std::process::ExitCode;

use invar_evidence::{Action, EvidenceStore, PublicKey};

use crate::cli::Cli;
use crate::exit;
use crate::printer::{self, Format};

/// Check that evidence is byte for byte what was sealed; ends with 3 when it is not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the evidence, or its beginning or end
    id: String,

    /// Public key (PEM) to check it with (default: that of this state root)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let store = EvidenceStore::open(cli.root())?;
    let evidence = store.find(&args.id)?;
    let key = match &args.key {
        Some(path) => PublicKey::read(path)?,
        None => PublicKey::of_root(cli.root())?.ok_or_else(|| {
            exit::failure(
                format!("there is no key below {}", cli.root().display()),
                "name the public key of the host that sealed it with --key FILE",
            )
        })?,
    };
    let found = invar_evidence::verify(&store, &evidence, &key)?;
    match args.format {
        Format::Table => printer::lines(
            found
                .problems
                .iter()
                .map(|problem| format!("{}: {}", problem.what, problem.reason)),
        )?,
        Format::Json => printer::json(&found)?,
        Format::Jsonl => printer::jsonl([&found])?,
    }
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
