//! The names of one network, as the state database has them at this moment.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use rusqlite::Connection;

use super::super::DEFAULT_NETWORK;
use super::super::table::{self, EndpointRow, NetworkRow};
use super::message::{A, AAAA, Code, PTR, Query};
use crate::error::Result;

/// Who is in the network, by name and by address.
#[derive(Debug, Default)]
pub(super) struct Directory {
    names: HashMap<String, Vec<u32>>,
    containers: HashMap<u32, Known>,
    /// Other networks that some of them are in too.
    others: HashMap<String, (NetworkRow, Directory)>,
}

#[derive(Debug)]
struct Known {
    name: String,
    /// Servers it asked to be asked for it.
    servers: Vec<IpAddr>,
    /// Ids of the other networks it is in, the default one too.
    others: Vec<String>,
    /// Whether one of those has a way out.
    has_way_out: bool,
}

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This is the answer.
    Answer(Vec<u8>),
    /// Ask outside: these servers, or the host's when there are none.
    Forward(Vec<IpAddr>),
}

impl Directory {
    /// Reads the network's containers.
    pub(super) fn read(connection: &Connection, network: &NetworkRow) -> Result<Self> {
        let (own, foreign): (Vec<_>, Vec<_>) = table::endpoints(connection)?
            .into_iter()
            .partition(|row| row.network == network.id);
        let names: HashMap<String, String> =
            table::container_names(connection)?.into_iter().collect();
        let mut directory = Self::of(&own, &names, &network.name);
        let offsets: HashMap<&str, u32> = own
            .iter()
            .map(|row| (row.container.as_str(), row.offset))
            .collect();
        let is_shared = foreign
            .iter()
            .any(|row| offsets.contains_key(row.container.as_str()));
        if is_shared {
            let networks = table::networks(connection)?;
            directory.add_others(&offsets, &foreign, &names, networks);
        }
        Ok(directory)
    }

    /// Adds what the containers that are in further networks find there.
    fn add_others(
        &mut self,
        offsets: &HashMap<&str, u32>,
        foreign: &[EndpointRow],
        names: &HashMap<String, String>,
        networks: Vec<NetworkRow>,
    ) {
        for network in networks {
            let inside = foreign.iter().filter(|row| row.network == network.id);
            let rows: Vec<EndpointRow> = inside.cloned().collect();
            let mut is_shared = false;
            for row in &rows {
                let offset = offsets.get(row.container.as_str());
                if let Some(known) = offset.and_then(|offset| self.containers.get_mut(offset)) {
                    known.others.push(network.id.clone());
                    known.has_way_out |= !network.internal;
                    is_shared = true;
                }
            }
            // The default network has no names.
            if is_shared && network.name != DEFAULT_NETWORK {
                let other = Self::of(&rows, names, &network.name);
                self.others.insert(network.id.clone(), (network, other));
            }
        }
    }

    fn of(rows: &[EndpointRow], names: &HashMap<String, String>, network: &str) -> Self {
        let mut directory = Self::default();
        for row in rows {
            let id = row.container.as_str();
            let name = names.get(id).map_or(id, String::as_str);
            let aliases = row.aliases.iter().map(String::as_str);
            for known in [name, row.container.short()].into_iter().chain(aliases) {
                let known = known.to_ascii_lowercase();
                let full = format!("{known}.{}", network.to_ascii_lowercase());
                for key in [known, full] {
                    directory.names.entry(key).or_default().push(row.offset);
                }
            }
            let known = Known {
                name: format!("{name}.{network}"),
                servers: row.dns.clone(),
                others: Vec::new(),
                has_way_out: false,
            };
            directory.containers.insert(row.offset, known);
        }
        directory
    }

    pub(super) fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }

    /// Decides on the query of a container; `None` for one that is not in the network.
    pub(super) fn decide(
        &self,
        network: &NetworkRow,
        client: IpAddr,
        query: &Query,
    ) -> Option<Verdict> {
        let IpAddr::V4(client) = client else {
            return None;
        };
        if !network.subnet.contains(client) {
            return None;
        }
        let client = self.containers.get(&network.subnet.offset(client))?;
        if let Some(answer) = self.local(network, query) {
            return Some(Verdict::Answer(answer));
        }
        let others = client.others.iter().filter_map(|id| self.others.get(id));
        for (other, directory) in others {
            if let Some(answer) = directory.local(other, query) {
                return Some(Verdict::Answer(answer));
            }
        }
        if network.internal && !client.has_way_out {
            // Names are a way out too.
            return Some(Verdict::Answer(query.reply(Code::NoSuchName)));
        }
        Some(Verdict::Forward(client.servers.clone()))
    }

    /// The answer when the name is one of the network.
    fn local(&self, network: &NetworkRow, query: &Query) -> Option<Vec<u8>> {
        let name = query.name.as_deref().filter(|_| query.is_internet())?;
        if let Some(address) = reverse(name) {
            return network
                .subnet
                .contains(address)
                .then(|| self.pointer(network, address, query));
        }
        let offsets = self.names.get(name)?;
        let mut addresses: Vec<IpAddr> = match query.kind {
            A => offsets
                .iter()
                .filter_map(|offset| network.subnet.container(*offset).map(IpAddr::V4))
                .collect(),
            AAAA => offsets
                .iter()
                .filter_map(|offset| Some(IpAddr::V6(network.address6(*offset)?)))
                .collect(),
            _ => Vec::new(),
        };
        addresses.sort();
        addresses.dedup();
        // Everybody takes the first: it must not always be the same.
        if addresses.len() > 1 {
            let first = rand::random_range(..addresses.len());
            addresses.rotate_left(first);
        }
        Some(query.addresses(&addresses))
    }

    fn pointer(&self, network: &NetworkRow, address: Ipv4Addr, query: &Query) -> Vec<u8> {
        let known = self.containers.get(&network.subnet.offset(address));
        match (known, query.kind) {
            (Some(known), PTR) => query.pointer(&known.name),
            (Some(_), _) => query.reply(Code::Done),
            (None, _) => query.reply(Code::NoSuchName),
        }
    }
}

/// The address that a name such as `2.0.208.10.in-addr.arpa` asks about.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut labels = name.strip_suffix(".in-addr.arpa")?.split('.');
    for octet in octets.iter_mut().rev() {
        *octet = labels.next()?.parse().ok()?;
    }
    labels.next().is_none().then(|| Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::container::ContainerId;

    fn network(internal: bool) -> NetworkRow {
        NetworkRow {
            id: "n".repeat(64),
            name: "front".to_owned(),
            bridge: "invar-1".to_owned(),
            subnet: "10.1.0.0/24".parse().unwrap(),
            subnet6: "fd00::".parse().ok(),
            internal,
            labels: std::collections::BTreeMap::default(),
            created_at: Timestamp::UNIX_EPOCH,
            resolver_port: None,
        }
    }

    fn directory() -> Directory {
        let row = |digit: &str, offset: u32, aliases: &[&str], dns: &[&str]| EndpointRow {
            container: ContainerId::try_from(digit.repeat(64)).unwrap(),
            network: "n".repeat(64),
            position: 0,
            offset,
            aliases: aliases.iter().copied().map(str::to_owned).collect(),
            ports: Vec::new(),
            dns: dns.iter().map(|server| server.parse().unwrap()).collect(),
        };
        let rows = [
            row("a", 2, &["web"], &[]),
            row("b", 3, &["web"], &["192.0.2.53"]),
        ];
        let names = [("a", "One"), ("b", "two")]
            .map(|(digit, name)| (digit.repeat(64), name.to_owned()))
            .into();
        Directory::of(&rows, &names, "front")
    }

    fn ask(name: &str, kind: u16) -> Query {
        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        Query::parse(&bytes).unwrap()
    }

    fn answer(network: &NetworkRow, name: &str, kind: u16) -> Vec<u8> {
        let client = "10.1.0.2".parse().unwrap();
        match directory().decide(network, client, &ask(name, kind)) {
            Some(Verdict::Answer(bytes)) => bytes,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn containers_are_found_by_every_name_they_have() {
        let network = network(false);
        for name in [
            "one",
            "ONE",
            "one.front",
            "aaaaaaaaaaaa",
            "aaaaaaaaaaaa.front",
        ] {
            let bytes = answer(&network, name, A);
            assert!(bytes.ends_with(&[10, 1, 0, 2]), "{name}: {bytes:?}");
        }
        assert!(answer(&network, "two", AAAA).ends_with(&[0, 3]));
        assert_eq!(answer(&network, "web", A)[7], 2, "both have the alias");
        let other_kind = answer(&network, "two", 15);
        assert_eq!(
            (other_kind[3] & 15, other_kind[7]),
            (0, 0),
            "the name is there"
        );
        let text = answer(&network, "3.0.1.10.in-addr.arpa", PTR);
        assert!(text.ends_with(b"\x03two\x05front\0"), "{text:?}");
        let unknown = answer(&network, "9.0.1.10.in-addr.arpa", PTR);
        assert_eq!(unknown[3] & 15, 3);
    }

    #[test]
    fn other_names_are_asked_outside_and_strangers_are_not_answered() {
        let open = network(false);
        let directory = directory();
        let decide = |network: &NetworkRow, client: &str, name: &str| {
            directory.decide(network, client.parse().unwrap(), &ask(name, A))
        };
        assert_eq!(
            decide(&open, "10.1.0.2", "example.org"),
            Some(Verdict::Forward(Vec::new()))
        );
        assert_eq!(
            decide(&open, "10.1.0.3", "4.3.2.1.in-addr.arpa"),
            Some(Verdict::Forward(vec!["192.0.2.53".parse().unwrap()]))
        );
        for stranger in ["10.1.0.1", "10.1.0.9", "10.2.0.2", "fd00::2"] {
            assert_eq!(decide(&open, stranger, "one"), None, "{stranger}");
        }
        let closed = network(true);
        let Some(Verdict::Answer(bytes)) = decide(&closed, "10.1.0.2", "example.org") else {
            panic!("an internal network asked outside");
        };
        assert_eq!(bytes[3] & 15, 3);
    }
}
