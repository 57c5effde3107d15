//! Networks of containers: a bridge each on the host, addresses, ports, names.
//!
//! ```text
//!  start ─▶ table.rs   an address, in a transaction of state.db
//!        ─▶ ports.rs   the host's ports, bound until the shim ends
//!        ─▶ bridge.rs  the bridge and the kernel's settings, if missing
//!        ─▶ resolver/  the process that knows the network's names, if none runs
//!        ─▶ rules.rs   one table of the packet filter, written whole when it would differ
//!        ─▶ shim ─▶ wiring.rs  the cables, laid from inside the new namespace
//!  network connect, disconnect ─▶ joining.rs  the same for a container that runs
//! ```
//!
//! `state.db` says what should be; bridge and rules are made to agree before every start. A place
//! in a network belongs to a run: it counts for as long as the container's status is locked, and
//! one whose run has ended is taken back by whoever comes next. The cable needs no care, for the
//! kernel removes it with the container's namespace.
//!
//! Each state root has a table of its own, `invar` for the usual one, and never touches another.

mod bridge;
mod facts;
#[cfg(fuzzing)]
pub mod fuzzing;
mod joining;
mod manage;
mod names;
mod ports;
pub(super) mod resolver;
mod rules;
mod subnet;
mod table;
mod wiring;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use invar_image::state::Database;
use rusqlite::Connection;
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

pub use self::facts::{ForeignChain, NetworkFacts};
pub(super) use self::joining::Running;
pub use self::manage::{NetworkInfo, NetworkOptions};
use self::names::HostResolver;
use self::table::{EndpointRow, NetworkRow};
pub(super) use self::wiring::Wiring;
use super::layout::{self, Layout};
use super::registry::Entry;
use super::runtime::spec;
use super::status::Status;
use crate::config::{Membership, Network, Networking, Protocol};
use crate::container::{ContainerId, Endpoint, hex};
use crate::error::{EngineError, Result};

/// The network of containers that ask for no other.
pub const DEFAULT_NETWORK: &str = "bridge";

/// Whether this host has what networks of containers need.
pub fn has_bridges() -> bool {
    rules::program().is_some()
}

/// The state root whose bridge and table have the plain names.
const USUAL_ROOT: &str = "/var/lib/invar";
/// Held while bridges and rules are changed, by every state root of this machine.
const LOCK: &str = "/run/invar/network.lock";

/// The networks of one state root.
#[derive(Debug)]
pub(super) struct Networks {
    layout: Layout,
    database: Database,
}

/// A network and a container's place in it.
type Place = (NetworkRow, EndpointRow);

/// A container's places in networks, until its run has ended.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) wiring: Vec<Wiring>,
    /// Ports of the host, for the shim to hold.
    pub(super) ports: Vec<OwnedFd>,
    /// The files in `/etc`.
    pub(super) hosts: String,
    pub(super) resolver: String,
}

impl Networks {
    pub(super) fn open(layout: &Layout, database: &Database) -> Result<Self> {
        database.migrate(table::COMPONENT, table::MIGRATIONS)?;
        Ok(Self {
            layout: layout.clone(),
            database: database.clone(),
        })
    }

    /// For a role that does nothing else with the state.
    pub(super) fn open_alone(layout: &Layout) -> Result<Self> {
        Self::open(layout, &Database::open(layout.root())?)
    }

    /// Gives a container about to be started its places in networks. Its status must be locked.
    pub(super) fn attach(&self, entry: &Entry, first: &str) -> Result<Attached> {
        let networking = &entry.config.networking;
        let wanted = self.wanted(networking, first)?;
        let held = ports::hold(&networking.ports)?;
        let places = self.database.write(|transaction| -> Result<_> {
            self.sweep(transaction, Some(&entry.id))?;
            table::delete_endpoints(transaction, &entry.id)?;
            refuse_collisions(transaction, &held.ports)?;
            let mut places = Vec::with_capacity(wanted.len());
            for ((network, membership), position) in wanted.into_iter().zip(0..) {
                let mut endpoint =
                    self::place(transaction, entry, &network, &membership, position)?;
                if position == 0 {
                    endpoint.ports.clone_from(&held.ports);
                }
                table::insert_endpoint(transaction, &endpoint)?;
                places.push((network, endpoint));
            }
            Ok(places)
        })?;
        if let Err(error) = self.realize(&places) {
            // The error that stopped it matters more than what taking it back says.
            self.release(&entry.id).ok();
            return Err(error);
        }
        let (hosts, resolver) = files(entry, &places);
        let wiring = places.iter();
        Ok(Attached {
            wiring: wiring
                .map(|(network, endpoint)| Wiring::new(network, endpoint))
                .collect(),
            ports: held.handles,
            hosts,
            resolver,
        })
    }

    /// The networks a container is to be in, and how it is found there; the first has its ports.
    fn wanted(
        &self,
        networking: &Networking,
        first: &str,
    ) -> Result<Vec<(NetworkRow, Membership)>> {
        let first = Membership {
            network: first.to_owned(),
            aliases: networking.aliases.clone(),
            address: networking.address,
        };
        let mut wanted = Vec::with_capacity(1 + networking.further.len());
        for membership in std::iter::once(&first).chain(&networking.further) {
            let network = self.find_or_default(&membership.network)?;
            if wanted.is_empty() && network.internal && !networking.ports.is_empty() {
                return Err(EngineError::InvalidConfig {
                    what: "published ports".to_owned(),
                    reason: format!(
                        "the network {:?} is internal; nothing outside reaches its containers",
                        membership.network
                    ),
                });
            }
            wanted.push((network, membership.clone()));
        }
        Ok(wanted)
    }

    /// Makes bridges and rules agree with the state, with new endpoints in it.
    fn realize(&self, places: &[Place]) -> Result<()> {
        let lock = lock()?;
        for (network, _) in places {
            bridge::ensure(network)?;
            if has_resolver(network) {
                resolver::ensure(self, network)?;
            }
        }
        self.apply_rules()?;
        drop(lock);
        for (network, endpoint) in places {
            forget_flows(network, endpoint);
        }
        Ok(())
    }

    /// Takes a container's places back. What the kernel kept for them goes by itself.
    pub(super) fn release(&self, id: &ContainerId) -> Result<()> {
        let places = self.with(|connection| {
            let places = places_of(connection, id)?;
            table::delete_endpoints(connection, id)?;
            Ok(places)
        })?;
        if places.is_empty() {
            return Ok(());
        }
        let lock = lock()?;
        self.apply_rules()?;
        drop(lock);
        for (network, endpoint) in &places {
            forget_flows(network, endpoint);
        }
        Ok(())
    }

    /// The same for a container whose start failed, unless it runs: somebody else had started it.
    pub(super) fn release_if_dead(&self, id: &ContainerId) -> Result<()> {
        if self.is_live(id)? {
            return Ok(());
        }
        self.release(id)
    }

    /// The files of a running container, for another in its namespace.
    pub(super) fn files_of(&self, entry: &Entry) -> Result<(String, String)> {
        let networking = &entry.config.networking;
        let places = self.with(|connection| places_of(connection, &entry.id))?;
        Ok(match &entry.config.network {
            _ if !places.is_empty() => files(entry, &places),
            Network::Host => files_of_host(networking),
            _ => files_without(spec::hostname(&entry.id, &entry.config), networking),
        })
    }

    /// By which names beside its own a container is found from now on, until its run ends.
    pub(super) fn set_aliases(&self, id: &ContainerId, aliases: &[String]) -> Result<()> {
        self.database
            .write(|transaction| table::set_aliases(transaction, id, aliases))
    }

    /// The places of a container, if its run has any.
    pub(super) fn endpoints_of(&self, id: &ContainerId) -> Result<Vec<Endpoint>> {
        let places = self.with(|connection| places_of(connection, id))?;
        let seen = places.iter().map(|(network, row)| network.endpoint(row));
        Ok(seen.collect())
    }

    /// The places of all containers.
    pub(super) fn endpoints(&self) -> Result<HashMap<ContainerId, Vec<Endpoint>>> {
        self.with(|connection| {
            let networks = table::networks(connection)?;
            let mut found: HashMap<_, Vec<_>> = HashMap::new();
            let mut rows = table::endpoints(connection)?;
            rows.sort_by_key(|row| row.position);
            for row in rows {
                let network = networks.iter().find(|network| network.id == row.network);
                let endpoint = network.map(|network| network.endpoint(&row));
                found.entry(row.container).or_default().extend(endpoint);
            }
            Ok(found)
        })
    }

    /// Starts the resolvers that were killed while their networks were in use.
    pub(super) fn mend(&self) -> Result<()> {
        let (networks, endpoints) = self.rows()?;
        for network in networks {
            let is_used = endpoints.iter().any(|row| row.network == network.id);
            if is_used && has_resolver(&network) && !resolver::is_running(&self.layout, &network)? {
                let _lock = lock()?;
                resolver::ensure(self, &network)?;
                self.apply_rules()?;
            }
        }
        Ok(())
    }

    /// Takes back the places of all runs that have ended.
    fn sweep_all(&self) -> Result<()> {
        let swept = self
            .database
            .write(|transaction| self.sweep(transaction, None))?;
        if !swept {
            return Ok(());
        }
        let _lock = lock()?;
        self.apply_rules()
    }

    /// Forgets the places of runs that have ended without taking theirs back: their shims were
    /// killed. Whether there were any.
    fn sweep(&self, connection: &Connection, except: Option<&ContainerId>) -> Result<bool> {
        let mut found = false;
        for row in table::endpoints(connection)? {
            let is_mine = except == Some(&row.container);
            if !is_mine && !self.is_live(&row.container)? {
                found |= table::delete_endpoints(connection, &row.container)?;
            }
        }
        Ok(found)
    }

    /// Whether a run of the container is under way.
    fn is_live(&self, id: &ContainerId) -> Result<bool> {
        match Status::open(&self.layout.container(id)) {
            Ok(status) => status.is_locked(),
            Err(EngineError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The lock must be held.
    fn apply_rules(&self) -> Result<()> {
        let (networks, endpoints) = self.rows()?;
        rules::apply(&self.rules_table(), &networks, &endpoints)
    }

    fn rows(&self) -> Result<(Vec<NetworkRow>, Vec<EndpointRow>)> {
        self.with(|connection| {
            let networks = table::networks(connection)?;
            Ok((networks, table::endpoints(connection)?))
        })
    }

    /// The name of this root's table.
    fn rules_table(&self) -> String {
        match self.suffix() {
            None => "invar".to_owned(),
            Some(suffix) => format!("invar-{suffix}"),
        }
    }

    /// What tells this root's names from the usual root's.
    fn suffix(&self) -> Option<String> {
        let root = self.layout.root();
        (root != Path::new(USUAL_ROOT)).then(|| {
            let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
            hex(&digest)[..8].to_owned()
        })
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        work(&self.database.connection())
    }
}

/// A container's networks and its places there, `eth0` first.
fn places_of(connection: &Connection, id: &ContainerId) -> Result<Vec<Place>> {
    let rows = table::endpoints_of(connection, id)?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let networks = table::networks(connection)?;
    let places = rows.into_iter().filter_map(|row| {
        let network = networks.iter().find(|other| other.id == row.network)?;
        Some((network.clone(), row))
    });
    Ok(places.collect())
}

/// A place for a container, with an address nobody has.
fn place(
    transaction: &Connection,
    entry: &Entry,
    network: &NetworkRow,
    membership: &Membership,
    position: u32,
) -> Result<EndpointRow> {
    Ok(EndpointRow {
        container: entry.id.clone(),
        network: network.id.clone(),
        position,
        offset: table::allocate(transaction, network, &entry.id, membership.address)?,
        aliases: membership.aliases.clone(),
        ports: Vec::new(),
        dns: entry.config.networking.dns.clone(),
    })
}

/// Lets senders of datagrams that were there before the container, or still are after it, find
/// their way by the rules that hold from here on.
fn forget_flows(network: &NetworkRow, endpoint: &EndpointRow) {
    let ports = endpoint.ports.iter();
    let ports: Vec<u16> = ports
        .filter(|port| port.protocol == Protocol::Udp)
        .map(|port| port.host)
        .collect();
    if ports.is_empty() {
        return;
    }
    let seen = network.endpoint(endpoint);
    let addresses = [
        seen.address.map(|(address, _)| IpAddr::V4(address)),
        seen.address6.map(|(address, _)| IpAddr::V6(address)),
    ];
    let addresses: Vec<IpAddr> = addresses.into_iter().flatten().collect();
    // The kernel forgets them by itself, a minute or two after the last datagram.
    invar_sys::network::forget_datagrams(&ports, &addresses).ok();
}

/// Two containers of which neither holds the other's port, for example because one of them is
/// only reached in version 6.
fn refuse_collisions(
    connection: &Connection,
    wanted: &[crate::config::PublishedPort],
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    for other in table::endpoints(connection)? {
        for port in wanted {
            if other.ports.iter().any(|taken| ports::collide(port, taken)) {
                return Err(EngineError::PortTaken {
                    port: ports::describe(port),
                });
            }
        }
    }
    Ok(())
}

/// Whether containers of a network ask a resolver of ours: for each other's names, and where the
/// host's servers can be reached by the host alone.
fn has_resolver(network: &NetworkRow) -> bool {
    network.name != DEFAULT_NETWORK
        || (HostResolver::read().servers.is_empty() && !HostResolver::of_host().servers.is_empty())
}

/// `hosts` and `resolv.conf` of a container with these places.
fn files(entry: &Entry, places: &[Place]) -> (String, String) {
    let networking = &entry.config.networking;
    let seen = places.iter().map(|(network, row)| network.endpoint(row));
    let addresses: Vec<IpAddr> = seen
        .flat_map(|seen| {
            let address = seen.address.map(|(address, _)| IpAddr::V4(address));
            let address6 = seen.address6.map(|(address, _)| IpAddr::V6(address));
            [address, address6]
        })
        .flatten()
        .collect();
    let gateway = |network: &NetworkRow| IpAddr::V4(network.subnet.gateway());
    // Each knows the names of all networks of whoever asks; one of them is enough.
    let resolver = places.iter().find(|(network, _)| has_resolver(network));
    let host = HostResolver::read();
    let servers = if let Some((network, _)) = resolver {
        vec![gateway(network)]
    } else if networking.dns.is_empty() {
        host.servers.clone()
    } else {
        networking.dns.clone()
    };
    let name = spec::hostname(&entry.id, &entry.config);
    let first = places.first().map(|(network, _)| gateway(network));
    (
        names::hosts_file(name, &addresses, first, networking),
        names::resolver_file(&servers, networking, &host),
    )
}

/// The files of a container without a network of its own making.
pub(super) fn files_without(name: &str, networking: &Networking) -> (String, String) {
    let host = HostResolver::default();
    (
        names::hosts_file(name, &[], None, networking),
        names::resolver_file(&networking.dns, networking, &host),
    )
}

/// The files of a container in the host's network.
pub(super) fn files_of_host(networking: &Networking) -> (String, String) {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    let mut hosts = read("/etc/hosts");
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    let local = Some(IpAddr::from([127, 0, 0, 1]));
    hosts.push_str(&names::host_lines(local, networking));
    let resolver = if networking.dns.is_empty() && networking.dns_search.is_empty() {
        read("/etc/resolv.conf")
    } else {
        let host = HostResolver::of_host();
        let servers = if networking.dns.is_empty() {
            &host.servers
        } else {
            &networking.dns
        };
        names::resolver_file(servers, networking, &host)
    };
    (hosts, resolver)
}

/// Waits for the machine's lock on bridges and rules; it ends with the handle.
fn lock() -> Result<fs::File> {
    let path = Path::new(LOCK);
    let failed = |source| EngineError::io("lock", path, source);
    layout::make_private(path.parent().unwrap_or(path))?;
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|errno| failed(errno.into()))?;
    Ok(file)
}
