//! The state database, `state.db`: one `SQLite` file that images, containers and services share.
//!
//! Each component owns its tables and brings their migrations; the `schema` table says how many
//! of them were applied. A migration and its number are committed together.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::{ImageError, Result};

/// How long a writer waits for another process before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Pages of the log after which it is written back. Every command that opens the database first
/// reads the log.
const LOG_PAGES: u32 = 128;

/// The one connection of this process; clones share it.
#[derive(Debug, Clone)]
pub struct Database(Arc<Mutex<Connection>>);

impl Database {
    /// Opens the database under `root`, made when missing.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_file(root, "state.db")
    }

    /// Opens another database under `root`, of someone who writes so much that the others would
    /// wait.
    pub fn open_file(root: &Path, name: &str) -> Result<Self> {
        let path = root.join(name);
        // SQLite gives its other files the mode of this one. Environments hold secrets.
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(ImageError::io("open", &path))?;
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // In WAL mode NORMAL keeps the database consistent after a crash of the machine; only
        // the newest transactions may be lost, and each step redoes or undoes itself then.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        // The last one to close would write the log into the database and wait for the disk, at
        // the end of every command; the log is written back when it has grown.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Applies the migrations of `component` not yet applied.
    ///
    /// A migration is one or more SQL statements; a released one never changes.
    pub fn migrate(&self, component: &'static str, migrations: &[&str]) -> Result<()> {
        migrate(&mut self.connection(), component, migrations)
    }

    /// Whether a change of this process writes a log that has grown back into the database, which
    /// waits for the disk. Where milliseconds count it is left to a later change.
    pub fn write_back(&self, is_on: bool) -> rusqlite::Result<()> {
        let pages = if is_on { LOG_PAGES } else { 0 };
        self.connection()
            .pragma_update(None, "wal_autocheckpoint", pages)
    }

    /// The connection, for reading.
    pub fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic while it was held left no half transaction: dropping one rolls it back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes several things at once or, when `change` fails, none.
    pub fn write<T, E: From<rusqlite::Error>>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = change(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }
}

/// Waits until every transaction so far survives a crash of the machine.
pub fn sync(root: &Path) -> Result<()> {
    for name in ["state.db-wal", "state.db"] {
        let path = root.join(name);
        match fs_err::File::open(&path).and_then(|file| file.sync_all()) {
            // Without a log everything is in the database itself.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(ImageError::io("write to disk", &path))?,
        }
    }
    Ok(())
}

fn migrate(
    connection: &mut Connection,
    component: &'static str,
    migrations: &[&str],
) -> Result<()> {
    let known = u32::try_from(migrations.len()).expect("a handful of migrations");
    if applied(connection, component).is_ok_and(|found| found == known) {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL)",
    )?;
    let found = applied(&transaction, component)?;
    if found > known {
        return Err(ImageError::NewerState {
            component,
            found,
            known,
        });
    }
    for migration in &migrations[found as usize..] {
        transaction.execute_batch(migration)?;
    }
    transaction.execute(
        "INSERT INTO schema VALUES (?1, ?2) ON CONFLICT (component) DO UPDATE SET version = ?2",
        (component, known),
    )?;
    Ok(transaction.commit()?)
}

fn applied(connection: &Connection, component: &str) -> rusqlite::Result<u32> {
    connection
        .query_row(
            "SELECT version FROM schema WHERE component = ?1",
            [component],
            |row| row.get(0),
        )
        .or_else(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => Ok(0),
            other => Err(other),
        })
}
