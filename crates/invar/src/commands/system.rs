//! `invar system prune|events`

use std::process::ExitCode;

use clap::Subcommand;

use super::{events, prune};
use crate::cli::Cli;

/// Look after everything at once
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Events(events::Args),
    /// Remove every container that does not run, and content that no image needs
    Prune(prune::Args),
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Task::Events(args) => events::run(cli, args),
        Task::Prune(args) => prune::everything(cli, args),
    }
}
