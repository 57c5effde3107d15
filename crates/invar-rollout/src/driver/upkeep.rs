//! The containers of a service between rollouts: as many as there should be, and no others.

use std::time::{Duration, Instant};

use super::drive::{Driver, Outcome, ROUND, Report, note, now_ms};
use super::endpoint::endpoint;
use super::gateway::{Addresses, Front, Names};
use super::live::{self, REVISION_LABEL};
use super::store::{Result, RolloutError};
use crate::definition::Definition;
use crate::machine::{Phase, Replica, ReplicaState, Role, step};

/// How long a container of an unknown revision may take to end.
const GRACE: Duration = Duration::from_secs(10);

impl Driver {
    /// Whether as many containers of the revision run as there should.
    pub(super) fn is_whole(&self, service: &str, wanted: &Definition) -> Result<bool> {
        let revision = wanted.revision();
        let all = live::of_service(&*self.engine, service)?;
        let running = all.iter().filter(|container| {
            container.config.labels.get(REVISION_LABEL) == Some(&revision)
                && container.state == invar_engine::State::Running
        });
        Ok(running.count() >= wanted.replicas as usize)
    }

    /// Whether the gateway has the addresses that the revision's containers have now: one that was
    /// started again may have another. A gateway that does not answer has nothing to compare.
    pub(super) fn is_reached(&self, service: &str, wanted: &Definition) -> Result<bool> {
        let revision = wanted.revision();
        let mut ports = vec![std::collections::BTreeSet::new(); wanted.ports.len()];
        for container in live::of_service(&*self.engine, service)? {
            let labels = &container.config.labels;
            let is_of_it = labels.get(REVISION_LABEL) == Some(&revision);
            if !is_of_it || container.state != invar_engine::State::Running {
                continue;
            }
            for (port, addresses) in wanted.ports.iter().zip(&mut ports) {
                match endpoint(&*self.engine, &container, port.target) {
                    Ok(address) => addresses.insert(address),
                    // It lost its place, or is just getting one: what repairs it looks again.
                    Err(RolloutError::NoAddress { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                };
            }
        }
        let names = Names::from([(Role::Target, revision)]);
        let mut front = Front::new(self.socket.clone(), service.to_owned(), names);
        let addresses = Addresses::from([(Role::Target, ports)]);
        let traffic = front.traffic(wanted.ports.len(), &addresses);
        Ok(traffic.is_none_or(|traffic| traffic.current.contains(&Role::Target)))
    }

    /// The same revision with other counts or ports, or with containers that ended.
    pub(super) fn adjust(
        &self,
        service: &str,
        wanted: &Definition,
        report: Report<'_>,
    ) -> Result<Outcome> {
        self.store.adjust(service, wanted)?;
        let mut rollout = self.new_rollout(service, wanted, None, None)?;
        rollout.phase = Phase::Promoted;
        let mut live = self.live(&rollout)?;
        let limit = Instant::now() + wanted.policy.healthy_within;
        let mut end = note("adjusted", "the same revision runs as the file says");
        loop {
            let seen = live.observe(&rollout, now_ms(), None)?;
            for action in step(&rollout, &seen).actions {
                live.act(&rollout, &action)?;
            }
            let healthy = seen
                .replicas
                .iter()
                .filter(|r| r.role == Role::Target && r.state == ReplicaState::Healthy)
                .count();
            let is_registered = |traffic: &crate::machine::Traffic| {
                traffic.stable == Some(Role::Target) && traffic.current.contains(&Role::Target)
            };
            let is_served =
                !rollout.spec.has_traffic || seen.traffic.as_ref().is_some_and(is_registered);
            if healthy >= wanted.replicas as usize && is_served {
                break;
            }
            if healthy > 0 && rollout.spec.has_traffic {
                live.act(&rollout, &crate::machine::Action::Register(Role::Target))?;
                live.act(&rollout, &crate::machine::Action::Switch(Role::Target))?;
            }
            if Instant::now() > limit {
                end = note("waiting", &not_well(&seen.replicas));
                break;
            }
            std::thread::sleep(ROUND);
        }
        if rollout.spec.has_traffic {
            live.front.publish(wanted)?;
        }
        self.surplus(service, wanted)?;
        report(service, &end);
        Ok(Outcome::Unchanged)
    }

    /// Removes containers of the current revision beyond its count.
    fn surplus(&self, service: &str, wanted: &Definition) -> Result<()> {
        let revision = wanted.revision();
        for container in live::of_service(&*self.engine, service)? {
            let number = container.name.as_str().rsplit_once('-');
            let number = number.and_then(|(_, number)| number.parse::<u32>().ok());
            let is_of_it = container.config.labels.get(REVISION_LABEL) == Some(&revision);
            if is_of_it && number.is_some_and(|number| number > wanted.replicas) {
                live::remove(&*self.engine, container.id.as_str(), wanted.stop_grace)?;
            }
        }
        Ok(())
    }

    /// Takes a service off the gateway, then removes its containers, and forgets it. Killed at any
    /// point, it is done again from the beginning.
    pub fn remove(&self, service: &str, report: Report<'_>) -> Result<Outcome> {
        let Some(_lock) = self.store.lock(service)? else {
            return Ok(Outcome::Busy);
        };
        if self.store.unfinished(service)?.is_some() {
            return Err(RolloutError::UnderWay {
                service: service.to_owned(),
            });
        }
        let has_traffic = self
            .running(service)?
            .is_some_and(|definition| !definition.ports.is_empty());
        if has_traffic {
            let names = Names::new();
            Front::new(self.socket.clone(), service.to_owned(), names).withdraw()?;
        }
        for container in live::of_service(&*self.engine, service)? {
            let revision = container.config.labels.get(REVISION_LABEL);
            let definition = revision.map(|name| self.store.definition(service, name));
            let definition = definition.transpose()?.flatten();
            let grace = definition.map_or(GRACE, |found| found.stop_grace);
            live::remove(&*self.engine, container.id.as_str(), grace)?;
        }
        self.store.remove(service)?;
        report(service, &note("removed", "it is not served any more"));
        Ok(Outcome::Removed)
    }

    /// Removes a warm revision whose time is over, unless somebody is at work on the service.
    pub fn cool(&self, service: &str) -> Result<()> {
        let Some(_lock) = self.store.lock(service)? else {
            return Ok(());
        };
        match self.store.unfinished(service)? {
            Some(_) => Ok(()),
            None => self.tidy(service, None),
        }
    }

    /// Removes what no longer has a part: revisions before the one before, and that one once its
    /// time is over. `wanted` stays.
    pub(super) fn tidy(&self, service: &str, wanted: Option<&str>) -> Result<()> {
        let Some(stored) = self.store.service(service)? else {
            return Ok(());
        };
        let warm = stored.previous.as_deref().filter(|_| {
            wanted.is_none() && stored.keep_until_ms.is_some_and(|until| until > now_ms())
        });
        let keeps = [Some(stored.current.as_str()), warm, wanted];
        for container in live::of_service(&*self.engine, service)? {
            let labels = &container.config.labels;
            let Some(revision) = labels.get(REVISION_LABEL) else {
                continue;
            };
            if keeps.contains(&Some(revision.as_str())) {
                continue;
            }
            let definition = self.store.definition(service, revision)?;
            let ports = definition.as_ref().map_or(0, |found| found.ports.len());
            if ports > 0 {
                let names = Names::new();
                let mut front = Front::new(self.socket.clone(), service.to_owned(), names);
                front.forget_revision(revision, ports)?;
            }
            let grace = definition.map_or(GRACE, |found| found.stop_grace);
            live::remove(&*self.engine, container.id.as_str(), grace)?;
        }
        if warm.is_none() {
            self.store.cooled(service)?;
        }
        Ok(())
    }
}

/// Why an adjustment does not wait any longer.
fn not_well(replicas: &[Replica]) -> String {
    let reasons = replicas.iter().filter_map(|replica| match &replica.state {
        ReplicaState::Ended(reason) | ReplicaState::Unhealthy(reason) => {
            Some(format!(": container {} {reason}", replica.index + 1))
        }
        ReplicaState::Starting | ReplicaState::Healthy => None,
    });
    format!(
        "its containers did not become well{}",
        reasons.take(1).collect::<String>()
    )
}
