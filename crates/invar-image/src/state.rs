//! The state database, `state.db`: one `SQLite` file that images, containers and services share.
//!
//! Each component owns its tables and brings their migrations; the `schema` table says how many
//! of them were applied. A migration and its number are committed together.

use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};

use crate::error::{ImageError, Result};

/// How long a writer waits for another process before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens the database under `root` and applies the migrations of `component` not yet applied.
///
/// A migration is one or more SQL statements; a released one never changes.
pub fn open(root: &Path, component: &'static str, migrations: &[&str]) -> Result<Connection> {
    let path = root.join("state.db");
    // SQLite gives its other files the mode of this one. Environments hold secrets.
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(ImageError::io("open", &path))?;
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode NORMAL keeps the database consistent after a crash of the machine; only the
    // newest transactions may be lost, and each step redoes or undoes itself then.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // The last one to close would write the log into the database and wait for the disk, at the
    // end of every command; the log is written back when it has grown.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    migrate(&mut connection, component, migrations)?;
    Ok(connection)
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
