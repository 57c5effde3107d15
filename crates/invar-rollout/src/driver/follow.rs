//! Keeps the gateway's addresses those of the containers, and the service's names with the revision
//! that serves.
//!
//! A container that is started again may get another address, because somebody else has the one it
//! had. And the revision before, which stays warm, must not be found by the service's name.
//!
//! No command is at hand when a restart policy starts a container, so whoever runs all along looks
//! now and then. What is to change is told twice, in two looks after each other, before it is done:
//! a command that is at work on the service does it itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use invar_engine::{Container, Engine, Network, State};
use invar_gateway::control::client::Client;
use invar_gateway::control::protocol::Status;

use super::endpoint::endpoint;
use super::gateway::gateway_name;
use super::live::{BASELINE_LABEL, REVISION_LABEL, SERVICE_LABEL};
use super::store::{Result, RolloutError, Store};
use crate::definition::Definition;

/// The gateway's service and revision, and the addresses it should have.
type Change = (String, String, Vec<SocketAddr>);

/// Looks after the services of one engine.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    socket: PathBuf,
    /// What the last look found, by service.
    seen: BTreeMap<String, Vec<Change>>,
}

impl Follower {
    /// Of the services in a store, at the gateway behind this socket.
    pub fn new(store: Store, socket: PathBuf) -> Self {
        Self {
            store,
            socket,
            seen: BTreeMap::new(),
        }
    }

    /// One look. The engine is asked for only when a service is there whose addresses may change.
    pub fn look(&mut self, engine: &mut dyn FnMut() -> Option<Arc<dyn Engine>>) -> Result<()> {
        let mut watched = Vec::new();
        let mut serving = BTreeMap::new();
        for stored in self.store.services()? {
            if self.store.unfinished(&stored.service)?.is_none() {
                serving.insert(stored.service.clone(), stored.current.clone());
            }
            for revision in [Some(stored.current), stored.previous]
                .into_iter()
                .flatten()
            {
                let definition = self.store.definition(&stored.service, &revision)?;
                if let Some(definition) = definition.filter(may_move) {
                    watched.push((stored.service.clone(), revision, definition));
                }
            }
        }
        if watched.is_empty() {
            self.seen.clear();
            return Ok(());
        }
        let Some(engine) = engine() else {
            return Ok(());
        };
        watched.retain(|(_, _, definition)| definition.engine == engine.kind());
        let containers = engine.list()?;
        name_what_serves(&*engine, &containers, &serving)?;
        let mut client = Client::connect(&self.socket).map_err(|e| self.failed(e))?;
        let status = client.status().map_err(|e| self.failed(e))?;
        let mut found: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        for (service, revision, definition) in &watched {
            let changes = moved(
                &*engine,
                &containers,
                &status,
                (service, revision),
                definition,
            )?;
            if !changes.is_empty() {
                found.entry(service.clone()).or_default().extend(changes);
            }
        }
        let before = std::mem::replace(&mut self.seen, found);
        for (service, changes) in &self.seen {
            if before.get(service) != Some(changes) {
                continue;
            }
            let Some(_lock) = self.store.lock(service)? else {
                continue;
            };
            if self.store.unfinished(service)?.is_some() {
                continue;
            }
            for (name, revision, addresses) in changes {
                client
                    .revision(name, revision, addresses.clone())
                    .map_err(|e| self.failed(e))?;
            }
        }
        Ok(())
    }

    fn failed(&self, source: invar_gateway::GatewayError) -> RolloutError {
        RolloutError::Gateway {
            action: "follow containers".to_owned(),
            socket: self.socket.clone(),
            source,
        }
    }
}

/// While no rollout is under way, a service's names lead to the revision that serves alone.
fn name_what_serves(
    engine: &dyn Engine,
    containers: &[Container],
    serving: &BTreeMap<String, String>,
) -> Result<()> {
    for container in containers {
        let labels = &container.config.labels;
        let (Some(service), Some(revision)) =
            (labels.get(SERVICE_LABEL), labels.get(REVISION_LABEL))
        else {
            continue;
        };
        let (Some(current), Some(place)) = (serving.get(service), container.endpoints.first())
        else {
            continue;
        };
        let wanted: &[String] = if revision == current {
            &container.config.networking.aliases
        } else {
            &[]
        };
        if place.aliases != wanted {
            engine.set_aliases(&container.id, wanted)?;
        }
    }
    Ok(())
}

fn may_move(definition: &Definition) -> bool {
    !definition.ports.is_empty() && matches!(definition.config.network, Network::Named(_))
}

/// Where the gateway has an address that no container of the revision has, and a container one that
/// the gateway does not have: it moved.
fn moved(
    engine: &dyn Engine,
    containers: &[Container],
    status: &Status,
    (service, revision): (&str, &str),
    definition: &Definition,
) -> Result<Vec<Change>> {
    let is_of_it = |container: &&Container| {
        let label = |name| container.config.labels.get(name).map(String::as_str);
        label(SERVICE_LABEL) == Some(service)
            && label(REVISION_LABEL) == Some(revision)
            && label(BASELINE_LABEL).is_none()
            && container.state == State::Running
    };
    let mut changes = Vec::new();
    for (index, port) in definition.ports.iter().enumerate() {
        let name = gateway_name(service, index);
        let known = status.services.get(&name);
        let Some(known) = known.and_then(|known| known.revisions.get(revision)) else {
            continue;
        };
        let mut has = BTreeSet::new();
        for container in containers.iter().filter(is_of_it) {
            match endpoint(engine, container, port.target) {
                Ok(address) => has.insert(address),
                Err(RolloutError::NoAddress { .. }) => continue,
                Err(error) => return Err(error),
            };
        }
        let known: BTreeSet<SocketAddr> = known.endpoints.iter().map(|one| one.address).collect();
        let others = addresses(containers.iter().filter(|container| !is_of_it(container)));
        let wanted = follow(&known, &has, &others);
        if wanted != known {
            changes.push((name, revision.to_owned(), wanted.into_iter().collect()));
        }
    }
    Ok(changes)
}

fn addresses<'a>(containers: impl Iterator<Item = &'a Container>) -> BTreeSet<IpAddr> {
    let endpoints = containers.flat_map(|container| &container.endpoints);
    endpoints
        .filter_map(|endpoint| Some(IpAddr::V4(endpoint.address?.0)))
        .collect()
}

/// The addresses a revision should have: each that is new takes the place of one that is gone, of
/// those first that `others` have now. The rest stays: what waits to be started comes back.
fn follow(
    known: &BTreeSet<SocketAddr>,
    has: &BTreeSet<SocketAddr>,
    others: &BTreeSet<IpAddr>,
) -> BTreeSet<SocketAddr> {
    let mut gone: Vec<SocketAddr> = (known - has).into_iter().collect();
    gone.sort_by_key(|address| !others.contains(&address.ip()));
    let mut wanted = known.clone();
    for (gone, new) in gone.iter().zip(has - known) {
        wanted.remove(gone);
        wanted.insert(new);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moved_is_followed_and_nothing_else_is_touched() {
        let addresses = |hosts: &[u8]| -> BTreeSet<SocketAddr> {
            let of = |host: &u8| SocketAddr::from(([10, 0, 0, *host], 80));
            hosts.iter().map(of).collect()
        };
        // What the gateway has, what containers have, what others have, what the gateway gets.
        for (known, has, others, wanted) in [
            (&[2, 3][..], &[2, 3][..], &[][..], &[2, 3][..]),
            (&[2], &[3], &[], &[3]),
            (&[2], &[3], &[2], &[3]),
            // It waits to be started again.
            (&[2, 3], &[2], &[], &[2, 3]),
            // One that is not well yet is not the gateway's.
            (&[2], &[2, 3], &[], &[2]),
            // One came back elsewhere, another waits: the place that was taken is left.
            (&[2, 3], &[4], &[3], &[2, 4]),
            (&[2, 3], &[4, 5], &[], &[4, 5]),
        ] {
            let others = addresses(others).iter().map(SocketAddr::ip).collect();
            let found = follow(&addresses(known), &addresses(has), &others);
            assert_eq!(found, addresses(wanted), "{known:?} {has:?} {others:?}");
        }
    }
}
