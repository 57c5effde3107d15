//! Who did something: a process as `/proc` tells of it, and how it came into the container.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;

use fs_err as fs;
use serde::Serialize;

/// Bytes of a command line that are kept; the kernel allows megabytes.
const LONGEST_COMMAND: u64 = 4096;
const MOST_ANCESTORS: usize = 32;
/// Processes that are remembered after they have ended.
const MOST_REMEMBERED: usize = 4096;

/// A process. All text is escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// As the host numbers it.
    pub pid: u32,
    /// When it began, in clock ticks after the machine's start: with `pid`, names it for ever.
    pub start_ticks: u64,
    /// Its program, as its mount namespace names it.
    pub exe: String,
    /// Its command line.
    pub argv: Vec<String>,
    /// Its real user, as the host numbers it.
    pub uid: u32,
    /// Its parent, the parent of that, and so on.
    pub ancestry: Vec<Ancestor>,
    /// How it came to be in the container.
    pub session: Session,
}

/// A process above another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ancestor {
    /// As the host numbers it.
    pub pid: u32,
    /// Its short name.
    pub name: String,
}

/// How a process came to be in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Session {
    /// A descendant of the container's first process. What outlives an `exec` session becomes one.
    Container,
    /// Came in by `exec`, or descends from what did.
    Exec {
        /// The first process of the session, as the host numbers it.
        pid: u32,
    },
    /// Not in the container: for example an engine that copies files into it.
    Host,
}

impl Session {
    /// As listings show it.
    pub fn text(self) -> String {
        match self {
            Self::Container => "container".to_owned(),
            Self::Exec { pid } => format!("exec session {pid}"),
            Self::Host => "host".to_owned(),
        }
    }
}

/// Reads who `pid` is, seen from the container whose first process is `init`. `None` when it has
/// ended.
pub(crate) fn read(pid: u32, init: u32) -> Option<Actor> {
    let stat = Stat::read(pid)?;
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    let exe = exe.map(|exe| escaped(exe.as_os_str().as_bytes()));
    let chain = ancestors(stat.parent);
    let session = session(pid, init, &chain);
    Some(Actor {
        pid,
        start_ticks: stat.start,
        exe: exe.unwrap_or_default(),
        argv: command_line(pid, LONGEST_COMMAND),
        uid: uid(pid)?,
        ancestry: chain,
        session,
    })
}

/// The words of a process's command line up to so many bytes; none once it has ended.
pub(crate) fn command_line(pid: u32, limit: u64) -> Vec<String> {
    let mut text = Vec::new();
    let read = fs::File::open(format!("/proc/{pid}/cmdline"))
        .and_then(|file| file.take(limit).read_to_end(&mut text));
    if read.is_err() || text.is_empty() {
        return Vec::new();
    }
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    text.split(|byte| *byte == 0).map(escaped).collect()
}

fn escaped(text: &[u8]) -> String {
    invar_drift::escape(text).into_owned()
}

fn uid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

struct Stat {
    name: String,
    parent: u32,
    start: u64,
}

impl Stat {
    /// `PID (NAME) STATE PPID …`, the start at place 22 (proc(5)); the name may hold anything.
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Self {
            name: escaped(text.get(open + 1..close)?),
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

fn ancestors(mut parent: u32) -> Vec<Ancestor> {
    let mut chain = Vec::new();
    while parent != 0 && chain.len() < MOST_ANCESTORS {
        let Some(stat) = Stat::read(parent) else {
            break;
        };
        chain.push(Ancestor {
            pid: parent,
            name: stat.name,
        });
        parent = stat.parent;
    }
    chain
}

fn session(pid: u32, init: u32, chain: &[Ancestor]) -> Session {
    if pid == init || chain.iter().any(|ancestor| ancestor.pid == init) {
        return Session::Container;
    }
    let inside = namespace(init);
    if inside.is_none() || inside == namespace(std::process::id()) {
        return Session::Host;
    }
    let mut line = std::iter::once(pid).chain(chain.iter().map(|ancestor| ancestor.pid));
    let top = line.rfind(|pid| namespace(*pid) == inside);
    top.map_or(Session::Host, |pid| Session::Exec { pid })
}

fn namespace(pid: u32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Processes that were seen executing something, for when they have ended before their deeds are
/// told.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    actors: HashMap<u32, Actor>,
}

impl Remembered {
    pub(crate) fn put(&mut self, actor: Actor) {
        if self.actors.len() >= MOST_REMEMBERED && !self.actors.contains_key(&actor.pid) {
            self.actors.clear();
        }
        self.actors.insert(actor.pid, actor);
    }

    pub(crate) fn get(&self, pid: u32) -> Option<Actor> {
        self.actors.get(&pid).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_with_its_words_and_its_parents() {
        let pid = std::process::id();
        let actor = read(pid, pid).unwrap();
        assert_eq!(actor.session, Session::Container);
        assert!(!actor.argv.is_empty() && actor.exe.starts_with('/'));
        assert_eq!(actor.ancestry.last().map(|last| last.pid), Some(1));
        assert_eq!(read(u32::MAX, pid), None);
    }
}
