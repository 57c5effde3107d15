//! Services, their revisions, rollouts and decisions, in `state.db`.

use std::path::{Path, PathBuf};

use fs_err as fs;
use invar_image::state::Database;
use rusqlite::OptionalExtension as _;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::definition::Definition;
use crate::machine::{Decision, Order, Rollout};

const MIGRATIONS: &[&str] = &["
    CREATE TABLE rollout_revisions (
        service TEXT NOT NULL, name TEXT NOT NULL, definition TEXT NOT NULL,
        PRIMARY KEY (service, name)
    );
    CREATE TABLE rollout_services (
        service TEXT PRIMARY KEY, current TEXT NOT NULL, previous TEXT, keep_until_ms INTEGER
    );
    CREATE TABLE rollouts (
        service TEXT NOT NULL, number INTEGER NOT NULL, state TEXT NOT NULL,
        PRIMARY KEY (service, number)
    );
    CREATE TABLE rollout_decisions (
        id INTEGER PRIMARY KEY, service TEXT NOT NULL, number INTEGER NOT NULL,
        decision TEXT NOT NULL
    );
    CREATE INDEX rollout_decisions_of ON rollout_decisions (service, number);
    CREATE TABLE rollout_orders (service TEXT PRIMARY KEY, given TEXT NOT NULL);
"];

/// Decisions kept of one rollout; a trial that waits for weeks must not fill the disk.
const MOST_DECISIONS: u32 = 10_000;

/// Why a rollout could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutError {
    /// No service has this name.
    #[error("no service named {service:?} was deployed")]
    UnknownService {
        /// What was asked for.
        service: String,
    },
    /// Several projects have a service of this name.
    #[error("several projects have a service {service:?}: {found}")]
    Ambiguous {
        /// What was asked for.
        service: String,
        /// Which there are.
        found: String,
    },
    /// There is nothing to go back to.
    #[error("{service:?} has no revision before the current one")]
    NothingBefore {
        /// The service.
        service: String,
    },
    /// A rollout is under way, or was killed.
    #[error("a rollout of {service:?} is under way")]
    UnderWay {
        /// The service.
        service: String,
    },
    /// No rollout is under way.
    #[error("no rollout of {service:?} is under way")]
    NotUnderWay {
        /// The service.
        service: String,
    },
    /// The gateway does not answer, or refused.
    #[error("could not {action} at the gateway {socket}", socket = socket.display())]
    Gateway {
        /// What was asked.
        action: String,
        /// Its control socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: invar_gateway::GatewayError,
    },
    /// The gateway took the configuration, but not this part of it.
    #[error("the gateway does not serve {name}: {reason}")]
    Refused {
        /// Which item.
        name: String,
        /// Why.
        reason: String,
    },
    /// A container.
    #[error(transparent)]
    Engine(#[from] invar_engine::EngineError),
    /// A container without an address.
    #[error("container {name:?} has no address for port {port}: {reason}")]
    NoAddress {
        /// The container.
        name: String,
        /// The port.
        port: u16,
        /// Why.
        reason: String,
    },
    /// The database.
    #[error("state database: {0}")]
    State(#[from] rusqlite::Error),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] invar_image::ImageError),
    /// What was stored cannot be read.
    #[error("what is stored of {service:?} cannot be read: {reason}")]
    Stored {
        /// The service.
        service: String,
        /// Why.
        reason: String,
    },
    /// A file of the state.
    #[error("could not {action} {path}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// Result of a rollout operation.
pub type Result<T> = std::result::Result<T, RolloutError>;

/// A service as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredService {
    /// Project and name: `shop.web`.
    pub service: String,
    /// The revision with the traffic.
    pub current: String,
    /// The one before, perhaps still warm.
    pub previous: Option<String>,
    /// Until when it stays warm, milliseconds since 1970.
    pub keep_until_ms: Option<u64>,
}

/// See [`Store::hurry`].
#[derive(Debug)]
pub(super) struct Hurry<'a>(&'a Store);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        // It grows until the next command then; nothing is lost.
        self.0.database.write_back(true).ok();
    }
}

/// The rollout's part of the state database.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    database: Database,
}

impl Store {
    /// Opens the store under a state root.
    pub fn open(root: &Path) -> Result<Self> {
        let database = Database::open(root)?;
        database.migrate("rollout", MIGRATIONS)?;
        Ok(Self {
            root: root.to_owned(),
            database,
        })
    }

    /// Every service, by name.
    pub fn services(&self) -> Result<Vec<StoredService>> {
        let connection = self.database.connection();
        let sql = "SELECT service, current, previous, keep_until_ms FROM rollout_services \
                   ORDER BY service";
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(StoredService {
                service: row.get(0)?,
                current: row.get(1)?,
                previous: row.get(2)?,
                keep_until_ms: row.get::<_, Option<i64>>(3)?.map(i64::cast_unsigned),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The service of this whole name.
    pub fn service(&self, service: &str) -> Result<Option<StoredService>> {
        let all = self.services()?;
        Ok(all.into_iter().find(|stored| stored.service == service))
    }

    /// The whole name of a service: with its project, or without when only one project has it.
    pub fn find(&self, asked: &str) -> Result<String> {
        let connection = self.database.connection();
        let sql = "SELECT service FROM rollout_services UNION SELECT service FROM rollouts";
        let mut statement = connection.prepare(sql)?;
        let all = statement.query_map([], |row| row.get::<_, String>(0))?;
        let all: Vec<String> = all.collect::<rusqlite::Result<_>>()?;
        if all.iter().any(|name| name == asked) {
            return Ok(asked.to_owned());
        }
        let has_name = |name: &&String| name.split_once('.').is_some_and(|(_, n)| n == asked);
        let found: Vec<&String> = all.iter().filter(has_name).collect();
        match found[..] {
            [one] => Ok(one.clone()),
            [] => Err(RolloutError::UnknownService {
                service: asked.to_owned(),
            }),
            _ => Err(RolloutError::Ambiguous {
                service: asked.to_owned(),
                found: found.into_iter().cloned().collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// A revision of a service.
    pub fn definition(&self, service: &str, revision: &str) -> Result<Option<Definition>> {
        let sql = "SELECT definition FROM rollout_revisions WHERE service = ?1 AND name = ?2";
        let text: Option<String> = self
            .database
            .connection()
            .query_row(sql, [service, revision], |row| row.get(0))
            .optional()?;
        text.map(|text| read(service, &text)).transpose()
    }

    /// The engine that runs a service: that of its newest rollout.
    pub fn engine(&self, service: &str) -> Result<Option<String>> {
        let Some(last) = self.last_rollout(service)? else {
            return Ok(None);
        };
        let definition = self.definition(service, &last.target)?;
        Ok(definition.map(|definition| definition.engine))
    }

    /// The rollout that has not ended.
    pub fn unfinished(&self, service: &str) -> Result<Option<Rollout>> {
        let last = self.last_rollout(service)?;
        Ok(last.filter(|rollout| !rollout.phase.is_final()))
    }

    /// The lock of a service; `None` when another driver has it.
    pub(super) fn lock(&self, service: &str) -> Result<Option<fs::File>> {
        let directory = self.root.join("rollouts");
        let path = directory.join(format!("{service}.lock"));
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| RolloutError::Io {
                action,
                path,
                source,
            }
        };
        fs::create_dir_all(&directory).map_err(io("create", &directory))?;
        let file = fs::File::create(&path).map_err(io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(io("lock", &path)(errno.into())),
        }
    }

    /// Until the guard goes, what is stored waits for no disk: nothing is written back from the log.
    pub(super) fn hurry(&self) -> Result<Hurry<'_>> {
        self.database.write_back(false)?;
        Ok(Hurry(self))
    }

    /// The newest rollout of a service.
    pub fn last_rollout(&self, service: &str) -> Result<Option<Rollout>> {
        let sql = "SELECT state FROM rollouts WHERE service = ?1 ORDER BY number DESC LIMIT 1";
        let text: Option<String> = self
            .database
            .connection()
            .query_row(sql, [service], |row| row.get(0))
            .optional()?;
        text.map(|text| read(service, &text)).transpose()
    }

    /// Every rollout of a service, oldest first.
    pub fn rollouts(&self, service: &str) -> Result<Vec<Rollout>> {
        let sql = "SELECT state FROM rollouts WHERE service = ?1 ORDER BY number";
        self.texts(sql, service)
    }

    /// The decisions of a rollout, oldest first.
    pub fn decisions(&self, service: &str, number: u64) -> Result<Vec<Decision>> {
        let sql = format!(
            "SELECT decision FROM rollout_decisions WHERE service = ?1 AND number = {number} \
             ORDER BY id"
        );
        self.texts(&sql, service)
    }

    fn texts<T: DeserializeOwned>(&self, sql: &str, service: &str) -> Result<Vec<T>> {
        let connection = self.database.connection();
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([service], |row| row.get::<_, String>(0))?;
        rows.map(|text| read(service, &text?)).collect()
    }

    /// Leaves an order for whoever drives the service.
    pub fn give_order(&self, service: &str, order: Order) -> Result<()> {
        let sql = "INSERT INTO rollout_orders VALUES (?1, ?2) \
                   ON CONFLICT (service) DO UPDATE SET given = ?2";
        self.database
            .connection()
            .execute(sql, (service, write(&order)))?;
        Ok(())
    }

    /// The order that waits.
    pub(super) fn order(&self, service: &str) -> Result<Option<Order>> {
        let sql = "SELECT given FROM rollout_orders WHERE service = ?1";
        let text: Option<String> = self
            .database
            .connection()
            .query_row(sql, [service], |row| row.get(0))
            .optional()?;
        text.map(|text| read(service, &text)).transpose()
    }

    /// Begins a rollout: its revision and its first state.
    pub(super) fn begin(&self, rollout: &Rollout, definition: &Definition) -> Result<()> {
        self.database.write(|transaction| {
            transaction.execute(
                "INSERT INTO rollout_revisions VALUES (?1, ?2, ?3) \
             ON CONFLICT (service, name) DO UPDATE SET definition = ?3",
                (&rollout.service, &rollout.target, write(definition)),
            )?;
            transaction.execute(
                "INSERT INTO rollouts VALUES (?1, ?2, ?3)",
                (&rollout.service, signed(rollout.number), write(rollout)),
            )?;
            // An order for an earlier rollout is not one for this.
            transaction.execute(
                "DELETE FROM rollout_orders WHERE service = ?1",
                [&rollout.service],
            )?;
            Ok(())
        })
    }

    /// Stores a state with its decisions; a final one changes the service with it.
    pub(super) fn save(
        &self,
        rollout: &Rollout,
        decisions: &[Decision],
        order: Option<Order>,
    ) -> Result<()> {
        let service = &rollout.service;
        let number = signed(rollout.number);
        self.database.write(|transaction| {
            transaction.execute(
                "UPDATE rollouts SET state = ?3 WHERE service = ?1 AND number = ?2",
                (service, number, write(rollout)),
            )?;
            for decision in decisions {
                transaction.execute(
                    "INSERT INTO rollout_decisions (service, number, decision) \
                 SELECT ?1, ?2, ?3 WHERE (SELECT COUNT(*) FROM rollout_decisions \
                 WHERE service = ?1 AND number = ?2) < ?4 OR ?5 <> 'look'",
                    (
                        service,
                        number,
                        write(decision),
                        MOST_DECISIONS,
                        &decision.kind,
                    ),
                )?;
            }
            if let Some(order) = order {
                // Another one may have come meanwhile; it stays.
                transaction.execute(
                    "DELETE FROM rollout_orders WHERE service = ?1 AND given = ?2",
                    (service, write(&order)),
                )?;
            }
            if rollout.phase == crate::machine::Phase::Promoted {
                let keep = crate::machine::millis(rollout.spec.policy.keep);
                let until = rollout.since_ms.saturating_add(keep);
                let previous = rollout
                    .stable
                    .as_ref()
                    .filter(|name| **name != rollout.target);
                transaction.execute(
                    "INSERT INTO rollout_services VALUES (?1, ?2, ?3, ?4) ON CONFLICT (service) \
                 DO UPDATE SET current = ?2, previous = ?3, keep_until_ms = ?4",
                    (service, &rollout.target, previous, signed(until)),
                )?;
            }
            Ok(())
        })
    }

    /// Forgets a service; what was decided about it stays.
    pub(super) fn remove(&self, service: &str) -> Result<()> {
        self.database.write(|transaction| {
            for table in ["rollout_services", "rollout_revisions", "rollout_orders"] {
                let sql = format!("DELETE FROM {table} WHERE service = ?1");
                transaction.execute(&sql, [service])?;
            }
            Ok(())
        })
    }

    /// The revision before is warm no longer.
    pub(super) fn cooled(&self, service: &str) -> Result<()> {
        let sql = "UPDATE rollout_services SET keep_until_ms = NULL WHERE service = ?1";
        self.database.connection().execute(sql, [service])?;
        Ok(())
    }

    /// Other counts, ports and times for the current revision.
    pub(super) fn adjust(&self, service: &str, definition: &Definition) -> Result<()> {
        let sql = "UPDATE rollout_revisions SET definition = ?3 WHERE service = ?1 AND name = ?2";
        let revision = definition.revision();
        self.database
            .connection()
            .execute(sql, (service, revision, write(definition)))?;
        Ok(())
    }
}

fn read<T: DeserializeOwned>(service: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| RolloutError::Stored {
        service: service.to_owned(),
        reason: error.to_string(),
    })
}

fn write<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data")
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
