//! `invar rollback`

use std::process::ExitCode;

use invar_rollout::driver::{Rollback, Store};

use crate::cli::Cli;
use crate::deploying::show::{self, Ended};
use crate::deploying::{self, Gateway, advise};
use crate::{printer, privilege};

/// Go back to the revision before, as a whole: image, command, environment, files, limits
///
/// At once when it is still warm: one pointer at the gateway. A rollout under way is aborted.
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
    let store = Store::open(cli.root())?;
    let service = store.find(&args.service).map_err(advise)?;
    // Before anything that takes time, such as opening an engine.
    let begun = Rollback::begin(&store, &args.gateway.control, &service).map_err(advise)?;
    let (driver, service) = deploying::driver_of(cli, &args.gateway, &service)?;
    let outcome = driver
        .rollback(begun, &mut show::decision)
        .map_err(advise)?;
    printer::line(Ended::of(&service, &outcome).sentence())?;
    Ok(ExitCode::SUCCESS)
}
