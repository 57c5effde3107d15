//! `invar evidence`

pub(super) mod export;
pub(super) mod frozen;
mod ls;
mod open;
mod redact;
mod report;
mod resume;
mod rm;
mod show;
mod verify;

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use invar_evidence::{Evidence, EvidenceStore, State};

use crate::cli::Cli;
use crate::printer;

/// Look at, check, export and remove what was captured
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Export(export::Args),
    Ls(ls::Args),
    Open(open::Args),
    Redact(redact::Args),
    Report(report::Args),
    Resume(resume::Args),
    Rm(rm::Args),
    Show(show::Args),
    Verify(verify::Args),
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    // An archive and a public key are all that is needed, on any machine.
    let is_archive = matches!(&args.command, Command::Verify(args) if args.is_archive());
    if !is_archive {
        crate::privilege::require_store(cli.root())?;
    }
    match &args.command {
        Command::Export(args) => export::run(cli, args),
        Command::Ls(args) => ls::run(cli, args),
        Command::Open(args) => open::run(cli, args),
        Command::Redact(args) => redact::run(cli, args),
        Command::Report(args) => report::run(cli, args),
        Command::Resume(args) => resume::run(cli, args),
        Command::Rm(args) => rm::run(cli, args),
        Command::Show(args) => show::run(cli, args),
        Command::Verify(args) => verify::run(cli, args),
    }
}

/// The evidence to read: one that is being sealed is waited for, and one whose sealing was killed
/// in the background is sealed now.
fn find(cli: &Cli, store: &EvidenceStore, id: &str) -> anyhow::Result<Evidence> {
    let found = store.find(id)?;
    if found.state == State::Sealing {
        printer::note(format!("evidence {} is being sealed …", found.id));
        found.wait()?;
        return find(cli, store, found.id.as_str());
    }
    if found.is_unsealed() {
        printer::note(format!(
            "sealing evidence {} was interrupted: it is done now",
            found.id
        ));
        return resume::finish(cli, store, &found);
    }
    Ok(found)
}

/// Writes a file that appears, with this content and readable by its owner only, when it is
/// complete.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut File) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(parent.unwrap_or(".".as_ref()))?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
