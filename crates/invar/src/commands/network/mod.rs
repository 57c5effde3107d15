//! `invar network`

mod create;
mod inspect;
mod ls;
mod prune;
mod rm;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::Cli;

/// Make, list and remove networks of containers
///
/// Containers of one network reach each other by name; networks are kept apart.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Args),
    Inspect(inspect::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Prune(prune::Args),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    crate::privilege::require_root()?;
    match &args.command {
        Command::Create(args) => create::run(cli, args),
        Command::Inspect(args) => inspect::run(cli, args),
        Command::Ls(args) => ls::run(cli, args),
        Command::Prune(args) => prune::run(cli, args),
        Command::Rm(args) => rm::run(cli, args),
    }
}
