//! `invar hold`

use std::process::ExitCode;

use crate::cli::Cli;
use crate::deploying::show::{self, Ended};
use crate::deploying::{self, Gateway, advise};
use crate::{printer, privilege};
use invar_rollout::machine::Order;

/// Keep a rollout in its step, or let it go on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The service: its name, or PROJECT.NAME
    #[arg(value_name = "SERVICE")]
    service: String,

    /// Let it go on
    #[arg(long)]
    release: bool,

    #[command(flatten)]
    gateway: Gateway,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let (driver, service) = deploying::driver_of(cli, &args.gateway, &args.service)?;
    let outcome = driver
        .order(&service, args.order(), &mut show::decision)
        .map_err(advise)?;
    printer::line(Ended::of(&service, &outcome).sentence())?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn order(&self) -> Order {
        if self.release {
            Order::Resume
        } else {
            Order::Pause
        }
    }
}
