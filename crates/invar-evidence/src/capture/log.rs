//! `capture-log.jsonl`: what was done when, what failed, and what was not captured.
//!
//! Each record is written at once, so that a capture that is killed can be told from its log.

use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{EvidenceError, Result};
use crate::text;
use crate::tree::take::{Method, Taken};

/// The log's name in the evidence.
pub(crate) const NAME: &str = "capture-log.jsonl";
/// Bytes of a path or reason that are written.
const LONGEST_NAME: usize = 1024;
/// Longest log that is read back.
const LONGEST: u64 = 64 << 20;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What a line of the log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum What {
    /// A step of the capture began or was done.
    Step(Step),
    /// Something was left out, or only a part of it was taken.
    NotCaptured {
        /// A path in the container, escaped, or a kind of thing.
        what: String,
        /// Why.
        reason: String,
    },
    /// The capture broke off.
    BrokeOff {
        /// Why.
        reason: String,
    },
}

/// The steps, in the order of a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// It began.
    Begun,
    /// The engine was asked to freeze the container.
    Freezing,
    /// Every process is frozen.
    Frozen,
    /// The container was frozen by somebody else before.
    FoundFrozen,
    /// Processes, open files and network tables were recorded.
    Processes {
        /// How many processes.
        count: usize,
    },
    /// The memory of the processes was kept.
    Memory {
        /// Of how many processes.
        count: usize,
    },
    /// The upper directory is about to be taken.
    Taking {
        /// How.
        method: Method,
    },
    /// The upper directory was taken.
    Taken(Taken),
    /// A moved upper directory was put back, because the container could not be killed.
    PutBack,
    /// Every process is about to be killed while frozen.
    Killing,
    /// No process is left.
    Killed {
        /// How long the container was frozen before it was killed, in milliseconds.
        frozen_ms: u64,
    },
    /// The container goes on.
    Resumed {
        /// How long the container was frozen, in milliseconds.
        frozen_ms: u64,
    },
    /// The bytes of programs, deleted and memory files were kept.
    Files {
        /// How many.
        count: usize,
    },
    /// All that could change or vanish was kept: what follows needs no container.
    Kept,
    /// The container was compared with its image.
    Changes {
        /// How many paths.
        count: usize,
    },
    /// The container's output was kept.
    Logs {
        /// Bytes.
        bytes: u64,
    },
    /// All that could be taken was.
    Complete,
    /// Another process went on with a capture that had been killed.
    TakenUp,
    /// It is being hashed and signed.
    Sealing,
}

/// The log of one capture.
#[derive(Debug)]
pub(crate) struct Log {
    file: fs::File,
    path: PathBuf,
    /// Where in the container the tree lies that paths are from.
    base: Vec<u8>,
    gaps: u64,
    most_gaps: u64,
}

impl Log {
    /// Opens the log of a capture, made when missing.
    pub(crate) fn open(dir: &Path, most_gaps: u64) -> Result<Self> {
        let path = dir.join(NAME);
        let mut options = fs::OpenOptions::new();
        options.append(true).create(true);
        options.mode(0o600);
        let file = options
            .open(&path)
            .map_err(EvidenceError::io("open", &path))?;
        Ok(Self {
            file,
            path,
            base: Vec::new(),
            gaps: 0,
            most_gaps,
        })
    }

    pub(crate) fn step(&mut self, step: Step) -> Result<()> {
        let what = What::Step(step);
        self.write(&what)?;
        if let Ok(value) = serde_json::to_value(&what)
            && let Some(name) = value["step"].as_str()
        {
            crate::failpoint::hit(name);
        }
        Ok(())
    }

    /// Paths named from now on lie below this one.
    pub(crate) fn set_base(&mut self, base: &[u8]) {
        self.base = base.strip_suffix(b"/").unwrap_or(base).to_vec();
    }

    pub(crate) fn broke_off(&mut self, error: &EvidenceError) -> Result<()> {
        let reason = text::shown(error.chain().as_bytes());
        self.write(&What::BrokeOff { reason })
    }

    /// Records that something, named by its path or kind, was not captured. After the limit of
    /// records, only the fact that there are more.
    pub(crate) fn not_captured(&mut self, what: &[u8], reason: impl Display) -> Result<()> {
        self.gaps += 1;
        let below = if what.starts_with(b"/") {
            [self.base.as_slice(), what].concat()
        } else {
            what.to_vec()
        };
        let what = below.as_slice();
        let (what, reason) = match self.gaps.cmp(&self.most_gaps) {
            std::cmp::Ordering::Less => (what, reason.to_string()),
            std::cmp::Ordering::Equal => (
                b"more".as_slice(),
                format!("only the first {} gaps are recorded", self.most_gaps),
            ),
            std::cmp::Ordering::Greater => return Ok(()),
        };
        let short = |bytes: &[u8]| text::shown(&bytes[..bytes.len().min(LONGEST_NAME)]);
        self.write(&What::NotCaptured {
            what: short(what),
            reason: short(reason.as_bytes()),
        })
    }

    /// Records the failure of one part; the others go on.
    pub(crate) fn absorb(&mut self, what: &str, result: Result<()>) -> Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.not_captured(what.as_bytes(), error.chain()),
        }
    }

    fn write(&mut self, what: &What) -> Result<()> {
        let record = Record {
            at: Timestamp::now(),
            what: what.clone(),
        };
        let mut line = serde_json::to_vec(&record).expect("a record is plain data");
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(EvidenceError::io("write", &self.path))
    }
}

/// Reads a log back. A last line that was cut off by a kill is left out.
pub(crate) fn read(dir: &Path) -> Result<Vec<Record>> {
    let path = dir.join(NAME);
    let bytes = crate::files::read(&path, LONGEST)?;
    let mut records = Vec::new();
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(_) if !line.ends_with(b"\n") => {}
            Err(error) => {
                let what = format!("{NAME} line {}", index + 1);
                return Err(EvidenceError::malformed(what, error));
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cut_off_by_a_kill_does_not_hide_the_others() {
        let stage = tempfile::tempdir().unwrap();
        let mut log = Log::open(stage.path(), 10).unwrap();
        log.step(Step::Begun).unwrap();
        log.step(Step::Killed { frozen_ms: 7 }).unwrap();
        log.file.write_all(b"{\"at\":\"2026-").unwrap();
        let records = read(stage.path()).unwrap();
        let steps: Vec<&What> = records.iter().map(|record| &record.what).collect();
        assert_eq!(
            steps,
            [
                &What::Step(Step::Begun),
                &What::Step(Step::Killed { frozen_ms: 7 })
            ]
        );
    }

    #[test]
    fn gaps_are_escaped_and_bounded() {
        let stage = tempfile::tempdir().unwrap();
        let mut log = Log::open(stage.path(), 3).unwrap();
        for _ in 0..9 {
            log.not_captured(b"/a\x1b[2J\n", "why\n").unwrap();
        }
        let records = read(stage.path()).unwrap();
        assert_eq!(records.len(), 3);
        let What::NotCaptured { what, reason } = &records[0].what else {
            panic!("{records:?}");
        };
        assert_eq!((what.as_str(), reason.as_str()), (r"/a\x1b[2J\n", r"why\n"));
        let What::NotCaptured { what, .. } = &records[2].what else {
            panic!("{records:?}");
        };
        assert_eq!(what, "more");
    }
}
