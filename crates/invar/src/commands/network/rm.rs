//! `invar network rm`

use std::process::ExitCode;

use invar_engine::embedded::EmbeddedEngine;

use crate::cli::Cli;
use crate::{printer, several};

/// Remove networks that no running container is in
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let engine = EmbeddedEngine::open(cli.root())?;
    Ok(several::each(&args.networks, |name| {
        Ok(printer::line(engine.remove_network(name)?)?)
    }))
}
