//! Back to the revision before.

use std::collections::BTreeMap;
use std::time::Duration;

use super::drive::{Driver, Outcome, Report, names, note};
use super::gateway::Front;
use super::store::{Result, RolloutError};
use crate::machine::{Order, Phase, Role};

impl Driver {
    /// Back to the revision before: at once when it is warm, else as soon as its containers are
    /// well. A rollout under way is aborted.
    pub fn rollback(&self, service: &str, report: Report<'_>) -> Result<Outcome> {
        if self.unfinished(service)?.is_some() {
            return self.order(service, Order::Abort, report);
        }
        let Some(_lock) = self.lock(service)? else {
            return Ok(Outcome::Busy);
        };
        let stored = self.store.service(service)?;
        let stored = stored.ok_or_else(|| RolloutError::UnknownService {
            service: service.to_owned(),
        })?;
        let missing = || RolloutError::NothingBefore {
            service: service.to_owned(),
        };
        let previous = stored.previous.as_deref().ok_or_else(missing)?;
        let definition = self
            .store
            .definition(service, previous)?
            .ok_or_else(missing)?;
        let running = self.running(service)?;
        let mut rollout =
            self.new_rollout(service, &definition, Some(&stored), running.as_ref())?;
        // Nothing is tried: it was the stable one before.
        rollout.spec.policy.steps.clear();
        rollout.spec.policy.manual = false;
        rollout.spec.policy.hold = Duration::ZERO;
        if rollout.spec.has_traffic {
            let names = names(&rollout);
            let mut front = Front::new(self.socket.clone(), service.to_owned(), names);
            front.require()?;
            let traffic = front.traffic(definition.ports.len(), &BTreeMap::new());
            // The gateway checks it all along: one pointer, then everything else.
            if traffic.is_some_and(|traffic| traffic.known.contains(&Role::Target)) {
                rollout.phase = Phase::Switching;
                self.store.begin(&rollout, &definition)?;
                let drain = rollout.spec.policy.drain;
                // Without a usable container it is refused, and the rounds below see to it.
                if let Ok(Some(told)) = front.switch(Role::Target, &definition, drain) {
                    let mut switched = note("switched", &told);
                    switched.weight = crate::machine::WHOLE;
                    self.store
                        .save(&rollout, std::slice::from_ref(&switched), None)?;
                    report(service, &switched);
                }
                let ended = self.drive(rollout, report)?;
                return Ok(Outcome::Ended(Box::new(ended)));
            }
        }
        self.begin(rollout, &definition, report)
    }
}
