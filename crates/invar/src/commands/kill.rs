//! `invar kill`

use std::process::ExitCode;

use crate::cli::Cli;
use crate::{engines, printer, privilege, several, signals};

/// Send a signal to the first process of containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Signal: KILL, SIGTERM, HUP, 9, …
    #[arg(short, long, default_value = "KILL")]
    signal: String,

    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let signal = signals::parse(&args.signal)?;
    Ok(several::each(&args.containers, |name| {
        let found = engines::find(cli.root(), name)?;
        found.engine.kill(&found.container.id, signal)?;
        Ok(printer::line(name)?)
    }))
}
