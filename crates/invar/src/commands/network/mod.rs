//! `invar network`

mod connect;
mod create;
mod disconnect;
mod inspect;
mod ls;
mod prune;
mod rm;

use std::process::ExitCode;

use clap::Subcommand;
use invar_engine::ContainerId;
use invar_engine::embedded::KIND;

use crate::cli::Cli;
use crate::{engines, exit};

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
    Connect(connect::Args),
    Create(create::Args),
    Disconnect(disconnect::Args),
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
        Command::Connect(args) => connect::run(cli, args),
        Command::Create(args) => create::run(cli, args),
        Command::Disconnect(args) => disconnect::run(cli, args),
        Command::Inspect(args) => inspect::run(cli, args),
        Command::Ls(args) => ls::run(cli, args),
        Command::Prune(args) => prune::run(cli, args),
        Command::Rm(args) => rm::run(cli, args),
    }
}

/// The container of this name, which must be one of the embedded engine.
fn embedded(cli: &Cli, name: &str) -> anyhow::Result<ContainerId> {
    let container = engines::find(cli.root(), name)?.container;
    if container.engine == KIND {
        return Ok(container.id);
    }
    Err(exit::failure(
        format!("the container {name:?} belongs to {}", container.engine),
        "use that engine's own command: networks of Invar are for its own containers",
    ))
}
