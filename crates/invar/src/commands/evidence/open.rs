//! `invar evidence open`

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use invar_evidence::{Action, Evidence, EvidenceStore};

use crate::cli::Cli;
use crate::{exit, printer};

/// Look at the files of evidence through a mount that protects both sides
///
/// The mount is read-only; no program in it can be executed, no device opened, and no link
/// followed. Without --at it exists for one command only, which starts in it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the evidence, or its beginning or end
    id: String,

    /// Mount it at this directory and leave it there, until: umount DIRECTORY
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "command")]
    at: Option<PathBuf>,

    /// Command to run in it (default: the shell of $SHELL)
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let store = EvidenceStore::open(cli.root())?;
    let evidence = super::find(cli, &store, &args.id)?;
    invar_evidence::record(&store, &evidence, Action::Opened)?;
    if let Some(at) = &args.at {
        let mount = invar_evidence::open(&evidence)?;
        invar_sys::mount::attach(&mount, at)
            .with_context(|| format!("could not mount at {}", at.display()))?;
        printer::note(format!("unmount it with: umount {}", at.display()));
        return Ok(ExitCode::SUCCESS);
    }
    run_inside(&evidence, &args.command)
}

fn run_inside(evidence: &Evidence, command: &[String]) -> anyhow::Result<ExitCode> {
    // The mount and its place belong to this process and its children alone.
    invar_sys::process::unshare_mounts().context("could not make a mount namespace")?;
    let place = tempfile::Builder::new()
        .prefix("invar-evidence-")
        .tempdir()?;
    let mount = invar_evidence::open(evidence)?;
    invar_sys::mount::attach(&mount, place.path())
        .with_context(|| format!("could not mount at {}", place.path().display()))?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let (program, arguments) = match command {
        [program, arguments @ ..] => (program.as_str(), arguments),
        [] => (shell.as_str(), &[][..]),
    };
    let status = Command::new(program)
        .args(arguments)
        .current_dir(place.path())
        .env("INVAR_EVIDENCE", place.path())
        .status();
    rustix::mount::unmount(place.path(), rustix::mount::UnmountFlags::DETACH)
        .with_context(|| format!("could not unmount {}", place.path().display()))?;
    let status = status.map_err(|error| {
        exit::failure(
            format!("{program:?} could not be started: {error}"),
            "name a program of this host after --",
        )
    })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(exit::FAILED)))
}
