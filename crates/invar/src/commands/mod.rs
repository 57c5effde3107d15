//! One file a subcommand: its arguments (the doc comments are the help) and one function.

mod completions;
mod diff;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::Cli;

/// Every subcommand.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Completions(completions::Args),
    Diff(diff::Args),
}

/// Runs the chosen subcommand.
pub(crate) fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Completions(args) => completions::run(args),
        Command::Diff(args) => diff::run(cli, args),
    }
}
