//! Making, listing and removing networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use invar_sys::network::Routing;
use jiff::Timestamp;
use serde::Serialize;

use super::subnet::{self, PREFIX6, Subnet};
use super::table::{self, NetworkRow};
use super::{DEFAULT_NETWORK, Networks, bridge, lock, resolver};
use crate::container::{ContainerId, ContainerName, Endpoint};
use crate::error::{EngineError, Result};

/// Bits that name the network: 4093 containers, and 253.
const DEFAULT_PREFIX: u8 = 20;
const USER_PREFIX: u8 = 24;
/// Names with a meaning of their own.
const RESERVED: [&str; 4] = ["none", "host", "default", "container"];
/// Each network is a bridge and a dozen rules that every packet meets.
const MOST: usize = 256;

/// What a new network is asked to be.
#[derive(Debug, Clone, Default)]
pub struct NetworkOptions {
    /// `10.1.2.0/24`; a free one otherwise.
    pub subnet: Option<String>,
    /// `fd00:1::/64`; a random one otherwise.
    pub subnet6: Option<String>,
    /// Whether its containers have version 6 addresses too.
    pub ipv6: bool,
    /// Whether they reach nothing but each other.
    pub internal: bool,
    /// Kept, never interpreted.
    pub labels: BTreeMap<String, String>,
}

/// A network and who is in it.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkInfo {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its link on the host.
    pub bridge: String,
    /// Its addresses: `10.1.2.0/24`.
    pub subnet: String,
    /// The host's address in it.
    pub gateway: Ipv4Addr,
    /// Its version 6 addresses.
    pub subnet6: Option<String>,
    /// The host's version 6 address in it.
    pub gateway6: Option<Ipv6Addr>,
    /// Whether its containers reach nothing but each other.
    pub internal: bool,
    /// As given when it was made.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The running containers in it: id, name, place.
    pub containers: Vec<(ContainerId, String, Endpoint)>,
}

impl Networks {
    /// Makes a network.
    pub(in crate::embedded) fn create(
        &self,
        name: &str,
        options: &NetworkOptions,
    ) -> Result<String> {
        ContainerName::parse(name)?;
        if RESERVED.contains(&name) || name == DEFAULT_NETWORK {
            return Err(EngineError::InvalidConfig {
                what: format!("the name {name:?}"),
                reason: "it has a meaning of its own; choose another".to_owned(),
            });
        }
        self.insert(name, options, USER_PREFIX).map(|row| row.id)
    }

    fn insert(&self, name: &str, options: &NetworkOptions, prefix: u8) -> Result<NetworkRow> {
        let _lock = lock()?;
        let routed = Routing::open()
            .and_then(|routing| routing.destinations())
            .map_err(|error| EngineError::Runtime {
                action: "read the host's routes",
                reason: error.to_string(),
            })?;
        let row = self.database.write(|transaction| {
            let others = table::networks(transaction)?;
            if let Some(holder) = others.iter().find(|other| other.name == name) {
                return match name {
                    // Two containers were the first at once.
                    DEFAULT_NETWORK => Ok(holder.clone()),
                    _ => Err(EngineError::InvalidConfig {
                        what: format!("the name {name:?}"),
                        reason: format!("the network {} has it", &holder.id[..12]),
                    }),
                };
            }
            if others.len() >= MOST {
                return Err(EngineError::InvalidConfig {
                    what: "one more network".to_owned(),
                    reason: format!(
                        "there are {MOST} already; remove some with: invar network prune"
                    ),
                });
            }
            let row = self.new_row(name, options, prefix, &others, &routed)?;
            table::insert_network(transaction, &row)?;
            Ok(row)
        })?;
        // Before the lock goes: its route is how others, of another state root too, see that the
        // addresses are taken.
        bridge::ensure(&row)?;
        Ok(row)
    }

    fn new_row(
        &self,
        name: &str,
        options: &NetworkOptions,
        prefix: u8,
        others: &[NetworkRow],
        routed: &[(IpAddr, u8)],
    ) -> Result<NetworkRow> {
        let id = table::random_id();
        let bridge = match (name, self.suffix()) {
            (DEFAULT_NETWORK, None) => "invar0".to_owned(),
            _ => format!("invar-{}", &id[..8]),
        };
        let mut taken = subnet::of_routes(routed);
        taken.extend(others.iter().map(|other| other.subnet));
        Ok(NetworkRow {
            subnet: choose(options, prefix, &taken)?,
            subnet6: choose6(options, others)?,
            id,
            name: name.to_owned(),
            bridge,
            internal: options.internal,
            labels: options.labels.clone(),
            created_at: Timestamp::now(),
            resolver_port: None,
        })
    }

    /// The network of this name; the default one is made when first asked for.
    pub(super) fn find_or_default(&self, name: &str) -> Result<NetworkRow> {
        match self.with(|connection| table::find(connection, name)) {
            Err(EngineError::NetworkNotFound { .. }) if name == DEFAULT_NETWORK => {
                let options = NetworkOptions {
                    ipv6: bridge::has_ipv6(),
                    ..NetworkOptions::default()
                };
                self.insert(name, &options, DEFAULT_PREFIX)
            }
            found => found,
        }
    }

    /// Whether a container can be put into the network.
    pub(in crate::embedded) fn require(&self, name: &str) -> Result<()> {
        match name {
            DEFAULT_NETWORK => Ok(()),
            name => self
                .with(|connection| table::find(connection, name))
                .map(drop),
        }
    }

    /// Every network, oldest first.
    pub(in crate::embedded) fn list(&self) -> Result<Vec<NetworkInfo>> {
        self.sweep_all()?;
        self.mend()?;
        self.with(|connection| {
            let endpoints = table::endpoints(connection)?;
            let names = table::container_names(connection)?;
            let describe = |network: NetworkRow| {
                let inside = endpoints.iter().filter(|row| row.network == network.id);
                let containers = inside.map(|row| {
                    let id = row.container.as_str();
                    let name = names.iter().find(|(other, _)| other == id);
                    let name = name.map_or_else(|| id.to_owned(), |(_, name)| name.clone());
                    (row.container.clone(), name, network.endpoint(row))
                });
                let containers = containers.collect();
                NetworkInfo {
                    gateway: network.subnet.gateway(),
                    gateway6: network.gateway6(),
                    subnet: network.subnet.to_string(),
                    subnet6: network.subnet6.map(|first| format!("{first}/{PREFIX6}")),
                    id: network.id,
                    name: network.name,
                    bridge: network.bridge,
                    internal: network.internal,
                    labels: network.labels,
                    created_at: network.created_at,
                    containers,
                }
            };
            Ok(table::networks(connection)?
                .into_iter()
                .map(describe)
                .collect())
        })
    }

    /// Removes a network that no running container is in, with its bridge and rules.
    pub(in crate::embedded) fn remove(&self, name: &str) -> Result<String> {
        let _lock = lock()?;
        let row = self.database.write(|transaction| {
            self.sweep(transaction, None)?;
            let row = table::find(transaction, name)?;
            let endpoints = table::endpoints(transaction)?;
            let names = table::container_names(transaction)?;
            let inside: Vec<&str> = endpoints
                .iter()
                .filter(|endpoint| endpoint.network == row.id)
                .filter_map(|endpoint| {
                    let id = endpoint.container.as_str();
                    let found = names.iter().find(|(other, _)| other == id);
                    found.map(|(_, name)| name.as_str())
                })
                .collect();
            if !inside.is_empty() {
                return Err(EngineError::NetworkInUse {
                    name: row.name,
                    containers: inside.join(", "),
                });
            }
            table::delete_network(transaction, &row.id)?;
            Ok(row)
        })?;
        bridge::remove(&row.bridge)?;
        resolver::forget(&self.layout, &row);
        self.apply_rules()?;
        Ok(row.name)
    }
}

fn choose(options: &NetworkOptions, prefix: u8, taken: &[Subnet]) -> Result<Subnet> {
    let Some(text) = &options.subnet else {
        return Subnet::free(prefix, taken).ok_or_else(|| EngineError::InvalidConfig {
            what: "a subnet for the network".to_owned(),
            reason: "every range it could have overlaps a route of this host; name one with \
                     --subnet"
                .to_owned(),
        });
    };
    let refused = |reason: String| EngineError::InvalidConfig {
        what: format!("--subnet {text}"),
        reason,
    };
    let subnet: Subnet = text.parse().map_err(refused)?;
    match taken.iter().find(|other| other.overlaps(subnet)) {
        Some(other) => Err(refused(format!(
            "it overlaps {other}, which this host or another network uses"
        ))),
        None => Ok(subnet),
    }
}

fn choose6(options: &NetworkOptions, others: &[NetworkRow]) -> Result<Option<Ipv6Addr>> {
    if !options.ipv6 && options.subnet6.is_none() {
        return Ok(None);
    }
    if !bridge::has_ipv6() {
        return Err(EngineError::Unsupported {
            what: "a network with IPv6".to_owned(),
            reason: "the kernel has it switched off".to_owned(),
        });
    }
    let Some(text) = &options.subnet6 else {
        return Ok(Some(subnet::random6()));
    };
    let refused = |reason: String| EngineError::InvalidConfig {
        what: format!("--subnet {text}"),
        reason,
    };
    let first = subnet::parse6(text).map_err(refused)?;
    match others.iter().find(|other| other.subnet6 == Some(first)) {
        Some(other) => Err(refused(format!("the network {:?} has it", other.name))),
        None => Ok(Some(first)),
    }
}
