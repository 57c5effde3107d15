//! Back to the revision before.
//!
//! Traffic first: what needs no engine is done before one is opened. With a warm revision that is
//! the whole way back, and it works while an engine does not answer.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;

use super::drive::{Driver, Outcome, Report, names, note, now_ms, spec};
use super::gateway::Front;
use super::store::{Result, RolloutError, Store};
use crate::definition::Definition;
use crate::machine::{Decision, Order, Phase, Role, Rollout, WHOLE};

/// The way back, begun: traffic is on the revision before if that was warm.
#[derive(Debug)]
pub struct Rollback {
    service: String,
    begun: Begun,
}

#[derive(Debug)]
enum Begun {
    /// A rollout is under way, or was killed.
    UnderWay,
    /// Another driver has the service.
    Busy,
    /// Its containers are to be started first.
    Cold {
        _lock: fs::File,
        rollout: Box<Rollout>,
        definition: Box<Definition>,
    },
    /// It is stored, and the gateway was told; what it said, unless it refused.
    Warm {
        _lock: fs::File,
        rollout: Box<Rollout>,
        switched: Option<Decision>,
    },
}

impl Rollback {
    /// Moves traffic back if the revision before is warm, without an engine.
    pub fn begin(store: &Store, socket: &Path, service: &str) -> Result<Self> {
        let begun = begin(store, socket, service)?;
        Ok(Self {
            service: service.to_owned(),
            begun,
        })
    }
}

fn begin(store: &Store, socket: &Path, service: &str) -> Result<Begun> {
    if store.unfinished(service)?.is_some() {
        return Ok(Begun::UnderWay);
    }
    let Some(lock) = store.lock(service)? else {
        return Ok(Begun::Busy);
    };
    let stored = store.service(service)?;
    let stored = stored.ok_or_else(|| RolloutError::UnknownService {
        service: service.to_owned(),
    })?;
    let missing = || RolloutError::NothingBefore {
        service: service.to_owned(),
    };
    let previous = stored.previous.as_deref().ok_or_else(missing)?;
    let definition = store.definition(service, previous)?.ok_or_else(missing)?;
    let running = store.definition(service, &stored.current)?;
    let mut spec = spec(&definition, running.as_ref());
    // Nothing is tried: it was the stable one before.
    spec.policy.steps.clear();
    spec.policy.manual = false;
    spec.policy.hold = Duration::ZERO;
    let number = store.last_rollout(service)?.map_or(0, |last| last.number) + 1;
    let current = Some(stored.current.as_str());
    let mut rollout = Rollout::new(number, service, previous, current, spec, now_ms());
    if rollout.spec.has_traffic {
        let mut front = Front::new(socket.to_owned(), service.to_owned(), names(&rollout));
        let traffic = front.traffic(definition.ports.len(), &BTreeMap::new());
        // The gateway checks it all along: one pointer, then everything else.
        if traffic.is_some_and(|traffic| traffic.known.contains(&Role::Target)) {
            rollout.phase = Phase::Switching;
            let switched = {
                let _hurry = store.hurry()?;
                store.begin(&rollout, &definition)?;
                let drain = rollout.spec.policy.drain;
                // Without a usable container it is refused, and the driver's rounds see to it.
                front.switch(Role::Target, &definition, drain)
            };
            let switched = switched.ok().flatten().map(|told| Decision {
                weight: WHOLE,
                ..note("switched", &told)
            });
            if let Some(switched) = &switched {
                store.save(&rollout, std::slice::from_ref(switched), None)?;
            }
            return Ok(Begun::Warm {
                _lock: lock,
                rollout: Box::new(rollout),
                switched,
            });
        }
    }
    Ok(Begun::Cold {
        _lock: lock,
        rollout: Box::new(rollout),
        definition: Box::new(definition),
    })
}

impl Driver {
    /// Restores the whole revision before, after [`Rollback::begin`]: at once when it is warm, else
    /// as soon as its containers are well. A rollout under way is aborted.
    pub fn rollback(&self, begun: Rollback, report: Report<'_>) -> Result<Outcome> {
        let service = begun.service;
        match begun.begun {
            Begun::UnderWay => self.order(&service, Order::Abort, report),
            Begun::Busy => Ok(Outcome::Busy),
            Begun::Cold {
                _lock,
                rollout,
                definition,
            } => self.begin(*rollout, &definition, report),
            Begun::Warm {
                _lock,
                rollout,
                switched,
            } => {
                if let Some(switched) = &switched {
                    report(&service, switched);
                }
                let ended = self.drive(*rollout, report)?;
                Ok(Outcome::Ended(Box::new(ended)))
            }
        }
    }
}
