//! Going on with a capture whose process was killed.
//!
//! The log says how far it came. A container that it left frozen is still as it was then: what is
//! missing is taken, and it is killed or goes on as planned. Anything else is not frozen again;
//! what can no longer be had is recorded as a gap.

use std::path::Path;

use invar_engine::{Container, Engine, EngineError, State};
use jiff::Timestamp;

use super::freeze::Frozen;
use super::log::{self, Record, Step, What};
use super::pace::Pace;
use super::{Capture, mounted, upper};
use crate::error::{EvidenceError, Result};
use crate::limits::Limits;
use crate::store::{Draft, Evidence, EvidenceStore};
use crate::tree::entry;
use crate::tree::take::{Method, Taken};

/// How far a capture came.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    /// It had the container frozen, or was about to.
    froze: bool,
    /// When it was frozen.
    frozen_at: Option<Timestamp>,
    /// How the upper directory was being taken.
    taking: Option<Method>,
    /// What was taken of it.
    taken: Option<Taken>,
    has_logs: bool,
    is_kept: bool,
}

impl Progress {
    fn of(records: &[Record]) -> Self {
        let mut progress = Self::default();
        for record in records {
            let What::Step(step) = &record.what else {
                continue;
            };
            match step {
                Step::Freezing => progress.froze = true,
                Step::Frozen | Step::FoundFrozen => progress.frozen_at = Some(record.at),
                Step::Killed { .. } | Step::Resumed { .. } => progress.froze = false,
                Step::Taking { method } => progress.taking = Some(*method),
                Step::Taken(taken) => progress.taken = Some(taken.clone()),
                Step::PutBack => progress.taken = None,
                Step::Logs { .. } => progress.has_logs = true,
                Step::Kept => progress.is_kept = true,
                _ => {}
            }
        }
        progress
    }
}

/// Whether a capture that broke off may have left its container frozen.
pub(crate) fn left_frozen(dir: &Path) -> bool {
    log::read(dir).is_ok_and(|records| Progress::of(&records).froze)
}

/// Whether a capture has kept all that could be lost.
pub(crate) fn is_kept(dir: &Path) -> bool {
    log::read(dir).is_ok_and(|records| Progress::of(&records).is_kept)
}

/// Takes up a capture; what is returned is ready to be sealed.
pub(crate) fn take_up(
    store: &EvidenceStore,
    evidence: &Evidence,
    engine: &dyn Engine,
    limits: Limits,
) -> Result<Draft> {
    let mut draft = EvidenceStore::take_up(evidence, &limits)?;
    let progress = Progress::of(&log::read(&draft.dir)?);
    draft.log.step(Step::TakenUp)?;
    let container = match engine.inspect(draft.header.container.id.as_str()) {
        Ok(container) => container,
        Err(EngineError::NotFound { .. }) => return without_container(draft),
        Err(error) => return Err(EvidenceError::engine("look at the container")(error)),
    };
    let mut capture = Capture::new(store, engine, &container, draft, limits)?;
    let went_on = capture.go_on(store, &progress);
    capture.or_break_off(went_on)?;
    Ok(capture.draft)
}

/// The container is gone: what was taken is all there is.
fn without_container(mut draft: Draft) -> Result<Draft> {
    let reason = "the capture was killed, and the container is gone";
    draft.log.not_captured(b"what is not here", reason)?;
    mounted::drop_unfinished(&draft.dir, &mut draft.log)?;
    let listed = upper::complete_listings(&draft.dir, &mut draft.log);
    draft.log.absorb("upper directory", listed)?;
    Ok(draft)
}

impl Capture<'_> {
    fn go_on(&mut self, store: &EvidenceStore, progress: &Progress) -> Result<()> {
        mounted::drop_unfinished(&self.draft.dir, &mut self.draft.log)?;
        self.open_root(store)?;
        self.taken = self.was_taken(progress)?;
        let frozen = (progress.froze && self.container.state == State::Paused)
            .then(|| Frozen::take_up(self.engine, &self.container.id));
        let is_as_it_was = frozen.is_some() || has_ended(self.container);
        if is_as_it_was {
            self.take_frozen(frozen)?;
        } else if let (None, Some(at)) = (&self.taken, progress.frozen_at) {
            self.take_live(at)?;
        } else if self.taken.is_none() {
            let reason = "the capture was killed, and the container went on meanwhile: capture it \
                          again";
            self.draft.log.not_captured(b"upper directory", reason)?;
        }
        self.has_logs |= progress.has_logs;
        self.is_kept = progress.is_kept;
        self.try_complete()
    }

    /// What an earlier process took of the upper directory. A half-made copy is thrown away when
    /// the container still is as it was.
    fn was_taken(&mut self, progress: &Progress) -> Result<Option<Taken>> {
        let place = upper::place(&self.draft.dir);
        if progress.taken.is_some() || !place.exists() {
            return Ok(progress.taken.clone());
        }
        if progress.taking == Some(Method::Renamed) {
            let taken = Taken::none(Method::Renamed);
            self.draft.log.step(Step::Taken(taken.clone()))?;
            return Ok(Some(taken));
        }
        let is_as_it_was = self.container.state == State::Paused || has_ended(self.container);
        if is_as_it_was && self.root.is_some() {
            invar_sys::tree::remove(&place).map_err(EvidenceError::io("remove", &place))?;
            return Ok(None);
        }
        // Files linked in here may be written to by the container that went on.
        if self.root.is_some() && progress.taking != Some(Method::Linked) {
            invar_sys::tree::remove(&place).map_err(EvidenceError::io("remove", &place))?;
            return Ok(None);
        }
        // It may end in the middle of a line; what is here is listed anew.
        let listing = upper::found_listing(&self.draft.dir, "upper");
        fs_err::remove_file(listing).ok();
        let reason = "only the part that was taken when the capture was killed";
        self.draft.log.not_captured(b"upper directory", reason)?;
        Ok(Some(Taken::none(progress.taking.unwrap_or(Method::Copied))))
    }

    /// Copies the upper directory of a container that went on, and names what may not be as it was
    /// when it was frozen.
    fn take_live(&mut self, frozen_at: Timestamp) -> Result<()> {
        let Some(upper) = self.root.as_ref().and_then(|root| root.upper.as_ref()) else {
            return Ok(());
        };
        let reason = "the capture was killed before all was taken; files that changed since then \
                      are named";
        self.draft.log.not_captured(b"upper directory", reason)?;
        let since = entry::Instant(
            frozen_at.as_second(),
            u32::try_from(frozen_at.subsec_nanosecond()).unwrap_or(0),
        );
        let (dir, log) = (&self.draft.dir, &mut self.draft.log);
        let (budget, pace) = (&mut self.budget, &mut Pace::live(since));
        self.taken = Some(upper::take(upper, dir, Method::Copied, budget, pace, log)?);
        Ok(())
    }
}

fn has_ended(container: &Container) -> bool {
    matches!(
        container.state,
        State::Created | State::Exited(_) | State::Restarting(_)
    )
}
