//! Containers that a capture left frozen when it was killed.

use std::path::Path;

use invar_engine::State;
use invar_evidence::{Evidence, EvidenceStore};

use crate::{engines, printer};

/// Whether the container of a capture that broke off still is frozen because of that.
pub(super) fn is_left(root: &Path, evidence: &Evidence) -> bool {
    let Some(header) = evidence.header.as_ref().filter(|_| evidence.left_frozen()) else {
        return false;
    };
    let subject = &header.container;
    let found = engines::open(root, &subject.engine)
        .and_then(|engine| Ok(engine.inspect(subject.id.as_str())?));
    found.is_ok_and(|container| container.state == State::Paused)
}

/// Says of each such container that it is frozen, why, and what to do.
pub(crate) fn warn(root: &Path) -> anyhow::Result<()> {
    // A listing must not make the store of evidence.
    if !root.join("evidence").is_dir() {
        return Ok(());
    }
    for evidence in EvidenceStore::open(root)?.list()? {
        if is_left(root, &evidence) {
            say(&evidence);
        }
    }
    Ok(())
}

/// Says it of one.
pub(super) fn say(evidence: &Evidence) {
    let Some(header) = &evidence.header else {
        return;
    };
    let name = format!("{}:{}", header.container.engine, header.container.name);
    let name = printer::escape(name.as_bytes());
    printer::note(format!(
        "{name} is FROZEN since its capture was killed ({})",
        header.begun_at
    ));
    printer::hint(&format!(
        "finish the capture and let it go on with: invar evidence resume {0}; or let it go on \
         without, with: invar unpause {name}",
        evidence.id
    ));
}
