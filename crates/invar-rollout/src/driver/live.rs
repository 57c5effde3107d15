//! The containers of a service and its place at the gateway, as one rollout sees and changes them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use invar_engine::{
    Container, ContainerConfig, ContainerId, ContainerName, Engine, EngineError, MountKind,
    Network, State, Stdio,
};

use super::endpoint::{PORT_LABEL, endpoint};
use super::gateway::{Addresses, Front};
use super::health::{Asked, Health};
use super::store::{Result, RolloutError};
use crate::definition::{Definition, is_anonymous};
use crate::machine::{Action, Observation, Order, Replica, ReplicaState, Role, Rollout};

/// Label with the service's whole name.
pub(super) const SERVICE_LABEL: &str = "invar.service";
/// Label with the revision's name.
pub(super) const REVISION_LABEL: &str = "invar.revision";
/// Label of containers that are there for a comparison.
pub(super) const BASELINE_LABEL: &str = "invar.baseline";

/// Says why a container must go at once, for example because it changed; `None`: it need not.
pub type Alarm = Box<dyn Fn(&dyn Engine, &Container) -> Option<String> + Send>;

/// One service while a rollout goes on.
pub(super) struct Live {
    engine: Arc<dyn Engine>,
    pub(super) front: Front,
    definitions: BTreeMap<Role, Definition>,
    health: Health,
    alarm: Option<Alarm>,
    addresses: Addresses,
}

impl Live {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        front: Front,
        definitions: BTreeMap<Role, Definition>,
        alarm: Option<Alarm>,
    ) -> Self {
        Self {
            health: Health::new(Arc::clone(&engine)),
            engine,
            front,
            definitions,
            alarm,
            addresses: Addresses::new(),
        }
    }

    fn definition(&self, role: Role) -> Result<&Definition> {
        self.definitions
            .get(&role)
            .ok_or_else(|| RolloutError::Stored {
                service: self.front.service.clone(),
                reason: format!("the {role:?} revision is missing"),
            })
    }

    fn ports(&self) -> usize {
        let all = self.definitions.values();
        all.map(|definition| definition.ports.len())
            .max()
            .unwrap_or(0)
    }

    /// Looks at containers and gateway.
    pub(super) fn observe(
        &mut self,
        rollout: &Rollout,
        now_ms: u64,
        order: Option<Order>,
    ) -> Result<Observation> {
        let containers = of_service(&*self.engine, &self.front.service)?;
        let mut replicas = Vec::new();
        let mut alarm = None;
        self.addresses.clear();
        let began = i64::try_from(rollout.began_ms).unwrap_or(i64::MAX);
        let ids: Vec<ContainerId> = containers.iter().map(|found| found.id.clone()).collect();
        self.health.keep(&ids);
        for container in &containers {
            let Some((role, index)) = place(rollout, container) else {
                continue;
            };
            let mut state = self.state(role, container);
            // Started again by its policy, it looks well; in a trial its end counts all the same.
            let is_new = container.created_at.as_millisecond() >= began;
            if role == Role::Target && is_new && container.restarts > 0 && !rollout.phase.is_final()
            {
                let times = container.restarts;
                state = ReplicaState::Ended(format!("ended and was started again, {times} times"));
            }
            if role == Role::Target
                && state == ReplicaState::Healthy
                && let Some(sound) = &self.alarm
                && alarm.is_none()
            {
                alarm = sound(&*self.engine, container);
            }
            replicas.push(Replica { role, index, state });
        }
        let traffic = if rollout.spec.has_traffic {
            self.front.traffic(self.ports(), &self.addresses)
        } else {
            None
        };
        Ok(Observation {
            now_ms,
            replicas,
            traffic,
            order,
            alarm,
        })
    }

    fn state(&mut self, role: Role, container: &Container) -> ReplicaState {
        match &container.state {
            // Never started: the command died between the two.
            State::Created => return ReplicaState::Ended("was never started".to_owned()),
            // Restarted or not, a revision whose program ends is not well.
            State::Exited(status) | State::Restarting(status) => {
                let reason = if status.oom_killed {
                    "was killed for want of memory".to_owned()
                } else if let Some(error) = &status.error {
                    format!("could not run: {error}")
                } else {
                    format!("ended with code {}", status.code)
                };
                return ReplicaState::Ended(reason);
            }
            State::Paused => return ReplicaState::Unhealthy("is frozen".to_owned()),
            State::Running => {}
        }
        let Some(definition) = self.definitions.get(&role) else {
            return ReplicaState::Starting;
        };
        let mut ports = Vec::new();
        for port in &definition.ports {
            match endpoint(&*self.engine, container, port.target) {
                Ok(address) => ports.push(address),
                Err(error) => return ReplicaState::Unhealthy(format!("is not reached: {error}")),
            }
        }
        let asked = Asked {
            check: definition.healthcheck.clone(),
            ports: ports.clone(),
        };
        let state = self.health.state(&container.id, &asked);
        if state == ReplicaState::Healthy {
            let of_role = self.addresses.entry(role).or_default();
            of_role.resize_with(ports.len(), Default::default);
            for (all, address) in of_role.iter_mut().zip(ports) {
                all.insert(address);
            }
        }
        state
    }

    /// Does one thing; what there is to tell of it.
    pub(super) fn act(&mut self, rollout: &Rollout, action: &Action) -> Result<Option<String>> {
        let ports = self.ports();
        match *action {
            Action::Run { role, index } => self.run(rollout, role, index).map(|()| None),
            Action::Remove { role, index } => {
                let name = container_name(rollout, role, index)?;
                let grace = self.definition(role)?.stop_grace;
                remove(&*self.engine, name.as_str(), grace).map(|()| None)
            }
            Action::Register(role) => {
                let definition = self.definition(role)?.clone();
                self.front
                    .register(role, &definition, &self.addresses)
                    .map(|()| None)
            }
            Action::Forget(role) => self.front.forget(role, ports).map(|()| None),
            Action::Weigh { canary, baseline } => {
                self.front.weigh(ports, canary, baseline).map(|()| None)
            }
            Action::Renew => self.front.renew(ports).map(|()| None),
            Action::EndTrial => self.front.weigh(ports, 0, 0).map(|()| None),
            Action::Switch(role) => {
                let definition = self.definition(role)?.clone();
                self.front
                    .switch(role, &definition, rollout.spec.policy.drain)
            }
        }
    }

    fn run(&self, rollout: &Rollout, role: Role, index: u32) -> Result<()> {
        let definition = self.definition(role)?;
        let name = container_name(rollout, role, index)?;
        match self.engine.inspect(name.as_str()) {
            Ok(found) if found.config.labels.get(SERVICE_LABEL) != Some(&rollout.service) => {
                // Somebody's own container has this name; removing it is not ours to decide.
                return Err(EngineError::NameTaken {
                    name: name.as_str().to_owned(),
                    holder: found.id.short().to_owned(),
                }
                .into());
            }
            Ok(found) if matches!(found.state, State::Running) => return Ok(()),
            Ok(found) => self.engine.remove(&found.id, true)?,
            Err(EngineError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let config = instance(definition, rollout, role)?;
        let id = self.engine.create(&name, &config)?;
        // A program that cannot run leaves an ended container that says why.
        match self.engine.start(&id, Stdio::Detached) {
            Err(EngineError::ProgramNotFound { .. } | EngineError::NotExecutable { .. })
            | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("front", &self.front)
            .finish_non_exhaustive()
    }
}

/// Containers of a service, of every revision.
pub(super) fn of_service(engine: &dyn Engine, service: &str) -> Result<Vec<Container>> {
    let mut all = engine.list()?;
    all.retain(|container| {
        container
            .config
            .labels
            .get(SERVICE_LABEL)
            .map(String::as_str)
            == Some(service)
    });
    Ok(all)
}

/// Role and number of a container, by its name; `None` when it is of another rollout.
fn place(rollout: &Rollout, container: &Container) -> Option<(Role, u32)> {
    let (rest, number) = container.name.as_str().rsplit_once('-')?;
    let index = number.parse::<u32>().ok()?.checked_sub(1)?;
    let roles = [Role::Target, Role::Stable, Role::Baseline];
    let role = roles
        .into_iter()
        .find(|role| prefix(rollout, *role).as_deref() == Some(rest))?;
    Some((role, index))
}

/// `shop-web-3f2a91c04b7e`, `…-base` for a baseline.
fn prefix(rollout: &Rollout, role: Role) -> Option<String> {
    let revision = rollout.revision(role)?;
    let service = rollout.service.replacen('.', "-", 1);
    Some(match role {
        Role::Baseline => format!("{service}-{revision}-base"),
        Role::Stable | Role::Target => format!("{service}-{revision}"),
    })
}

fn container_name(rollout: &Rollout, role: Role, index: u32) -> Result<ContainerName> {
    let prefix = prefix(rollout, role).unwrap_or_default();
    Ok(ContainerName::parse(&format!("{prefix}-{}", index + 1))?)
}

/// The configuration of one container: the revision's, with what differs from one to the next.
fn instance(definition: &Definition, rollout: &Rollout, role: Role) -> Result<ContainerConfig> {
    let mut config = definition.config.clone();
    for mount in &mut config.mounts {
        if let MountKind::Volume { name } = &mut mount.kind
            && is_anonymous(name)
        {
            ContainerId::random().as_str().clone_into(name);
        }
    }
    let labels = &mut config.labels;
    labels.insert(SERVICE_LABEL.to_owned(), rollout.service.clone());
    let revision = rollout.revision(role).unwrap_or_default();
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    if role == Role::Baseline {
        labels.insert(BASELINE_LABEL.to_owned(), "true".to_owned());
    }
    tell_ports(&mut config, definition)?;
    Ok(config)
}

/// Tells a container where to listen. With the host's network each has a port of its own; with an
/// address of its own it is the target port, unless its environment says otherwise.
fn tell_ports(config: &mut ContainerConfig, definition: &Definition) -> Result<()> {
    for (index, port) in definition.ports.iter().enumerate() {
        let name = match index {
            0 => "PORT".to_owned(),
            _ => format!("PORT_{}", port.target),
        };
        let setting = format!("{name}=");
        if config.network == Network::Host {
            let free = free_port()?;
            config.env.retain(|other| !other.starts_with(&setting));
            config.env.push(setting + &free.to_string());
            let label = format!("{PORT_LABEL}{}", port.target);
            config.labels.insert(label, free.to_string());
        } else if !config.env.iter().any(|other| other.starts_with(&setting)) {
            config.env.push(setting + &port.target.to_string());
        }
    }
    Ok(())
}

/// A port that nothing listens on. Another program may take it before the container does; the
/// container then ends, and the rollout goes back.
fn free_port() -> Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| RolloutError::Io {
            action: "find a free port on",
            path: "127.0.0.1".into(),
            source,
        })
}

/// Ends and removes a container that may be gone already.
pub(super) fn remove(engine: &dyn Engine, name: &str, grace: std::time::Duration) -> Result<()> {
    let found = match engine.inspect(name) {
        Err(EngineError::NotFound { .. }) => return Ok(()),
        other => other?,
    };
    if matches!(found.state, State::Running) {
        match engine.stop(&found.id, grace) {
            // It ended meanwhile, or is gone.
            Ok(_) | Err(EngineError::WrongState { .. } | EngineError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match engine.remove(&found.id, true) {
        Ok(()) | Err(EngineError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
