//! What happened to the containers of a state root: `events`, a file of JSON lines that every
//! command and every shim appends to (docs/formats/events.md). One write a line, which the kernel
//! does not mix with another's; past [`LIMIT`] bytes the file becomes `events.1` and a new one
//! begins, so that the journal never fills the disk.
//!
//! It tells people and programs; no state depends on it, and a line that cannot be written is lost.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use jiff::Timestamp;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::{EngineError, Result};

/// Bytes after which a new journal is begun; the one before it is kept.
const LIMIT: u64 = 8 << 20;
/// Longest line that is read.
const LONGEST: u64 = 64 << 10;
/// How often a followed journal is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What it happened to: `container`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What, in Docker's words: `create`, `start`, `die`, `stop`, …
    pub action: String,
    /// The container.
    pub id: String,
    /// Its name then.
    pub name: String,
    /// The image it was made from, as it was named.
    pub image: String,
    /// More, by the action: `exit_code`, `signal`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// Which events to read.
#[derive(Debug, Clone, Default)]
pub struct EventOptions {
    /// None before this.
    pub since: Option<Timestamp>,
    /// None after this; ends at it also while it follows.
    pub until: Option<Timestamp>,
    /// Go on with what happens.
    pub follow: bool,
}

/// Adds an event.
pub(super) fn record(root: &Path, event: &Event) {
    // Nothing depends on it, and there is nobody to tell.
    append(root, event).ok();
}

fn append(root: &Path, event: &Event) -> std::io::Result<()> {
    let path = current(root);
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut file = open_to_append(&path)?;
    if file.metadata()?.len() > LIMIT {
        put_aside(&path, &file)?;
        file = open_to_append(&path)?;
    }
    file.write_all(&line)
}

fn open_to_append(path: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Begins a new journal, unless another process has just done it.
fn put_aside(path: &Path, full: &fs::File) -> std::io::Result<()> {
    rustix::fs::flock(full, FlockOperation::LockExclusive)?;
    if fs::metadata(path)?.ino() == full.metadata()?.ino() {
        fs::rename(path, path.with_file_name("events.1"))?;
    }
    Ok(())
}

fn current(root: &Path) -> PathBuf {
    root.join("events")
}

/// Hands on events, oldest first, until `each` says no or, without `follow`, there are no more.
pub(super) fn read(
    root: &Path,
    options: &EventOptions,
    each: &mut dyn FnMut(&Event) -> bool,
) -> Result<()> {
    let path = current(root);
    let failed = |source| EngineError::io("read", &path, source);
    let mut reader = match fs::File::open(path.with_file_name("events.1")) {
        Ok(old) => Some(BufReader::new(old)),
        Err(_none) => None,
    };
    let mut line = Vec::new();
    loop {
        let now = Timestamp::now();
        if reader.is_none() {
            reader = fs::File::open(&path).ok().map(BufReader::new);
        }
        let mut is_old = false;
        if let Some(current) = &mut reader {
            // Asked before reading, so that nothing of a journal that was put aside is lost.
            is_old = is_put_aside(current.get_ref(), &path);
            if !hand_on(current, &mut line, options, each).map_err(failed)? {
                return Ok(());
            }
        }
        if is_old {
            reader = None;
            line.clear();
            continue;
        }
        if !options.follow || options.until.is_some_and(|until| until <= now) {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

fn is_put_aside(file: &fs::File, path: &Path) -> bool {
    let inode = |metadata: std::fs::Metadata| metadata.ino();
    let now = fs::metadata(path).map(inode).ok();
    now.is_some() && now != file.metadata().map(inode).ok()
}

/// The whole lines there are; `false` when nobody wants more.
fn hand_on(
    reader: &mut BufReader<fs::File>,
    line: &mut Vec<u8>,
    options: &EventOptions,
    each: &mut dyn FnMut(&Event) -> bool,
) -> std::io::Result<bool> {
    loop {
        let read = reader.by_ref().take(LONGEST).read_until(b'\n', line)?;
        if read == 0 || !line.ends_with(b"\n") {
            return Ok(true);
        }
        let event = serde_json::from_slice::<Event>(line);
        line.clear();
        // A line cut short by a crash of the machine is not one.
        let Ok(event) = event else { continue };
        let is_wanted = options.since.is_none_or(|since| event.time >= since)
            && options.until.is_none_or(|until| event.time <= until);
        if is_wanted && !each(&event) {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: i64) -> Event {
        Event {
            time: Timestamp::from_second(number).unwrap(),
            kind: "container".to_owned(),
            action: "start".to_owned(),
            id: "0".repeat(64),
            name: format!("c{number}"),
            image: "busybox".to_owned(),
            attributes: BTreeMap::new(),
        }
    }

    fn all(root: &Path, options: &EventOptions) -> Vec<i64> {
        let mut times = Vec::new();
        read(root, options, &mut |event| {
            times.push(event.time.as_second());
            true
        })
        .unwrap();
        times
    }

    #[test]
    fn events_come_back_in_order_within_the_times_asked_for() {
        let root = tempfile::tempdir().unwrap();
        for number in 1..=5 {
            record(root.path(), &event(number));
        }
        assert_eq!(all(root.path(), &EventOptions::default()), [1, 2, 3, 4, 5]);
        let options = EventOptions {
            since: Some(Timestamp::from_second(2).unwrap()),
            until: Some(Timestamp::from_second(4).unwrap()),
            follow: false,
        };
        assert_eq!(all(root.path(), &options), [2, 3, 4]);
    }

    #[test]
    fn a_full_journal_is_put_aside_and_still_read() {
        let root = tempfile::tempdir().unwrap();
        record(root.path(), &event(1));
        let file = open_to_append(&current(root.path())).unwrap();
        // Lines that are none are passed over.
        let junk = vec![b'\n'; usize::try_from(LIMIT).unwrap()];
        (&file).write_all(&junk).unwrap();
        record(root.path(), &event(2));
        assert!(root.path().join("events.1").exists());
        assert_eq!(all(root.path(), &EventOptions::default()), [1, 2]);
    }
}
