//! The traffic of one container while a fresh one of the same revision takes its place.
//!
//! ```text
//!  both run:       fresh ─▶ endpoints, old out of them ─▶ its requests end ─▶ the old one may go
//!  one at a time:  new requests wait ─▶ those of the old one end ─▶ it goes ─▶ fresh answers ─▶ they go on
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use invar_engine::{Container, Engine};
use invar_gateway::GatewayError;
use invar_gateway::control::client::Client;
use invar_gateway::control::protocol::{RevisionStatus, Status};

use super::endpoint::endpoint;
use super::gateway::belongs;
use super::live::{REVISION_LABEL, SERVICE_LABEL};
use super::store::{Result, RolloutError, Store};

/// Between two looks at what is in flight.
const PAUSE: Duration = Duration::from_millis(5);
/// How long requests wait at most while no container runs.
const LONGEST_HOLD: Duration = Duration::from_mins(1);
/// How long a container that runs again may take until the gateway believes it.
const BELIEVED: Duration = Duration::from_secs(10);

/// A place at the gateway's table that leads to the container.
#[derive(Debug, Clone)]
struct Spot {
    /// The gateway's name of the service's port.
    service: String,
    revision: String,
    /// The container's port.
    port: u16,
    address: SocketAddr,
}

/// Moves the traffic of one container of a deployed service.
#[derive(Debug)]
pub struct Heal {
    client: Client,
    socket: std::path::PathBuf,
    spots: Vec<Spot>,
    /// How long requests on the old one may go on.
    drain: Duration,
    holds: bool,
}

impl Heal {
    /// Whoever moves this container's traffic; `None` when it has none: it is of no deployed
    /// service, the service has no ports, or no gateway runs.
    pub fn of(
        root: &Path,
        socket: &Path,
        engine: &dyn Engine,
        container: &Container,
        drain: Duration,
    ) -> Result<Option<Self>> {
        let label = |name| container.config.labels.get(name);
        let (Some(service), Some(revision)) = (label(SERVICE_LABEL), label(REVISION_LABEL)) else {
            return Ok(None);
        };
        let Some(definition) = Store::open(root)?.definition(service, revision)? else {
            return Ok(None);
        };
        // Without a gateway there are no requests that could be lost.
        let Ok(mut client) = Client::connect(socket) else {
            return Ok(None);
        };
        let status = client
            .status()
            .map_err(failed(socket, "ask for the status"))?;
        let mut spots = Vec::new();
        for port in &definition.ports {
            // One that does not run has no address, and no traffic either.
            let Ok(address) = endpoint(engine, container, port.target) else {
                continue;
            };
            spots.extend(spots_of(&status, service, port.target, address));
        }
        Ok((!spots.is_empty()).then(|| Self {
            client,
            socket: socket.to_owned(),
            spots,
            drain,
            holds: false,
        }))
    }

    /// The fresh container answers instead of the old one, which still runs: returns once nothing is
    /// in flight on the old one, or its time is over.
    pub fn shift(&mut self, engine: &dyn Engine, fresh: &Container) -> Result<()> {
        let mut moved = Vec::new();
        for spot in &self.spots {
            moved.push((spot.clone(), endpoint(engine, fresh, spot.port)?));
        }
        for (spot, to) in &moved {
            let status = self.status()?;
            let has = status.services.get(&spot.service);
            let Some(has) = has.and_then(|service| service.revisions.get(&spot.revision)) else {
                continue;
            };
            let mut addresses: BTreeSet<SocketAddr> = has
                .endpoints
                .iter()
                .map(|endpoint| endpoint.address)
                .collect();
            addresses.remove(&spot.address);
            addresses.insert(*to);
            let addresses = addresses.into_iter().collect();
            self.client
                .revision(&spot.service, &spot.revision, addresses)
                .map_err(failed(&self.socket, "move the container's traffic"))?;
        }
        self.wait_until(self.drain, |_, revision| revision.leaving == 0)
    }

    /// New requests wait from now on; returns once nothing is in flight on the old container, or its
    /// time is over.
    pub fn hold(&mut self) -> Result<()> {
        self.holds = true;
        for spot in self.spots.clone() {
            self.client
                .pause(&spot.service, LONGEST_HOLD)
                .map_err(failed(&self.socket, "let requests wait"))?;
        }
        self.wait_until(self.drain, |spot, revision| {
            let mut endpoints = revision.endpoints.iter();
            !endpoints.any(|one| one.address == spot.address && one.in_flight > 0)
        })
    }

    /// What waited goes on: to the fresh container, or to the old one where it was put back.
    pub fn release(&mut self, engine: &dyn Engine, container: &Container) -> Result<()> {
        if !std::mem::take(&mut self.holds) {
            return Ok(());
        }
        self.shift(engine, container)?;
        // While nothing listened the gateway may have come to think that nobody is there.
        self.wait_until(BELIEVED, |_, revision| {
            revision.endpoints.iter().any(|one| one.up && !one.ejected)
        })?;
        for spot in self.spots.clone() {
            self.client
                .resume(&spot.service)
                .map_err(failed(&self.socket, "let requests go on"))?;
        }
        Ok(())
    }

    fn status(&mut self) -> Result<Status> {
        let failed = failed(&self.socket, "ask for the status");
        self.client.status().map_err(failed)
    }

    /// Looks until it holds at every spot, or the time is over.
    fn wait_until(
        &mut self,
        limit: Duration,
        holds: impl Fn(&Spot, &RevisionStatus) -> bool,
    ) -> Result<()> {
        let began = Instant::now();
        loop {
            let status = self.status()?;
            let is_done = self.spots.iter().all(|spot| {
                let service = status.services.get(&spot.service);
                let revision = service.and_then(|found| found.revisions.get(&spot.revision));
                revision.is_none_or(|revision| holds(spot, revision))
            });
            if is_done || began.elapsed() >= limit {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Where the gateway sends requests to this address of the service.
fn spots_of(status: &Status, service: &str, port: u16, address: SocketAddr) -> Vec<Spot> {
    let ours = status
        .services
        .iter()
        .filter(|(name, _)| belongs(Some(name.as_str()), service));
    let mut spots = Vec::new();
    for (name, found) in ours {
        for (revision, status) in &found.revisions {
            if status.endpoints.iter().any(|one| one.address == address) {
                spots.push(Spot {
                    service: name.clone(),
                    revision: revision.clone(),
                    port,
                    address,
                });
            }
        }
    }
    spots
}

fn failed(socket: &Path, action: &str) -> impl FnOnce(GatewayError) -> RolloutError + use<> {
    let (socket, action) = (socket.to_owned(), action.to_owned());
    move |source| RolloutError::Gateway {
        action,
        socket,
        source,
    }
}
