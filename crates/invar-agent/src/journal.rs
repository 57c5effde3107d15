//! What the agent has seen and done, in `agent.db`.
//!
//! A response is written down step by step, each before it is done. What was seen is written in
//! batches and bounded: of a container at most [`MOST_ACTORS`] paths.

use std::path::Path;

use invar_drift::Severity;
use invar_image::state::Database;
use invar_sensor::{Event, What};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row};
use serde::Serialize;

use crate::error::Result;
use crate::policy::Respond;

/// The file below the state root.
pub(crate) const FILE: &str = "agent.db";
/// Paths of one container whose actors are kept.
pub(crate) const MOST_ACTORS: u32 = 100_000;
/// Alerts that wait for one webhook; of more the oldest are dropped, and told of.
const MOST_SPOOLED: u32 = 10_000;

const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE incidents (
        id INTEGER PRIMARY KEY, container TEXT NOT NULL, name TEXT NOT NULL, engine TEXT NOT NULL,
        begun_ms INTEGER NOT NULL, severity TEXT NOT NULL, reason TEXT NOT NULL,
        event TEXT NOT NULL, respond TEXT NOT NULL, step TEXT NOT NULL,
        evidence TEXT, outcome TEXT, ended_ms INTEGER, released INTEGER NOT NULL DEFAULT 0
    );
    CREATE UNIQUE INDEX incidents_of ON incidents (engine, container) WHERE released = 0;
    CREATE TABLE actors (
        container TEXT NOT NULL, path BLOB NOT NULL, what TEXT NOT NULL, time_ms INTEGER NOT NULL,
        pid INTEGER NOT NULL, actor TEXT, PRIMARY KEY (container, path)
    ) WITHOUT ROWID;
    CREATE TABLE watched (
        container TEXT PRIMARY KEY, name TEXT NOT NULL, engine TEXT NOT NULL,
        since_ms INTEGER NOT NULL, until_ms INTEGER, sealed_ms INTEGER, dropped INTEGER NOT NULL
    );
    CREATE TABLE spool (
        id INTEGER PRIMARY KEY, url TEXT NOT NULL, body TEXT NOT NULL, attempts INTEGER NOT NULL,
        next_ms INTEGER NOT NULL
    );
",
    "
    CREATE TABLE guarded (
        engine TEXT NOT NULL, container TEXT NOT NULL, name TEXT NOT NULL,
        PRIMARY KEY (engine, container)
    ) WITHOUT ROWID;
    CREATE TABLE frozen (
        engine TEXT NOT NULL, container TEXT NOT NULL, name TEXT NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (engine, container)
    ) WITHOUT ROWID;
",
];

/// Something that was done about a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// Its number.
    pub id: i64,
    /// The container's id.
    pub container: String,
    /// How it was called.
    pub name: String,
    /// Who ran it.
    pub engine: String,
    /// When the first of it was seen.
    pub begun_at: Timestamp,
    /// How bad that was.
    pub severity: String,
    /// What it was, in one line.
    pub reason: String,
    /// What is done about it.
    pub respond: String,
    /// The last step that was begun.
    pub step: String,
    /// What was kept.
    pub evidence: Option<String>,
    /// How it ended.
    pub outcome: Option<String>,
    /// When.
    pub ended_at: Option<Timestamp>,
}

/// Who changed a path.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: Vec<u8>,
    pub(crate) what: String,
    pub(crate) at: Timestamp,
    pub(crate) pid: u32,
    pub(crate) actor: Option<serde_json::Value>,
}

/// Since when, and how well, a container was watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    pub(crate) since: Timestamp,
    /// Events that were lost.
    pub(crate) dropped: u64,
}

/// The journal; clones share one connection.
#[derive(Debug, Clone)]
pub struct Journal(Database);

impl Journal {
    /// Opens the journal of a state root, made when missing.
    pub fn open(root: &Path) -> Result<Self> {
        let database = Database::open_file(root, FILE)?;
        database.migrate("agent", MIGRATIONS)?;
        Ok(Self(database))
    }

    /// The journal of a state root where an agent has run.
    pub fn open_existing(root: &Path) -> Result<Option<Self>> {
        root.join(FILE)
            .exists()
            .then(|| Self::open(root))
            .transpose()
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0
    }

    /// Begins an incident; `None` when the container has one already.
    /// `name` is how the container is called now.
    pub(crate) fn begin(
        &self,
        event: &Event,
        name: &str,
        respond: Respond,
    ) -> Result<Option<Incident>> {
        let reason = crate::alert::summary(event);
        let text = serde_json::to_string(event).unwrap_or_default();
        let at = event.time;
        let place = &event.container;
        let changed = self.0.write(|change| {
            change.execute(
                "INSERT OR IGNORE INTO incidents
                    (container, name, engine, begun_ms, severity, reason, event, respond, step)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'begun')",
                (
                    &place.id,
                    name,
                    &place.engine,
                    at.as_millisecond(),
                    event.severity.as_str(),
                    reason,
                    text,
                    respond.as_str(),
                ),
            )
        })?;
        if changed == 0 {
            return Ok(None);
        }
        self.incident_of(&place.engine, &place.id)
    }

    /// Writes down a step that is about to be done.
    pub(crate) fn step(&self, id: i64, step: &str) -> Result<()> {
        self.0.write(|change| {
            change.execute("UPDATE incidents SET step = ?2 WHERE id = ?1", (id, step))
        })?;
        Ok(())
    }

    pub(crate) fn evidence(&self, id: i64, evidence: &str) -> Result<()> {
        self.0.write(|change| {
            let sql = "UPDATE incidents SET evidence = ?2 WHERE id = ?1";
            change.execute(sql, (id, evidence))
        })?;
        Ok(())
    }

    pub(crate) fn end(&self, id: i64, outcome: &str) -> Result<()> {
        let now = Timestamp::now().as_millisecond();
        self.0.write(|change| {
            change.execute(
                "UPDATE incidents SET step = 'ended', outcome = ?2, ended_ms = ?3 WHERE id = ?1",
                (id, outcome, now),
            )
        })?;
        Ok(())
    }

    /// Lets a container have another incident.
    pub(crate) fn release(&self, engine: &str, container: &str) -> Result<()> {
        self.0.write(|change| {
            change.execute(
                "UPDATE incidents SET released = 1
                 WHERE engine = ?1 AND container = ?2 AND ended_ms IS NOT NULL",
                (engine, container),
            )
        })?;
        Ok(())
    }

    /// The incident of a container.
    pub(crate) fn incident_of(&self, engine: &str, container: &str) -> Result<Option<Incident>> {
        let sql = format!("{INCIDENT} WHERE engine = ?1 AND container = ?2 AND released = 0");
        let connection = self.0.connection();
        let found = connection.query_row(&sql, (engine, container), incident);
        Ok(found.optional()?)
    }

    /// Incidents whose response was not finished.
    pub(crate) fn unfinished(&self) -> Result<Vec<Incident>> {
        self.incidents_where("ended_ms IS NULL ORDER BY id", 1000)
    }

    /// The last incidents, newest first.
    pub fn incidents(&self, most: u32) -> Result<Vec<Incident>> {
        self.incidents_where("TRUE ORDER BY id DESC", most)
    }

    fn incidents_where(&self, what: &str, most: u32) -> Result<Vec<Incident>> {
        let connection = self.0.connection();
        let mut found = connection.prepare(&format!("{INCIDENT} WHERE {what} LIMIT ?1"))?;
        let rows = found.query_map([most], incident)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// How many containers of this name were replaced since.
    pub(crate) fn replaced(&self, engine: &str, name: &str, since: Timestamp) -> Result<u32> {
        let connection = self.0.connection();
        Ok(connection.query_row(
            "SELECT count(*) FROM incidents WHERE engine = ?1 AND name = ?2 AND begun_ms >= ?3
                AND respond = 'replace' AND ended_ms IS NOT NULL",
            (engine, name, since.as_millisecond()),
            |row| row.get(0),
        )?)
    }

    /// A container begins to be watched, or goes on to be.
    pub(crate) fn watches(&self, id: &str, name: &str, engine: &str) -> Result<()> {
        let now = Timestamp::now().as_millisecond();
        self.0.write(|change| {
            change.execute(
                "INSERT INTO watched VALUES (?1, ?2, ?3, ?4, NULL, NULL, 0)
                 ON CONFLICT (container) DO UPDATE SET name = ?2, since_ms = CASE
                    WHEN until_ms IS NULL THEN since_ms ELSE ?4 END, until_ms = NULL",
                (id, name, engine, now),
            )
        })?;
        Ok(())
    }

    /// Containers whose watch ended with an agent that was killed: what happened since is not known.
    pub(crate) fn end_watches(&self) -> Result<()> {
        let now = Timestamp::now().as_millisecond();
        self.0.write(|change| {
            let sql = "UPDATE watched SET until_ms = ?1 WHERE until_ms IS NULL";
            change.execute(sql, [now])
        })?;
        Ok(())
    }

    pub(crate) fn sealed(&self, id: &str) -> Result<()> {
        let now = Timestamp::now().as_millisecond();
        self.0.write(|change| {
            let sql = "UPDATE watched SET sealed_ms = ?2 WHERE container = ?1";
            change.execute(sql, (id, now))
        })?;
        Ok(())
    }

    /// Whether a container was sealed before this agent started.
    pub(crate) fn is_sealed(&self, id: &str) -> Result<bool> {
        let connection = self.0.connection();
        let sql = "SELECT sealed_ms IS NOT NULL FROM watched WHERE container = ?1";
        let found = connection.query_row(sql, [id], |row| row.get(0));
        Ok(found.optional()?.unwrap_or(false))
    }

    /// Events of one container were lost.
    pub(crate) fn dropped(&self, count: u64) -> Result<()> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.0.write(|change| {
            let sql = "UPDATE watched SET dropped = dropped + ?1 WHERE until_ms IS NULL";
            change.execute(sql, [count])
        })?;
        Ok(())
    }

    pub(crate) fn watch_of(&self, id: &str) -> Result<Option<Watch>> {
        let connection = self.0.connection();
        let sql = "SELECT since_ms, dropped FROM watched WHERE container = ?1";
        let found = connection.query_row(sql, [id], |row| {
            Ok(Watch {
                since: time(row.get(0)?),
                dropped: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
            })
        });
        Ok(found.optional()?)
    }

    /// Remembers who changed what, the last one of each path.
    pub(crate) fn remember(&self, events: &[Event]) -> Result<()> {
        let kept = events.iter().filter(|event| {
            // A refused execution changed nothing.
            !event.what.is_blocked() && !matches!(event.what, What::Exec | What::Missed)
        });
        self.0.write(|change| -> rusqlite::Result<()> {
            let mut count = change.prepare_cached(
                "SELECT count(*) FROM (SELECT 1 FROM actors WHERE container = ?1 LIMIT ?2)",
            )?;
            let mut put = change.prepare_cached(
                "INSERT INTO actors VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (container, path) DO UPDATE
                    SET what = ?3, time_ms = ?4, pid = ?5, actor = ?6",
            )?;
            let mut room: Option<(&str, bool)> = None;
            for event in kept {
                let id = event.container.id.as_str();
                let has_room = match room {
                    Some((of, has_room)) if of == id => has_room,
                    _ => {
                        let found: u32 = count.query_row((id, MOST_ACTORS), |row| row.get(0))?;
                        found < MOST_ACTORS
                    }
                };
                room = Some((id, has_room));
                if !has_room {
                    continue;
                }
                let actor = event.actor.as_ref();
                let actor = actor.and_then(|actor| serde_json::to_string(actor).ok());
                put.execute((
                    id,
                    &event.path,
                    event.what.as_str(),
                    event.time.as_millisecond(),
                    event.pid,
                    actor,
                ))?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Hands on who changed each path of a container, in the order of the paths.
    pub(crate) fn actors(&self, id: &str, each: &mut dyn FnMut(Seen)) -> Result<()> {
        let connection = self.0.connection();
        let mut found = connection.prepare(
            "SELECT path, what, time_ms, pid, actor FROM actors WHERE container = ?1 ORDER BY path",
        )?;
        let mut rows = found.query([id])?;
        while let Some(row) = rows.next()? {
            let actor: Option<String> = row.get(4)?;
            each(Seen {
                path: row.get(0)?,
                what: row.get(1)?,
                at: time(row.get(2)?),
                pid: row.get(3)?,
                actor: actor.and_then(|text| serde_json::from_str(&text).ok()),
            });
        }
        Ok(())
    }

    /// Lets an alert wait for its webhook; how many older ones were dropped for it.
    pub(crate) fn spool(&self, url: &str, body: &str) -> Result<usize> {
        Ok(self.0.write(|change| {
            change.execute(
                "INSERT INTO spool (url, body, attempts, next_ms) VALUES (?1, ?2, 0, 0)",
                (url, body),
            )?;
            change.execute(
                "DELETE FROM spool WHERE url = ?1 AND id <=
                    (SELECT max(id) FROM spool WHERE url = ?1) - ?2",
                (url, MOST_SPOOLED),
            )
        })?)
    }

    /// The oldest alert whose time has come.
    pub(crate) fn due(&self, now: Timestamp) -> Result<Option<(i64, String, String, u32)>> {
        let connection = self.0.connection();
        let sql =
            "SELECT id, url, body, attempts FROM spool WHERE next_ms <= ?1 ORDER BY id LIMIT 1";
        let found = connection.query_row(sql, [now.as_millisecond()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        Ok(found.optional()?)
    }

    pub(crate) fn delivered(&self, id: i64) -> Result<()> {
        self.0
            .write(|change| change.execute("DELETE FROM spool WHERE id = ?1", [id]))?;
        Ok(())
    }

    pub(crate) fn postpone(&self, url: &str, until: Timestamp, id: i64) -> Result<()> {
        self.0.write(|change| -> rusqlite::Result<()> {
            // One place that is down holds up its own alerts only, in their order.
            change.execute(
                "UPDATE spool SET next_ms = ?2 WHERE url = ?1",
                (url, until.as_millisecond()),
            )?;
            change.execute(
                "UPDATE spool SET attempts = attempts + 1 WHERE id = ?1",
                [id],
            )?;
            Ok(())
        })?;
        Ok(())
    }

    /// How many alerts wait.
    pub(crate) fn waiting(&self) -> Result<u64> {
        let connection = self.0.connection();
        let count: i64 =
            connection.query_row("SELECT count(*) FROM spool", [], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Forgets what is older than that.
    pub(crate) fn forget(&self, before: Timestamp) -> Result<()> {
        let before = before.as_millisecond();
        self.0.write(|change| -> rusqlite::Result<()> {
            change.execute("DELETE FROM incidents WHERE ended_ms < ?1", [before])?;
            change.execute(
                "DELETE FROM actors WHERE container IN
                    (SELECT container FROM watched WHERE until_ms < ?1)",
                [before],
            )?;
            change.execute("DELETE FROM watched WHERE until_ms < ?1", [before])?;
            Ok(())
        })?;
        Ok(())
    }
}

const INCIDENT: &str = "SELECT id, container, name, engine, begun_ms, severity, reason, respond, \
                        step, evidence, outcome, ended_ms FROM incidents";

fn incident(row: &Row<'_>) -> rusqlite::Result<Incident> {
    let ended: Option<i64> = row.get(11)?;
    Ok(Incident {
        id: row.get(0)?,
        container: row.get(1)?,
        name: row.get(2)?,
        engine: row.get(3)?,
        begun_at: time(row.get(4)?),
        severity: row.get(5)?,
        reason: row.get(6)?,
        respond: row.get(7)?,
        step: row.get(8)?,
        evidence: row.get(9)?,
        outcome: row.get(10)?,
        ended_at: ended.map(time),
    })
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A severity by its name.
pub(crate) fn severity(name: &str) -> Severity {
    let all = Severity::ALL.into_iter();
    all.rev()
        .find(|level| level.as_str() == name)
        .unwrap_or(Severity::Critical)
}
