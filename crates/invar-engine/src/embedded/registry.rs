//! The containers there are: name and configuration, in `state.db`.

use invar_image::state::Database;
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction};

use super::owners;
use crate::config::{ContainerConfig, UserNamespace};
use crate::container::{ContainerId, ContainerName};
use crate::error::{EngineError, Result};

const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE containers (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, config TEXT NOT NULL,
        created_at TEXT NOT NULL
    );
",
    owners::MIGRATION,
];

/// What was asked for when a container was made.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: ContainerId,
    pub(super) name: ContainerName,
    pub(super) config: ContainerConfig,
    pub(super) created_at: Timestamp,
}

/// All containers of one state root.
#[derive(Debug)]
pub(super) struct Registry(Database);

impl Registry {
    pub(super) fn open(database: &Database) -> Result<Self> {
        database.migrate("engine", MIGRATIONS)?;
        Ok(Self(database.clone()))
    }

    /// Adds a container; its name must be free.
    pub(super) fn insert(&self, entry: &Entry) -> Result<()> {
        let config = serde_json::to_string(&entry.config).expect("a configuration is plain data");
        self.0.write(|transaction| {
            require_free(transaction, &entry.name)?;
            transaction.execute(
                "INSERT INTO containers VALUES (?1, ?2, ?3, ?4)",
                (
                    entry.id.as_str(),
                    entry.name.as_str(),
                    &config,
                    entry.created_at.to_string(),
                ),
            )?;
            if entry.config.userns == UserNamespace::Auto {
                owners::take(transaction, &entry.id)?;
            }
            Ok(())
        })
    }

    /// Gives a container another name, which must be free.
    pub(super) fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<()> {
        self.0.write(|transaction| {
            require_free(transaction, name)?;
            let sql = "UPDATE containers SET name = ?2 WHERE id = ?1";
            match transaction.execute(sql, (id.as_str(), name.as_str()))? {
                0 => Err(not_found(id.as_str())),
                _ => Ok(()),
            }
        })
    }

    /// Asks a container to be something else.
    pub(super) fn set_config(&self, id: &ContainerId, config: &ContainerConfig) -> Result<()> {
        let config = serde_json::to_string(config).expect("a configuration is plain data");
        let sql = "UPDATE containers SET config = ?2 WHERE id = ?1";
        match self.0.connection().execute(sql, (id.as_str(), &config))? {
            0 => Err(not_found(id.as_str())),
            _ => Ok(()),
        }
    }

    /// Forgets a container.
    pub(super) fn delete(&self, id: &ContainerId) -> Result<()> {
        self.0.write(|transaction| {
            transaction.execute("DELETE FROM owners WHERE container = ?1", [id.as_str()])?;
            transaction.execute("DELETE FROM containers WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
    }

    /// The first id outside of a container with a user namespace.
    pub(super) fn first_owner(&self, id: &ContainerId) -> Result<Option<u32>> {
        owners::of(&self.0, id)
    }

    /// Every container, newest first.
    pub(super) fn all(&self) -> Result<Vec<Entry>> {
        let connection = self.0.connection();
        let sql = format!("{SELECT} ORDER BY created_at DESC, id");
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([], Stored::read)?;
        rows.map(|row| row?.complete()).collect()
    }

    /// The container with exactly this id.
    pub(super) fn get(&self, id: &ContainerId) -> Result<Entry> {
        let sql = format!("{SELECT} WHERE id = ?1");
        self.one(&sql, id.as_str())?
            .ok_or_else(|| not_found(id.as_str()))
    }

    /// The container with this name, id, or unambiguous id prefix. A name wins over a prefix.
    pub(super) fn find(&self, text: &str) -> Result<Entry> {
        if let Some(entry) = self.one(&format!("{SELECT} WHERE name = ?1"), text)? {
            return Ok(entry);
        }
        let may_be_id = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !may_be_id {
            return Err(not_found(text));
        }
        let connection = self.0.connection();
        let mut statement = connection.prepare(&format!("{SELECT} WHERE id LIKE ?1 || '%'"))?;
        let rows = statement.query_map([text], Stored::read)?;
        let mut found = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        match (found.pop(), found.len()) {
            (None, _) => Err(not_found(text)),
            (Some(stored), 0) => stored.complete(),
            (Some(_), more) => Err(EngineError::Ambiguous {
                prefix: text.to_owned(),
                count: more + 1,
            }),
        }
    }

    fn one(&self, sql: &str, value: &str) -> Result<Option<Entry>> {
        let connection = self.0.connection();
        let mut statement = connection.prepare(sql)?;
        let stored = statement.query_row([value], Stored::read).optional()?;
        stored.map(Stored::complete).transpose()
    }
}

const SELECT: &str = "SELECT id, name, config, created_at FROM containers";

struct Stored {
    id: String,
    name: String,
    config: String,
    created_at: String,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            config: row.get(2)?,
            created_at: row.get(3)?,
        })
    }

    fn complete(self) -> Result<Entry> {
        let config = serde_json::from_str(&self.config).map_err(|error| EngineError::Runtime {
            action: "read the container's configuration from the state database",
            reason: error.to_string(),
        })?;
        Ok(Entry {
            id: ContainerId::try_from(self.id)?,
            name: ContainerName::try_from(self.name)?,
            config,
            created_at: self.created_at.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }
}

fn require_free(transaction: &Transaction<'_>, name: &ContainerName) -> Result<()> {
    let sql = "SELECT id FROM containers WHERE name = ?1";
    let holder: Option<String> = transaction
        .query_row(sql, [name.as_str()], |row| row.get(0))
        .optional()?;
    match holder {
        None => Ok(()),
        Some(holder) => Err(EngineError::NameTaken {
            name: name.as_str().to_owned(),
            holder: holder.chars().take(12).collect(),
        }),
    }
}

fn not_found(name: &str) -> EngineError {
    EngineError::NotFound {
        name: name.to_owned(),
    }
}
