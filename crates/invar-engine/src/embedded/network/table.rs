//! Networks, and who is in them: rows of `state.db`, changed in transactions only, so that no two
//! containers ever get one address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde::de::DeserializeOwned;

use super::subnet::{PREFIX6, Subnet, at6};
use crate::config::PublishedPort;
use crate::container::{ContainerId, Endpoint, hex};
use crate::error::{EngineError, Result};

pub(super) const COMPONENT: &str = "network";
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE networks (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, bridge TEXT NOT NULL UNIQUE,
        subnet TEXT NOT NULL, subnet6 TEXT, internal INTEGER NOT NULL, labels TEXT NOT NULL,
        created_at TEXT NOT NULL, last_offset INTEGER NOT NULL, resolver_port INTEGER
    );
    CREATE TABLE endpoints (
        container TEXT PRIMARY KEY, network TEXT NOT NULL REFERENCES networks (id),
        offset INTEGER NOT NULL, aliases TEXT NOT NULL, ports TEXT NOT NULL, dns TEXT NOT NULL,
        UNIQUE (network, offset)
    );
",
    "
    ALTER TABLE endpoints RENAME TO endpoints_of_one_network;
    CREATE TABLE endpoints (
        container TEXT NOT NULL, network TEXT NOT NULL REFERENCES networks (id),
        position INTEGER NOT NULL, offset INTEGER NOT NULL, aliases TEXT NOT NULL,
        ports TEXT NOT NULL, dns TEXT NOT NULL,
        PRIMARY KEY (container, network), UNIQUE (container, position), UNIQUE (network, offset)
    );
    INSERT INTO endpoints SELECT container, network, 0, offset, aliases, ports, dns
        FROM endpoints_of_one_network;
    DROP TABLE endpoints_of_one_network;
",
    "
    CREATE TABLE last_places (
        container TEXT NOT NULL, network TEXT NOT NULL, offset INTEGER NOT NULL,
        PRIMARY KEY (container, network)
    );
",
];

/// A network of this state root.
#[derive(Debug, Clone)]
pub(super) struct NetworkRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) bridge: String,
    pub(super) subnet: Subnet,
    /// The first address of its version 6 range.
    pub(super) subnet6: Option<Ipv6Addr>,
    /// Whether its containers reach each other only.
    pub(super) internal: bool,
    pub(super) labels: std::collections::BTreeMap<String, String>,
    pub(super) created_at: Timestamp,
    /// Where its resolver was last reached.
    pub(super) resolver_port: Option<u16>,
}

/// A container's place in a network.
#[derive(Debug, Clone)]
pub(super) struct EndpointRow {
    pub(super) container: ContainerId,
    pub(super) network: String,
    /// Its number among the container's places: `eth0`, `eth1`, …
    pub(super) position: u32,
    pub(super) offset: u32,
    pub(super) aliases: Vec<String>,
    pub(super) ports: Vec<PublishedPort>,
    /// Name servers for it alone.
    pub(super) dns: Vec<IpAddr>,
}

impl NetworkRow {
    pub(super) fn gateway6(&self) -> Option<Ipv6Addr> {
        self.address6(1)
    }

    /// The version 6 address that goes with a version 4 one so far from the beginning.
    pub(super) fn address6(&self, offset: u32) -> Option<Ipv6Addr> {
        self.subnet6.map(|first| at6(first, offset))
    }

    /// What others see of a place in it.
    pub(super) fn endpoint(&self, row: &EndpointRow) -> Endpoint {
        let address = self.subnet.container(row.offset);
        Endpoint {
            network: self.name.clone(),
            address: address.map(|address| (address, self.subnet.prefix())),
            gateway: Some(self.subnet.gateway()),
            address6: self.subnet6.map(|first| (at6(first, row.offset), PREFIX6)),
            gateway6: self.gateway6(),
            mac: mac_text(mac(address.unwrap_or(Ipv4Addr::UNSPECIFIED))),
            aliases: row.aliases.clone(),
            ports: row.ports.clone(),
        }
    }
}

/// The hardware address that belongs to an address: whoever gets the address next is found at once
/// by those who remember it.
pub(super) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    // The second bit says that no manufacturer assigned it.
    [0x02, 0x69, a, b, c, d]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An id for a new network.
pub(super) fn random_id() -> String {
    hex(&rand::random::<[u8; 32]>())
}

const NETWORK: &str = "SELECT id, name, bridge, subnet, subnet6, internal, labels, created_at, \
                       resolver_port FROM networks";
const ENDPOINT: &str = "SELECT container, network, position, offset, aliases, ports, dns FROM \
                        endpoints";

pub(super) fn networks(connection: &Connection) -> Result<Vec<NetworkRow>> {
    let mut statement = connection.prepare(&format!("{NETWORK} ORDER BY created_at, id"))?;
    let rows = statement.query_map([], |row| Ok(read_network(row)))?;
    rows.map(|row| row?).collect()
}

/// The network with this name, id, or unambiguous beginning of an id.
pub(super) fn find(connection: &Connection, name: &str) -> Result<NetworkRow> {
    let all = networks(connection)?;
    if let Some(found) = all.iter().find(|network| network.name == name) {
        return Ok(found.clone());
    }
    let mut fits = all
        .into_iter()
        .filter(|network| !name.is_empty() && network.id.starts_with(name));
    match (fits.next(), fits.count()) {
        (Some(found), 0) => Ok(found),
        (Some(_), more) => Err(EngineError::Ambiguous {
            prefix: name.to_owned(),
            count: more + 1,
        }),
        (None, _) => Err(EngineError::NetworkNotFound {
            name: name.to_owned(),
        }),
    }
}

pub(super) fn insert_network(connection: &Connection, network: &NetworkRow) -> Result<()> {
    let sql = "INSERT INTO networks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, NULL)";
    connection.execute(
        sql,
        (
            &network.id,
            &network.name,
            &network.bridge,
            network.subnet.to_string(),
            network.subnet6.map(|first| first.to_string()),
            network.internal,
            json(&network.labels),
            network.created_at.to_string(),
        ),
    )?;
    Ok(())
}

pub(super) fn delete_network(connection: &Connection, id: &str) -> Result<()> {
    connection.execute("DELETE FROM networks WHERE id = ?1", [id])?;
    Ok(())
}

pub(super) fn set_resolver_port(connection: &Connection, id: &str, port: u16) -> Result<()> {
    let sql = "UPDATE networks SET resolver_port = ?2 WHERE id = ?1";
    connection.execute(sql, (id, port))?;
    Ok(())
}

pub(super) fn endpoints(connection: &Connection) -> Result<Vec<EndpointRow>> {
    let mut statement = connection.prepare(&format!("{ENDPOINT} ORDER BY network, offset"))?;
    let rows = statement.query_map([], |row| Ok(read_endpoint(row)))?;
    rows.map(|row| row?).collect()
}

/// The places of one container, `eth0` first.
pub(super) fn endpoints_of(
    connection: &Connection,
    container: &ContainerId,
) -> Result<Vec<EndpointRow>> {
    let sql = format!("{ENDPOINT} WHERE container = ?1 ORDER BY position");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([container.as_str()], |row| Ok(read_endpoint(row)))?;
    rows.map(|row| row?).collect()
}

/// Names of containers, as the engine's own table has them.
pub(super) fn container_names(connection: &Connection) -> Result<Vec<(String, String)>> {
    let mut statement = connection.prepare("SELECT id, name FROM containers")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn insert_endpoint(connection: &Connection, row: &EndpointRow) -> Result<()> {
    let sql = "INSERT INTO endpoints VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    connection.execute(
        sql,
        (
            row.container.as_str(),
            &row.network,
            row.position,
            row.offset,
            json(&row.aliases),
            json(&row.ports),
            json(&row.dns),
        ),
    )?;
    Ok(())
}

/// Gives a container other aliases in its first network; nothing happens to one without a place.
pub(super) fn set_aliases(
    connection: &Connection,
    container: &ContainerId,
    aliases: &[String],
) -> Result<()> {
    let sql = "UPDATE endpoints SET aliases = ?2 WHERE container = ?1 AND position = 0";
    connection.execute(sql, (container.as_str(), json(&aliases)))?;
    Ok(())
}

/// Forgets a container's place in one network.
pub(super) fn delete_endpoint(connection: &Connection, row: &EndpointRow) -> Result<()> {
    let sql = "DELETE FROM endpoints WHERE container = ?1 AND network = ?2";
    connection.execute(sql, (row.container.as_str(), &row.network))?;
    Ok(())
}

/// Forgets a container's places; whether it had any.
pub(super) fn delete_endpoints(connection: &Connection, container: &ContainerId) -> Result<bool> {
    let sql = "DELETE FROM endpoints WHERE container = ?1";
    Ok(connection.execute(sql, [container.as_str()])? > 0)
}

/// An address for a container: the one it asks for, the one it had before if nobody has that now,
/// or a free one. Whoever knew a container before it was started again finds it there.
pub(super) fn allocate(
    connection: &Connection,
    network: &NetworkRow,
    container: &ContainerId,
    asked: Option<Ipv4Addr>,
) -> Result<u32> {
    let before: Option<u32> = connection
        .query_row(
            "SELECT offset FROM last_places WHERE container = ?1 AND network = ?2",
            [container.as_str(), &network.id],
            |row| row.get(0),
        )
        .optional()?;
    let taken = offsets(connection, network, "endpoints")?;
    // Containers that were removed meanwhile have no use for theirs.
    connection.execute(
        "DELETE FROM last_places WHERE container NOT IN (SELECT id FROM containers)",
        [],
    )?;
    let offset = match (asked, before) {
        (Some(address), _) => allocate_asked(network, address, &taken)?,
        (None, Some(before)) if !taken.contains(&before) => before,
        (None, _) => next_free(connection, network, &taken)?,
    };
    connection.execute(
        "INSERT INTO last_places VALUES (?1, ?2, ?3) \
         ON CONFLICT (container, network) DO UPDATE SET offset = ?3",
        (container.as_str(), &network.id, offset),
    )?;
    Ok(offset)
}

/// An address of the network that nobody has: the next after the one given out last, so that an
/// address is not used again soon, and none that a container may come back to if there are others.
fn next_free(connection: &Connection, network: &NetworkRow, taken: &BTreeSet<u32>) -> Result<u32> {
    let awaited = offsets(connection, network, "last_places")?;
    let last: u32 = connection.query_row(
        "SELECT last_offset FROM networks WHERE id = ?1",
        [&network.id],
        |row| row.get(0),
    )?;
    let end = network.subnet.last();
    let after = (last + 1).max(2)..=end;
    let before = 2..=last.min(end);
    let free = || after.clone().chain(before.clone());
    let free = free()
        .find(|offset| !taken.contains(offset) && !awaited.contains(offset))
        .or_else(|| free().find(|offset| !taken.contains(offset)))
        .ok_or_else(|| EngineError::NoAddress {
            network: network.name.clone(),
            reason: format!(
                "all {} of {} are taken; stop a container, or make a network with a larger \
                 --subnet",
                taken.len(),
                network.subnet
            ),
        })?;
    let sql = "UPDATE networks SET last_offset = ?2 WHERE id = ?1";
    connection.execute(sql, (&network.id, free))?;
    Ok(free)
}

fn allocate_asked(network: &NetworkRow, address: Ipv4Addr, taken: &BTreeSet<u32>) -> Result<u32> {
    let refused = |reason: String| EngineError::NoAddress {
        network: network.name.clone(),
        reason,
    };
    let offset = network.subnet.offset(address);
    if !network.subnet.contains(address) || network.subnet.container(offset).is_none() {
        let (subnet, gateway) = (network.subnet, network.subnet.gateway());
        return Err(refused(format!(
            "{address} is not for containers; choose one in {subnet} other than {gateway}"
        )));
    }
    if taken.contains(&offset) {
        return Err(refused(format!("{address} belongs to another container")));
    }
    Ok(offset)
}

fn offsets(connection: &Connection, network: &NetworkRow, of: &str) -> Result<BTreeSet<u32>> {
    let sql = format!("SELECT offset FROM {of} WHERE network = ?1");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([&network.id], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn read_network(row: &Row<'_>) -> Result<NetworkRow> {
    let subnet: String = row.get(3)?;
    let subnet6: Option<String> = row.get(4)?;
    let created_at: String = row.get(7)?;
    Ok(NetworkRow {
        id: row.get(0)?,
        name: row.get(1)?,
        bridge: row.get(2)?,
        subnet: subnet.parse().map_err(damaged)?,
        subnet6: subnet6
            .map(|first| first.parse().map_err(damaged))
            .transpose()?,
        internal: row.get(5)?,
        labels: from_json(&row.get::<_, String>(6)?)?,
        created_at: created_at.parse().map_err(damaged)?,
        resolver_port: row.get(8)?,
    })
}

fn read_endpoint(row: &Row<'_>) -> Result<EndpointRow> {
    Ok(EndpointRow {
        container: ContainerId::try_from(row.get::<_, String>(0)?)?,
        network: row.get(1)?,
        position: row.get(2)?,
        offset: row.get(3)?,
        aliases: from_json(&row.get::<_, String>(4)?)?,
        ports: from_json(&row.get::<_, String>(5)?)?,
        dns: from_json(&row.get::<_, String>(6)?)?,
    })
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data")
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(damaged)
}

fn damaged(error: impl std::fmt::Display) -> EngineError {
    EngineError::Runtime {
        action: "read the networks in the state database",
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use invar_image::state::Database;

    use super::*;

    /// A database as the first version left it, with a container in each of two networks.
    fn of_first_version(first: &str, second: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let database = Database::open(root.path()).unwrap();
        database.migrate(COMPONENT, &MIGRATIONS[..1]).unwrap();
        let rows = format!(
            r#"INSERT INTO networks VALUES
                ('n1', 'shop', 'inv-1', '10.89.0.0/24', 'fd00:1::', 0, '{{"a":"b"}}',
                 '2026-01-02T03:04:05Z', 7, 5300),
                ('n2', 'inner', 'inv-2', '10.89.1.0/24', NULL, 1, '{{}}',
                 '2026-01-02T03:04:06Z', 2, NULL);
            INSERT INTO endpoints VALUES
                ('{first}', 'n1', 7, '["db"]',
                 '[{{"container":80,"protocol":"tcp","address":"127.0.0.1","host":8080}}]',
                 '["192.0.2.53"]'),
                ('{second}', 'n2', 2, '[]', '[]', '[]');"#
        );
        database.connection().execute_batch(&rows).unwrap();
        root
    }

    fn number(connection: &Connection, sql: &str) -> u32 {
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn places_of_containers_with_one_network_are_kept_as_their_first() {
        let (first, second) = ("ab".repeat(32), "cd".repeat(32));
        let root = of_first_version(&first, &second);
        // Another process of the new version; and once more, when there is nothing to do.
        for _ in 0..2 {
            let database = Database::open(root.path()).unwrap();
            database.migrate(COMPONENT, MIGRATIONS).unwrap();
            let connection = database.connection();
            let version = "SELECT version FROM schema WHERE component = 'network'";
            assert_eq!(number(&connection, version) as usize, MIGRATIONS.len());
            let networks = networks(&connection).unwrap();
            let seen: Vec<_> = networks
                .iter()
                .map(|row| (row.name.as_str(), row.resolver_port))
                .collect();
            assert_eq!(seen, [("shop", Some(5300)), ("inner", None)]);
            let rows = endpoints(&connection).unwrap();
            let seen: Vec<_> = rows
                .iter()
                .map(|row| {
                    let container = row.container.as_str();
                    (container, row.network.as_str(), row.position, row.offset)
                })
                .collect();
            assert_eq!(seen, [(&*first, "n1", 0, 7), (&*second, "n2", 0, 2)]);
            assert_eq!(rows[0].aliases, ["db"]);
            let port = &rows[0].ports[0];
            assert_eq!((port.host, port.container), (8080, 80));
            assert_eq!(rows[0].dns, ["192.0.2.53".parse::<IpAddr>().unwrap()]);
            let old = "SELECT count(*) FROM sqlite_schema WHERE name = 'endpoints_of_one_network'";
            assert_eq!(number(&connection, old), 0);
        }
    }

    #[test]
    fn a_container_of_an_older_state_can_join_another_network() {
        let root = of_first_version(&"ab".repeat(32), &"cd".repeat(32));
        let database = Database::open(root.path()).unwrap();
        database.migrate(COMPONENT, MIGRATIONS).unwrap();
        let connection = database.connection();
        let mut row = endpoints(&connection).unwrap().remove(0);
        (row.network, row.position, row.offset) = ("n2".to_owned(), 1, 2);
        assert!(insert_endpoint(&connection, &row).is_err(), "of another");
        row.offset = 3;
        insert_endpoint(&connection, &row).unwrap();
        let found = endpoints_of(&connection, &row.container).unwrap();
        let positions: Vec<u32> = found.iter().map(|row| row.position).collect();
        assert_eq!(positions, [0, 1]);
    }
}
