//! `invar undeploy`

use std::process::ExitCode;

use crate::cli::Cli;
use crate::deploying::show::{self, Ended};
use crate::deploying::{self, Gateway, advise};
use crate::{printer, privilege};

/// Take services away: off the gateway first, then their containers of every revision
///
/// Requests under way are finished as far as containers take time to stop. Volumes and the history
/// of decisions stay. With the last service of a project its networks go.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The services: names, or PROJECT.NAME
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<String>,

    #[command(flatten)]
    gateway: Gateway,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    for asked in &args.services {
        let (driver, service) = deploying::driver_of(cli, &args.gateway, asked)?;
        let outcome = driver
            .remove(&service, &mut show::decision)
            .map_err(advise)?;
        deploying::networks::tidy(cli.root(), &service)?;
        printer::line(Ended::of(&service, &outcome).sentence())?;
    }
    Ok(ExitCode::SUCCESS)
}
