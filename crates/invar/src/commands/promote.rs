//! `invar promote`

use std::process::ExitCode;

use crate::cli::Cli;
use crate::deploying::show::{self, Ended};
use crate::deploying::{self, Gateway, advise};
use crate::{printer, privilege};
use invar_rollout::machine::Order;

/// Take a rollout to its end without waiting for the judge or for its last step
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The service: its name, or PROJECT.NAME
    #[arg(value_name = "SERVICE")]
    service: String,

    #[command(flatten)]
    gateway: Gateway,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let (driver, service) = deploying::driver_of(cli, &args.gateway, &args.service)?;
    let outcome = driver
        .order(&service, Order::Promote, &mut show::decision)
        .map_err(advise)?;
    printer::line(Ended::of(&service, &outcome).sentence())?;
    Ok(ExitCode::SUCCESS)
}
