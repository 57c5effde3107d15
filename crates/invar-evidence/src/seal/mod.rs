//! Sealing: hashed, signed, read-only, on disk.
//!
//! ```text
//!  files ──▶ SHA256SUMS ──┐
//!  raw/ ──▶ listings ─────┘ (among the files)
//!  evidence.json ───────────▶ in-toto statement ──▶ DSSE, Ed25519 ──▶ seal.dsse.json
//! ```
//!
//! Killed at any point, sealing is done again from the start; what makes the evidence sealed is
//! the rename at the end.

pub(crate) mod dsse;
pub(crate) mod key;
pub(crate) mod sums;

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use self::dsse::Sealed;
use self::key::PrivateKey;
use crate::capture::log::{self, Record, Step, What};
use crate::capture::{changes, timeline, upper};
use crate::custody::{self, Action};
use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::failpoint;
use crate::files;
use crate::header::{self, Gap, Summary};
use crate::lines::Lines;
use crate::store::{Draft, Evidence, EvidenceStore, set_mode};

/// Gaps named in the header; all are in the log.
const MOST_GAPS: usize = 1000;

/// Seals a complete draft.
pub(crate) fn seal(store: &EvidenceStore, mut draft: Draft) -> Result<Evidence> {
    let key = PrivateKey::load_or_create(&store.trust())?;
    draft.log.step(Step::Sealing)?;
    timeline::write(&draft.header, &draft.dir)?;
    draft.header.summary = Some(summary(&draft.dir)?);
    draft.header.write(&draft.dir)?;
    lock_down(&draft.dir)?;
    let sums = sums::format(&sums::compute(&draft.dir)?);
    files::replace(&draft.dir.join(sums::NAME), &sums)?;
    // Everything under it, the trees of a container included, before the signature is.
    let disk = fs::File::open(&draft.dir).map_err(EvidenceError::io("open", &draft.dir))?;
    rustix::fs::syncfs(&disk).map_err(EvidenceError::io("write", &draft.dir))?;

    let header = files::read(&draft.dir.join(header::NAME), header::LONGEST)?;
    let digest = digest::sha256(&sums);
    let sealed = Sealed {
        subjects: vec![
            (sums::NAME.to_owned(), digest.clone()),
            (header::NAME.to_owned(), digest::sha256(&header)),
        ],
        predicate: json!({
            "id": draft.header.id,
            "container": draft.header.container,
            "begunAt": draft.header.begun_at,
            "host": draft.header.host,
            "tool": draft.header.tool,
        }),
    };
    files::replace(&draft.dir.join(dsse::NAME), &dsse::sign(&key, &sealed))?;
    failpoint::hit("signed");
    custody::start(store, &key, &draft.dir, &draft.header.id, &digest)?;
    for name in [sums::NAME, dsse::NAME] {
        set_mode(&draft.dir.join(name), 0o400)?;
    }
    failpoint::hit("custody");
    store.publish(draft)
}

/// Adds an entry to the custody log of sealed evidence.
pub fn record(store: &EvidenceStore, evidence: &Evidence, action: Action) -> Result<()> {
    let key = PrivateKey::load_or_create(&store.trust())?;
    custody::append(store, &key, evidence, action)
}

/// What was found, from the log and the changes.
fn summary(dir: &Path) -> Result<Summary> {
    let mut summary = Summary {
        sealed_at: Timestamp::now(),
        is_complete: false,
        frozen_ms: None,
        processes: 0,
        upper: None,
        changes: severities(&dir.join(changes::NAME))?,
        gaps: 0,
        not_captured: Vec::new(),
    };
    for Record { what, .. } in log::read(dir)? {
        match what {
            What::Step(Step::Complete) => summary.is_complete = true,
            What::Step(Step::Killed { frozen_ms } | Step::Resumed { frozen_ms }) => {
                summary.frozen_ms = Some(frozen_ms);
            }
            What::Step(Step::Processes { count }) => summary.processes = count as u64,
            What::Step(Step::Taken(mut taken)) => {
                taken.entries = entries(&upper::listing(dir, "upper"))?;
                summary.upper = Some(taken);
            }
            What::NotCaptured { what, reason } => {
                summary.gaps += 1;
                if summary.not_captured.len() < MOST_GAPS {
                    summary.not_captured.push(Gap { what, reason });
                }
            }
            What::Step(_) | What::BrokeOff { .. } => {}
        }
    }
    Ok(summary)
}

/// How many entries a listing has.
fn entries(listing: &Path) -> Result<u64> {
    let counted = Lines::<serde::de::IgnoredAny>::open(listing)?;
    counted.map(|line| line.map(|_| 1)).sum()
}

/// How many changes there are of each severity.
fn severities(path: &Path) -> Result<BTreeMap<String, u64>> {
    #[derive(Deserialize)]
    struct Line {
        severity: String,
    }
    let mut found = BTreeMap::new();
    for line in Lines::<Line>::open(path)? {
        *found.entry(line?.severity).or_default() += 1;
    }
    Ok(found)
}

/// Takes away the permission to write, so that nothing changes by accident.
fn lock_down(dir: &Path) -> Result<()> {
    for name in sums::list(dir)? {
        set_mode(&dir.join(&name), 0o400)?;
        let mut parent = Path::new(&name).parent();
        while let Some(below) = parent.filter(|below| !below.as_os_str().is_empty()) {
            set_mode(&dir.join(below), 0o500)?;
            parent = below.parent();
        }
    }
    Ok(())
}
