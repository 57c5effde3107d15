//! What the commands of services share: from a compose file to definitions, and to a driver.
//!
//! ```text
//!  compose.yaml ──▶ Project ──translate──▶ Options of `invar run` ──▶ ContainerConfig ──▶ Definition
//! ```
//! A service is made by the rules of `invar run`, so both mean the same by the same words.

mod alarm;
mod job;
pub(crate) mod show;
mod translate;

use std::path::PathBuf;
use std::sync::Arc;

use invar_engine::embedded::EmbeddedEngine;
use invar_rollout::driver::{Driver, RolloutError, Store};

use crate::cli::Cli;
use crate::commands::gateway::CONTROL;
use crate::exit;

pub(crate) use job::run_to_its_end;
pub(crate) use translate::definition;

/// Where the gateway is.
#[derive(Debug, clap::Args)]
pub(crate) struct Gateway {
    /// The gateway's control socket
    #[arg(long, default_value = CONTROL, value_name = "SOCKET")]
    pub(crate) control: PathBuf,
}

/// A driver over this state root, its containers and the gateway.
pub(crate) fn driver(
    cli: &Cli,
    gateway: &Gateway,
) -> anyhow::Result<(Driver, Arc<EmbeddedEngine>)> {
    let engine = Arc::new(EmbeddedEngine::open(cli.root())?);
    let store = Store::open(cli.root())?;
    let driver = Driver::new(store, engine.clone(), &gateway.control).with_alarm(alarm::changes);
    Ok((driver, engine))
}

/// Adds the next step to an error of a rollout.
pub(crate) fn advise(error: RolloutError) -> anyhow::Error {
    let next_step = match &error {
        RolloutError::Gateway { socket, .. } => {
            format!(
                "start a gateway: invar gateway --control {}",
                socket.display()
            )
        }
        RolloutError::Refused { .. } => {
            "see what listens there: ss -ltnp; then publish another port".to_owned()
        }
        RolloutError::UnknownService { .. } => "see which there are: invar status".to_owned(),
        RolloutError::Ambiguous { .. } => "say which one: PROJECT.SERVICE".to_owned(),
        RolloutError::NothingBefore { .. } => "deploy an earlier compose file instead".to_owned(),
        RolloutError::NotUnderWay { .. } => {
            "see where it stands: invar status; go back with: invar rollback".to_owned()
        }
        _ => return error.into(),
    };
    let message = anyhow::Error::from(error);
    exit::Advise::<()>::hint(Err::<(), _>(message), next_step).expect_err("an error stays one")
}
