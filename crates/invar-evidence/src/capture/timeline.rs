//! `timeline.jsonl`: what happened when, in the form Timesketch imports: `message`, `datetime`
//! (ISO 8601) and `timestamp_desc`.

use std::borrow::Cow;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use invar_drift::Sorter;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::log::{Record, What};
use super::processes::{self, Process};
use super::{log, mounted, upper};
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::header::Header;
use crate::lines::Lines;
use crate::text;
use crate::tree::entry::{Entry, EntryKind, Instant};
use crate::tree::list::Reader;

/// Its name in the evidence.
pub(crate) const NAME: &str = "timeline.jsonl";
/// Most processes that are read back; more are never recorded.
const MOST: usize = 500_000;

/// One event.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Event {
    datetime: Timestamp,
    timestamp_desc: Cow<'static, str>,
    message: String,
}

/// Writes the timeline from what is in the evidence.
pub(crate) fn write(header: &Header, dir: &Path) -> Result<()> {
    let mut events = Sorter::new(dir);
    let mut failure = None;
    let mut add = |datetime: Option<Timestamp>, timestamp_desc: &'static str, message: String| {
        if let Some(datetime) = datetime
            && failure.is_none()
        {
            let bytes = message.len();
            let event = Event {
                datetime,
                timestamp_desc: timestamp_desc.into(),
                message,
            };
            failure = events.push(event, bytes).err();
        }
    };
    let container = &header.container;
    let subject = |what| format!("container {:?} {what}", container.name);
    add(
        Some(container.created_at),
        "Creation Time",
        subject("created"),
    );
    add(container.started_at, "Start Time", subject("started"));
    for process in read_processes(dir)? {
        let args = process.args.join(" ");
        let message = format!("process {} started: {} [{args}]", process.pid, process.name);
        add(process.started_at, "Start Time", message);
    }
    for record in log::read(dir)? {
        let Record {
            at,
            what: What::Step(step),
        } = record
        else {
            continue;
        };
        let step = serde_json::to_value(&step).unwrap_or_default();
        let step = step["step"].as_str().unwrap_or_default().to_owned();
        add(Some(at), "Capture", format!("capture: {step}"));
    }
    let mounts = mounted::read(dir)?.into_iter();
    let mounts = mounts.map(|line| (line.tree, line.mounted_at));
    for (tree, at) in mounts.chain([("upper".to_owned(), String::new())]) {
        let listing = upper::listing(dir, &tree);
        if listing.exists() {
            for entry in Reader::open(&listing)? {
                files_events(&at, &entry?, &mut add);
            }
        }
    }
    let path = dir.join(NAME);
    let sorting = || EvidenceError::io("sort", &path);
    let sorted = failure.map_or_else(|| events.finish(), Err);
    let mut out = BufWriter::new(files::create(&path)?);
    for event in sorted.map_err(sorting())? {
        serde_json::to_writer(&mut out, &event.map_err(sorting())?)
            .map_err(std::io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(EvidenceError::io("write", &path))?;
    }
    out.flush().map_err(EvidenceError::io("write", &path))
}

/// A whiteout's times are not those of the deletion: overlayfs may share one among many.
fn files_events(
    at: &str,
    entry: &Entry,
    add: &mut impl FnMut(Option<Timestamp>, &'static str, String),
) {
    let is_device = matches!(entry.kind, EntryKind::Character | EntryKind::Block);
    // The engine fills `/dev` at every start.
    if entry.is_whiteout() || (is_device && !at.is_empty()) {
        return;
    }
    let path = format!("{at}{}", text::shown(&entry.path));
    let changed = (entry.ctime != entry.mtime).then_some(entry.ctime);
    let times = [
        (Some(entry.mtime), "Content Modification Time", "written"),
        (changed, "Metadata Modification Time", "metadata changed"),
        (entry.btime, "Creation Time", "created"),
    ];
    for (time, description, what) in times {
        let time = time.and_then(timestamp);
        add(time, description, format!("{path} {what}"));
    }
}

fn timestamp(Instant(seconds, nanoseconds): Instant) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

/// The processes as they were recorded; none when there were none.
pub(crate) fn read_processes(dir: &Path) -> Result<Vec<Process>> {
    Lines::open(&dir.join(processes::NAME))?
        .take(MOST)
        .collect()
}
