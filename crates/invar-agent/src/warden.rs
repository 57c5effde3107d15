//! What happens when the agent is killed where the kernel then lets everything run again: another
//! process, the warden, freezes what was in `block`, and the next agent lets it go on once it is
//! watched again.
//!
//! Which containers these are is in the journal, so that a warden that was killed loses nothing. A
//! container is noted as frozen before it is frozen, and once more after it: whoever is killed in
//! between, no container stays frozen that no note tells of.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;

use invar_drift::Severity;
use invar_engine::{Engine, EngineError, State};
use jiff::Timestamp;
use rusqlite::OptionalExtension as _;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};

use crate::agent::Shared;
use crate::alert::{Alert, Courier, Sender};
use crate::discovery::Host;
use crate::error::{AgentError, Result};
use crate::journal::{Incident, Journal};
use crate::policy::{Mode, OnLoss, parse};
use crate::respond::is_held;

/// What the agent says at an orderly end.
const ORDERLY: u8 = b'e';

/// A container as the journal names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) engine: String,
    pub(crate) container: String,
    pub(crate) name: String,
}

impl Named {
    fn of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            engine: row.get(0)?,
            container: row.get(1)?,
            name: row.get(2)?,
        })
    }
}

impl Journal {
    /// The containers that are to be frozen when the agent is lost.
    fn guard(&self, all: &BTreeSet<Named>) -> Result<()> {
        self.database().write(|change| -> rusqlite::Result<()> {
            change.execute("DELETE FROM guarded", [])?;
            let mut put = change.prepare_cached("INSERT INTO guarded VALUES (?1, ?2, ?3)")?;
            for one in all {
                put.execute((&one.engine, &one.container, &one.name))?;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn guarded(&self) -> Result<Vec<Named>> {
        let connection = self.database().connection();
        let mut found = connection.prepare("SELECT engine, container, name FROM guarded")?;
        let rows = found.query_map([], Named::of_row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn note_frozen(&self, one: &Named) -> Result<()> {
        let now = Timestamp::now().as_millisecond();
        self.database().write(|change| {
            change.execute(
                "INSERT INTO frozen VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET at_ms = ?4",
                (&one.engine, &one.container, &one.name, now),
            )
        })?;
        Ok(())
    }

    fn forget_frozen(&self, one: &Named) -> Result<()> {
        let sql = "DELETE FROM frozen WHERE engine = ?1 AND container = ?2";
        let of = (&one.engine, &one.container);
        self.database().write(|change| change.execute(sql, of))?;
        Ok(())
    }

    fn frozen(&self) -> Result<Vec<Named>> {
        let connection = self.database().connection();
        let mut found = connection.prepare("SELECT engine, container, name FROM frozen")?;
        let rows = found.query_map([], Named::of_row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// When the warden froze a container.
    fn frozen_at(&self, one: &Named) -> Result<Option<Timestamp>> {
        let connection = self.database().connection();
        let sql = "SELECT at_ms FROM frozen WHERE engine = ?1 AND container = ?2";
        let found = connection.query_row(sql, (&one.engine, &one.container), |row| row.get(0));
        let millis: Option<i64> = found.optional()?;
        Ok(millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()))
    }
}

/// The agent's side: its warden, and what that one is to freeze.
#[derive(Debug, Default)]
pub(crate) struct Warden {
    process: Option<Child>,
    /// What the journal says; not known before the first time.
    guarded: Option<BTreeSet<Named>>,
    is_wanted: bool,
    /// Told once, until it is in order again.
    problem: Option<String>,
}

impl Warden {
    /// Has what is blocked now frozen when the agent is lost, if the policy says so.
    pub(crate) fn guard(&mut self, shared: &Shared, on_loss: OnLoss) {
        self.is_wanted = on_loss == OnLoss::Freeze;
        let mut blocked = BTreeSet::new();
        if self.is_wanted {
            for one in shared.watched().values() {
                if one.mode == Mode::Block {
                    blocked.insert(Named {
                        engine: one.engine.clone(),
                        container: one.id.clone(),
                        name: one.name.clone(),
                    });
                }
            }
        } else if let Some(process) = self.process.take() {
            end(process);
        }
        if self.guarded.as_ref() == Some(&blocked) {
            return;
        }
        match shared.journal.guard(&blocked) {
            Ok(()) => self.guarded = Some(blocked),
            Err(error) => self.complain(
                shared,
                format!("the warden does not know what is blocked: {error}"),
            ),
        }
        self.employ(shared);
    }

    /// Once a second: a warden that was killed is followed by another one, and what a warden froze
    /// goes on as soon as it is watched.
    pub(crate) fn attend(&mut self, shared: &Shared) {
        let ended = self
            .process
            .as_mut()
            .and_then(|process| process.try_wait().ok().flatten());
        if let Some(status) = ended {
            self.process = None;
            shared.complain(format!(
                "the warden has ended ({status}); another one is started"
            ));
        }
        self.employ(shared);
        match thaw(shared) {
            Ok(()) => {}
            Err(error) => self.complain(
                shared,
                format!(
                    "what was frozen when the last agent was lost stays so: {}",
                    error.chain()
                ),
            ),
        }
    }

    /// An orderly end: nothing is frozen.
    pub(crate) fn dismiss(&mut self, shared: &Shared) {
        if let Some(process) = self.process.take() {
            end(process);
        }
        if let Err(error) = shared.journal.guard(&BTreeSet::new()) {
            self.complain(shared, format!("the warden's list is not emptied: {error}"));
        }
    }

    fn employ(&mut self, shared: &Shared) {
        if !self.is_wanted || self.process.is_some() {
            return;
        }
        let mut command = shared.host.warden();
        command
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            // What is sent to the agent's whole group must not reach it.
            .process_group(0);
        match command.spawn() {
            Ok(process) => {
                self.process = Some(process);
                self.problem = None;
            }
            Err(error) => self.complain(
                shared,
                format!("no warden can be started, and nothing is frozen when this agent is killed: {error}"),
            ),
        }
    }

    fn complain(&mut self, shared: &Shared, text: String) {
        if self.problem.as_ref() != Some(&text) {
            shared.complain(text.clone());
            self.problem = Some(text);
        }
    }
}

/// Tells a warden that all is well, and waits for its end.
fn end(mut process: Child) {
    if let Some(mut line) = process.stdin.take() {
        // It may have been killed.
        line.write_all(&[ORDERLY]).ok();
    }
    process.wait().ok();
}

/// Lets what a warden froze go on, once this agent watches it.
fn thaw(shared: &Shared) -> Result<()> {
    for one in shared.journal.frozen()? {
        let Some(engine) = shared.host.open(&one.engine)? else {
            continue;
        };
        let container = match engine.inspect(&one.container) {
            Ok(container) => container,
            Err(EngineError::NotFound { .. }) => {
                shared.journal.forget_frozen(&one)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if container.state != State::Paused {
            shared.journal.forget_frozen(&one)?;
            continue;
        }
        if !shared.watched().contains_key(&one.container) {
            continue;
        }
        let incident = shared.journal.incident_of(&one.engine, &one.container)?;
        let frozen_at = shared.journal.frozen_at(&one)?;
        match incident {
            // The response decides first.
            Some(Incident { ended_at: None, .. }) => continue,
            // It stays frozen for its own reason.
            Some(incident) if is_held(&incident) && incident.ended_at > frozen_at => {}
            _ => {
                engine.resume(&container.id)?;
                let (kind, name) = (&one.engine, &container.name);
                shared.sender.send(&Alert::of_agent(
                    Severity::High,
                    format!("{kind}:{name} is watched again and goes on; it was frozen when the last agent was lost"),
                ));
            }
        }
        shared.journal.forget_frozen(&one)?;
    }
    Ok(())
}

/// What a warden watches over.
#[derive(Debug)]
pub struct Watch {
    /// The state root.
    pub root: PathBuf,
    /// The policy, which says where alerts go.
    pub policy: PathBuf,
    /// The agent: the process that started this one.
    pub agent: u32,
}

/// Waits for the end of the agent; freezes what was in `block` when that was not an orderly one.
/// The agent says on standard input that it is.
pub fn keep_watch(watch: &Watch, host: &dyn Host) -> Result<()> {
    let agent = i32::try_from(watch.agent).ok().and_then(Pid::from_raw);
    let handle = agent.and_then(|agent| pidfd_open(agent, PidfdFlags::empty()).ok());
    // Once the handle is there, the number cannot have been given to another process.
    let handle = handle.filter(|_| getppid() == agent);
    // With the agent gone already, only what it said counts.
    if is_orderly(handle.as_ref(), &watch.root)? {
        return Ok(());
    }
    let journal = Journal::open(&watch.root)?;
    let (mut frozen, mut failed) = (Vec::new(), Vec::new());
    for one in journal.guarded()? {
        let name = format!("{}:{}", one.engine, one.name);
        match freeze(&journal, host, &one) {
            Ok(true) => frozen.push(name),
            Ok(false) => {}
            Err(error) => failed.push(format!("{name} ({})", error.chain())),
        }
    }
    let mut text = match frozen.len() {
        0 => "the agent was lost; there was nothing to freeze".to_owned(),
        _ => format!(
            "the agent was lost; frozen until it is back: {}",
            frozen.join(", ")
        ),
    };
    if !failed.is_empty() {
        write!(text, "; NOT frozen, and unguarded: {}", failed.join(", ")).ok();
    }
    tell(watch, journal, &text);
    Ok(())
}

/// Waits for the agent's word or its end; whether the end is an orderly one.
fn is_orderly(agent: Option<&OwnedFd>, root: &std::path::Path) -> Result<bool> {
    let waits =
        |error: rustix::io::Errno| AgentError::io("wait for the agent of", root)(error.into());
    let input = std::io::stdin();
    let mut has_ended = agent.is_none();
    let mut is_open = true;
    loop {
        let mut waited_for = Vec::new();
        if is_open {
            waited_for.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN));
        }
        let agent = agent.filter(|_| !has_ended);
        if let Some(agent) = agent {
            waited_for.push(PollFd::new(agent, PollFlags::IN));
        }
        if waited_for.is_empty() {
            return Ok(false);
        }
        match poll(&mut waited_for, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(waits)?,
        };
        let ready = |at: usize| {
            waited_for
                .get(at)
                .is_some_and(|fd| !fd.revents().is_empty())
        };
        let (is_told, is_gone) = if is_open {
            (ready(0), agent.is_some() && ready(1))
        } else {
            (false, ready(0))
        };
        has_ended |= is_gone;
        if is_told {
            let mut word = [0];
            match input.lock().read(&mut word) {
                Ok(1) if word == [ORDERLY] => return Ok(true),
                Ok(1) => {}
                _ => is_open = false,
            }
        }
    }
}

/// Whether it had to be frozen: what has ended, or is frozen for another reason, needs nothing.
fn freeze(journal: &Journal, host: &dyn Host, one: &Named) -> Result<bool> {
    let Some(engine) = host.open(&one.engine)? else {
        return Ok(false);
    };
    let engine: &dyn Engine = &*engine;
    let container = match engine.inspect(&one.container) {
        Ok(container) => container,
        Err(EngineError::NotFound { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if container.state != State::Running {
        return Ok(false);
    }
    // Frozen without a note is better than not frozen: an operator can let it go on.
    let noted = journal.note_frozen(one);
    match engine.pause(&container.id) {
        Ok(()) => {}
        // It has ended meanwhile.
        Err(_) if !is_running(engine, &one.container) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    noted.and_then(|()| journal.note_frozen(one))?;
    Ok(true)
}

fn is_running(engine: &dyn Engine, id: &str) -> bool {
    engine
        .inspect(id)
        .is_ok_and(|container| container.state == State::Running)
}

/// Tells it where the policy says; on standard error when that is nowhere at this moment.
fn tell(watch: &Watch, journal: Journal, text: &str) {
    let read = fs_err::read_to_string(&watch.policy).ok();
    let policy = read.and_then(|read| parse(&read, "policy").ok());
    let alerts = policy.unwrap_or_default().alerts;
    if !alerts.stdout && !alerts.syslog {
        writeln!(std::io::stderr().lock(), "{text}").ok();
    }
    // The next agent delivers what waits for a webhook.
    let sender = Sender::new(alerts, journal, Arc::new(Courier::default()));
    sender.send(&Alert::of_agent(Severity::Critical, text.to_owned()));
}
