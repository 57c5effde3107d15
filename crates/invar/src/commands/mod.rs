//! One file a subcommand: its arguments (the doc comments are the help) and one function.

mod completions;
mod diff;
mod gateway;
mod image;
mod images;
mod import;
mod load;
mod rmi;
mod save;
mod tag;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::Cli;

/// Every subcommand.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Completions(completions::Args),
    Diff(diff::Args),
    Gateway(gateway::Args),
    Image(image::Args),
    Images(images::Args),
    Import(import::Args),
    Load(load::Args),
    Rmi(rmi::Args),
    Save(save::Args),
    Tag(tag::Args),
}

/// Runs the chosen subcommand.
pub(crate) fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Completions(args) => Ok(completions::run(args)),
        Command::Diff(args) => diff::run(cli, args),
        Command::Gateway(args) => gateway::run(cli, args),
        Command::Image(args) => image::run(cli, args),
        Command::Images(args) => images::run(cli, args),
        Command::Import(args) => import::run(cli, args),
        Command::Load(args) => load::run(cli, args),
        Command::Rmi(args) => rmi::run(cli, args),
        Command::Save(args) => save::run(cli, args),
        Command::Tag(args) => tag::run(cli, args),
    }
}
