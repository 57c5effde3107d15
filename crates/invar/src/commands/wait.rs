//! `invar wait`

use std::process::ExitCode;

use crate::cli::Cli;
use crate::{engines, printer, privilege, several};

/// Wait until containers have ended, and print their exit codes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    // All at once: a container of --rm that ends while another is waited for leaves no code behind.
    let wait = |name: &str| {
        let found = engines::find(cli.root(), name)?;
        Ok(found.engine.wait(&found.container.id)?.code)
    };
    Ok(several::at_once(&args.containers, wait, |_, code| {
        Ok(printer::line(code.to_string())?)
    }))
}
