//! The traffic of a deployed service's container, moved while it is replaced.

use std::path::Path;
use std::time::Duration;

use invar_engine::{Container, Engine};
use invar_evidence::Traffic;
use invar_rollout::driver::{Heal, RolloutError};

/// Moves traffic at the gateway.
struct Healing<'e> {
    engine: &'e dyn Engine,
    heal: Heal,
}

/// Whoever moves a container's traffic at the gateway behind this socket; `None` when it has none.
pub(crate) fn traffic<'e>(
    root: &Path,
    socket: &Path,
    engine: &'e dyn Engine,
    container: &Container,
    drain: Duration,
) -> Result<Option<Box<dyn Traffic + 'e>>, RolloutError> {
    let heal = Heal::of(root, socket, engine, container, drain)?;
    Ok(heal.map(|heal| Box::new(Healing { engine, heal }) as Box<dyn Traffic + 'e>))
}

impl Traffic for Healing<'_> {
    fn shift(&mut self, fresh: &Container) -> Result<(), String> {
        self.heal.shift(self.engine, fresh).map_err(reason)
    }

    fn hold(&mut self) -> Result<(), String> {
        self.heal.hold().map_err(reason)
    }

    fn release(&mut self, container: &Container) -> Result<(), String> {
        self.heal.release(self.engine, container).map_err(reason)
    }
}

fn reason(error: RolloutError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
