//! `invar evidence`

mod ls;
mod resume;
mod rm;
mod show;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::Cli;

/// Look at, check, export and remove what was captured
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ls::Args),
    Resume(resume::Args),
    Rm(rm::Args),
    Show(show::Args),
    Verify(verify::Args),
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    crate::privilege::require_root()?;
    match &args.command {
        Command::Ls(args) => ls::run(cli, args),
        Command::Resume(args) => resume::run(cli, args),
        Command::Rm(args) => rm::run(cli, args),
        Command::Show(args) => show::run(cli, args),
        Command::Verify(args) => verify::run(cli, args),
    }
}
