//! Taking evidence of a container, the most volatile first.
//!
//! ```text
//!  settings ─▶ FREEZE ─▶ processes, sockets, open files ─▶ upper directory ─▶ kill or go on
//!                │                                                               │
//!                └── as short as possible: nothing is hashed, a moved upper      ▼
//!                    directory is not even walked         kept files, changes, log, timeline
//! ```
//!
//! Nothing is executed inside the container. A part that fails is recorded and the others go on;
//! the container never stays frozen because of it.

pub(crate) mod below;
pub(crate) mod changes;
mod freeze;
pub(crate) mod held;
pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod mounted;
mod mounts;
mod output;
pub(crate) mod pace;
pub(crate) mod processes;
mod resume;
pub(crate) mod timeline;
pub(crate) mod upper;

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use invar_drift::{Aside, Namespace};
use invar_engine::{Container, Engine, EngineError, MountKind, RootFs, State};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use self::freeze::Frozen;
use self::held::HeldFiles;
use self::log::Step;
use self::mounts::Mounts;
use self::pace::Pace;
use self::processes::Recorder;
pub(crate) use self::resume::{is_kept, left_frozen, take_up};
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::header::{Header, Marks, Plan};
use crate::id::EvidenceId;
use crate::limits::{Budget, Limits};
use crate::store::{Draft, EvidenceStore};
use crate::tree::take::{Method, Taken};
use crate::tree::{entry, open_dir, stat};

/// Who was seen changing what, by an agent that watched.
const WITNESS: &str = "witness.jsonl";
/// How long an engine may take to remove a container that ended.
const REMOVING: Duration = Duration::from_secs(10);

/// What a capture has, once nothing of it can be lost any more.
#[derive(Debug)]
pub struct Kept<'a> {
    /// The evidence.
    pub id: &'a EvidenceId,
    /// How long the container was frozen, in milliseconds.
    pub frozen_ms: Option<u64>,
    /// How its upper directory was taken; `None` when there was none.
    pub upper: Option<&'a Taken>,
}

/// A capture at work.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that was done or not"
)]
pub(crate) struct Capture<'a> {
    engine: &'a dyn Engine,
    container: &'a Container,
    limits: Limits,
    draft: Draft,
    root: Option<RootFs>,
    held: HeldFiles,
    mounts: Vec<mounted::Held>,
    mapped: HashSet<u64>,
    budget: Budget,
    owns_upper: bool,
    taken: Option<Taken>,
    comparison: Option<Aside>,
    has_logs: bool,
    is_kept: bool,
    saw_mounts: bool,
    /// When its mounts were opened.
    frozen_at: entry::Instant,
    frozen_ms: Option<u64>,
}

impl<'a> Capture<'a> {
    /// Opens what is needed and writes down what is known without disturbing the container.
    pub(crate) fn begin(
        store: &EvidenceStore,
        engine: &'a dyn Engine,
        container: &'a Container,
        plan: Plan,
        limits: Limits,
    ) -> Result<Self> {
        check(container, &plan, &limits)?;
        let draft = store.begin(Header::new(container, plan), &limits)?;
        let mut capture = Self::new(store, engine, container, draft, limits)?;
        let prepared = capture.prepare(store);
        capture.or_break_off(prepared)?;
        Ok(capture)
    }

    fn new(
        store: &EvidenceStore,
        engine: &'a dyn Engine,
        container: &'a Container,
        draft: Draft,
        limits: Limits,
    ) -> Result<Self> {
        Ok(Self {
            budget: Budget::new(&limits, store.dir())?,
            held: HeldFiles::new(&limits),
            engine,
            container,
            limits,
            draft,
            root: None,
            mounts: Vec::new(),
            mapped: HashSet::new(),
            owns_upper: false,
            taken: None,
            comparison: None,
            has_logs: false,
            is_kept: false,
            saw_mounts: false,
            frozen_at: pace::now(),
            frozen_ms: None,
        })
    }

    fn prepare(&mut self, store: &EvidenceStore) -> Result<()> {
        self.draft.log.step(Step::Begun)?;
        files::write_json(&self.draft.dir.join("container.json"), self.container)?;
        match self.engine.settings(&self.container.id) {
            Ok(settings) => files::write_json(&self.draft.dir.join("settings.json"), &settings)?,
            Err(error) => {
                let error = EvidenceError::engine("read the settings")(error);
                self.draft.log.not_captured(b"settings", error.chain())?;
            }
        }
        if let Some(seen) = store.ask_witness(&self.container.id) {
            files::write(&self.draft.dir.join(WITNESS), &seen)?;
        }
        self.open_root(store)
    }

    /// A root that cannot be read is a gap, but not when the container will be gone afterwards.
    fn open_root(&mut self, store: &EvidenceStore) -> Result<()> {
        match self.engine.open_root(&self.container.id) {
            Ok(root) => {
                let owned = root.upper.as_ref().map(|upper| store.owns(&upper.path));
                self.owns_upper = owned.unwrap_or(false);
                self.draft.header.marks = self.marks(&root)?;
                self.draft.header.write(&self.draft.dir)?;
                self.root = Some(root);
                Ok(())
            }
            Err(error) => {
                let error = EvidenceError::engine("open the container's root")(error);
                if self.will_vanish() && !self.is_gone() {
                    return Err(error);
                }
                self.draft.log.not_captured(b"root", error.chain())
            }
        }
    }

    /// A running container's own mount tells where its marks are; else the engine does.
    fn marks(&self, root: &RootFs) -> Result<Marks> {
        let seen = self
            .container
            .init_pid
            .and_then(|pid| invar_drift::namespace_of(pid).ok().flatten());
        if let Some(namespace) = seen {
            return Ok(match namespace {
                Namespace::Trusted => Marks::Trusted,
                Namespace::User => Marks::User,
            });
        }
        let upper = root.upper.as_ref();
        let owner = upper.and_then(|upper| stat(upper.dir.as_fd(), c"").ok());
        let is_roots = owner.is_none_or(|stat| stat.stx_uid == 0);
        let rootless = EvidenceError::engine("ask the engine about itself");
        if !is_roots && self.engine.is_rootless().map_err(rootless)? {
            return Ok(Marks::User);
        }
        Ok(Marks::Trusted)
    }

    /// Whether the engine has removed it: what it had can be had no more. One that removes itself
    /// is waited for while its engine is at it.
    fn is_gone(&self) -> bool {
        let began = Instant::now();
        loop {
            let found = self.engine.inspect(self.container.id.as_str());
            match found.map(|found| found.state) {
                Err(EngineError::NotFound { .. }) => return true,
                Ok(State::Exited(_))
                    if self.container.config.auto_remove && began.elapsed() < REMOVING =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return false,
            }
        }
    }

    /// Whether the container is gone afterwards, and all that was not taken with it.
    fn will_vanish(&self) -> bool {
        let plan = &self.draft.header.plan;
        plan.remove || (plan.stop && self.container.config.auto_remove)
    }

    /// Freezes the container, takes what would vanish and the upper directory, and kills it or
    /// lets it go on, as planned.
    pub(crate) fn take(&mut self) -> Result<()> {
        let taken = self.try_take();
        self.or_break_off(taken)
    }

    fn try_take(&mut self) -> Result<()> {
        let frozen = Frozen::freeze(self.engine, self.container, &mut self.draft.log)?;
        self.take_frozen(frozen)
    }

    fn take_frozen(&mut self, frozen: Option<Frozen<'_>>) -> Result<()> {
        if frozen.is_some() {
            let recorded = self.record_processes();
            self.draft.log.absorb("processes", recorded)?;
        } else if self.container.state == State::Running {
            let reason = "the container ended before it could be frozen";
            self.draft.log.not_captured(b"processes", reason)?;
        }
        let (stop, exact) = {
            let plan = &self.draft.header.plan;
            (plan.stop, plan.wanted.exact)
        };
        // An engine that removes the container when it ends takes all of this with it.
        if stop && self.container.config.auto_remove {
            let kept = self.keep_logs();
            self.draft.log.absorb("logs", kept)?;
            let compared = self.compare_in_place();
            self.draft.log.absorb("changes", compared)?;
        }
        let limit = Duration::from_millis(self.limits.frozen_ms);
        let mut pace = Pace::frozen(frozen, (!stop && !exact).then_some(limit));
        pace.mapped_for_writing(std::mem::take(&mut self.mapped));
        if !stop {
            self.keep_files(&mut pace)?;
        }
        if self.taken.is_none() {
            match self.take_upper(&mut pace) {
                // With its container removed there is nothing that could still be lost.
                Err(error) if self.is_gone() => {
                    upper::drop_unfinished(&self.draft.dir)?;
                    let log = &mut self.draft.log;
                    log.not_captured(b"upper directory", error.chain())?;
                }
                taken => taken?,
            }
        }
        if !stop {
            pace.go_on(&mut self.draft.log)?;
        }
        let (frozen, frozen_ms) = pace.finish();
        self.frozen_ms = frozen_ms;
        frozen.map_or(Ok(()), |frozen| self.kill(frozen))
    }

    fn record_processes(&mut self) -> Result<()> {
        let pids = self
            .engine
            .processes(&self.container.id)
            .map_err(EvidenceError::engine("list the processes"))?;
        let mut recorder = Recorder {
            dir: &self.draft.dir,
            limits: &self.limits,
            held: &mut self.held,
            log: &mut self.draft.log,
            booted_at: self.draft.header.booted_at,
            mapped: HashSet::new(),
        };
        let count = recorder.record(&pids)?;
        self.mapped = recorder.mapped;
        self.draft.log.step(Step::Processes { count })?;
        let Some(init) = pids.first() else {
            return Ok(());
        };
        if self.draft.header.plan.wanted.memory {
            let (dir, log) = (&self.draft.dir, &mut self.draft.log);
            let kept = memory::keep(&pids, dir, &self.limits, &mut self.budget, log);
            match kept {
                Ok(count) => log.step(Step::Memory { count })?,
                failed => log.absorb("memory of the processes", failed.map(drop))?,
            }
        }
        let path = format!("/proc/{init}/mountinfo");
        let (text, _) = files::read_start(path.as_ref(), self.limits.proc_file)?;
        let mounts = Mounts::parse(&text);
        self.saw_mounts = true;
        self.frozen_at = pace::now();
        let Draft { header, log, .. } = &mut self.draft;
        self.mounts = mounted::hold(*init, &mounts, self.container, &header.plan.wanted, log)?;
        Ok(())
    }

    fn compare_in_place(&mut self) -> Result<()> {
        if let Some(RootFs {
            lower,
            upper: Some(upper),
        }) = &self.root
        {
            self.comparison = Some(changes::compare(
                lower.as_fd(),
                upper.dir.as_fd(),
                self.draft.header.marks,
                &self.draft.dir,
            )?);
        }
        Ok(())
    }

    fn take_upper(&mut self, pace: &mut Pace<'_>) -> Result<()> {
        let Some(upper) = self.root.as_ref().and_then(|root| root.upper.as_ref()) else {
            return Ok(());
        };
        let plan = &self.draft.header.plan;
        let method = match (plan.stop, self.owns_upper) {
            (true, true) => Method::Renamed,
            (true, false) if self.will_vanish() => Method::Linked,
            _ => Method::Copied,
        };
        let (dir, log) = (&self.draft.dir, &mut self.draft.log);
        let budget = &mut self.budget;
        self.taken = Some(upper::take(upper, dir, method, budget, pace, log)?);
        Ok(())
    }

    /// Kills the container. When that fails it must not go on writing into the evidence: the
    /// upper directory goes back, and a copy stays.
    fn kill(&mut self, mut frozen: Frozen<'_>) -> Result<()> {
        let error = match frozen.kill(&mut self.draft.log) {
            Ok(frozen_ms) => {
                self.frozen_ms = Some(frozen_ms);
                return Ok(());
            }
            Err(error) => error,
        };
        let shared = self.taken.as_ref().map(|taken| taken.method);
        if let Some(upper) = self.root.as_ref().and_then(|root| root.upper.as_ref()) {
            let (dir, log) = (&self.draft.dir, &mut self.draft.log);
            match shared {
                Some(Method::Renamed) => upper::put_back(upper, dir, &mut self.budget, log)?,
                Some(Method::Linked) => upper::copy_instead(upper, dir, &mut self.budget, log)?,
                Some(Method::Copied) | None => {}
            }
        }
        drop(frozen);
        Err(error)
    }

    /// How long the container was frozen.
    pub(crate) fn frozen_ms(&self) -> Option<u64> {
        self.frozen_ms
    }

    /// Lets the container have its upper directory again after it was killed, so that it can be
    /// started; the evidence keeps its own.
    pub(crate) fn give_back(&mut self) -> Result<()> {
        let method = self.taken.as_ref().map(|taken| taken.method);
        let Some(upper) = self.root.as_ref().and_then(|root| root.upper.as_ref()) else {
            return Ok(());
        };
        let (dir, log) = (&self.draft.dir, &mut self.draft.log);
        match method {
            Some(Method::Renamed) => upper::copy_back(upper, dir, &mut self.budget, log),
            Some(Method::Linked) => upper::unshare(dir, &mut self.budget, log),
            Some(Method::Copied) | None => Ok(()),
        }
    }

    fn keep_files(&mut self, pace: &mut Pace<'_>) -> Result<()> {
        let (dir, log) = (&self.draft.dir, &mut self.draft.log);
        let count = self.held.len();
        let kept = self.held.keep(dir, &mut self.budget, pace, log).map(drop);
        log.absorb("kept files", kept)?;
        if count > 0 {
            log.step(Step::Files { count })?;
        }
        let (lost, lasting) = std::mem::take(&mut self.mounts)
            .into_iter()
            .partition(mounted::Held::is_lost);
        // Nobody else writes to what is gone with its container.
        let lost: Vec<mounted::Held> = lost;
        let part = (&self.limits, self.limits.tmpfs);
        let kept = mounted::keep(&lost, dir, part, &mut self.budget, pace, log);
        self.mounts = lasting;
        log.absorb("temporary file systems", kept)
    }

    /// Volumes and directories of the host: others may be writing to them at any time.
    fn keep_lasting(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.mounts);
        let (dir, log) = (&self.draft.dir, &mut self.draft.log);
        let mut pace = Pace::live(self.frozen_at);
        let part = (&self.limits, self.limits.volumes);
        let kept = mounted::keep(&held, dir, part, &mut self.budget, &mut pace, log);
        log.absorb("volumes", kept)
    }

    fn keep_logs(&mut self) -> Result<()> {
        self.has_logs = true;
        let (dir, log) = (&self.draft.dir, &mut self.draft.log);
        output::keep(self.engine, &self.container.id, dir, self.limits.log, log)
    }

    /// Keeps what need not be taken while the container is frozen but could vanish or change later.
    pub(crate) fn keep(&mut self) -> Result<Kept<'_>> {
        let kept = self.try_keep();
        self.or_break_off(kept)?;
        Ok(Kept {
            id: &self.draft.header.id,
            frozen_ms: self.frozen_ms,
            upper: self.taken.as_ref(),
        })
    }

    fn try_keep(&mut self) -> Result<()> {
        if self.draft.header.plan.stop {
            self.keep_files(&mut Pace::still())?;
        }
        self.keep_lasting()?;
        if !self.has_logs {
            let kept = self.keep_logs();
            self.draft.log.absorb("logs", kept)?;
        }
        self.is_kept = true;
        self.draft.log.step(Step::Kept)
    }

    /// Does what needs no container any more. What is returned is ready to be sealed.
    pub(crate) fn complete(mut self) -> Result<Draft> {
        let completed = self.try_complete();
        self.or_break_off(completed)?;
        Ok(self.draft)
    }

    fn try_complete(&mut self) -> Result<()> {
        if !self.is_kept {
            self.try_keep()?;
        }
        let compared = self.write_changes();
        self.draft.log.absorb("changes", compared)?;
        self.declare_gaps()?;
        self.draft.log.step(Step::Complete)
    }

    fn write_changes(&mut self) -> Result<()> {
        let dir = &self.draft.dir;
        upper::complete_listings(dir, &mut self.draft.log)?;
        let place = upper::place(dir);
        if !place.exists() {
            return Ok(());
        }
        let Some(root) = &self.root else {
            return Ok(());
        };
        let comparison = if let Some(comparison) = self.comparison.take() {
            comparison
        } else {
            let taken = open_dir(&place).map_err(EvidenceError::io("open", &place))?;
            let marks = self.draft.header.marks;
            changes::compare(root.lower.as_fd(), taken.as_fd(), marks, dir)?
        };
        let lower = root.lower.as_fd();
        changes::write(
            comparison,
            lower,
            dir,
            &mut self.budget,
            &mut self.draft.log,
        )
    }

    /// Names what a reader may expect and will not find.
    fn declare_gaps(&mut self) -> Result<()> {
        let log = &mut self.draft.log;
        if !self.draft.header.plan.wanted.memory {
            let reason = "not asked for (--memory): only maps, arguments and environment are kept";
            log.not_captured(b"memory of the processes", reason)?;
        }
        if self.saw_mounts {
            return Ok(());
        }
        for mount in &self.container.config.mounts {
            let reason = match &mount.kind {
                MountKind::Bind { .. } => {
                    "a directory of the host: mounts are taken of a running \
                                           container only"
                }
                MountKind::Volume { .. } => {
                    "a volume: mounts are taken of a running container only"
                }
                MountKind::Tmpfs { .. } => "a temporary file system, gone when the container ended",
            };
            log.not_captured(mount.target.as_os_str().as_encoded_bytes(), reason)?;
        }
        Ok(())
    }

    /// Writes into the log why the capture broke off, and names what was taken in the error.
    fn or_break_off<T>(&mut self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            // The error itself matters more than a log that cannot be written.
            self.draft.log.broke_off(&error).ok();
            EvidenceError::BrokeOff {
                container: self.draft.header.container.name.clone(),
                id: self.draft.header.id.to_string(),
                source: Box::new(error),
            }
        })
    }
}

/// Refuses what cannot be done before anything is done.
fn check(container: &Container, plan: &Plan, limits: &Limits) -> Result<()> {
    let missing = container
        .init_pid
        .and_then(|init| mounted::missing(init, &plan.wanted, limits));
    match missing {
        Some(at) => Err(EvidenceError::NoSuchMount {
            container: container.name.as_str().to_owned(),
            at: at.to_owned(),
        }),
        None => Ok(()),
    }
}

/// A state in one word.
pub(crate) fn state_name(state: &State) -> &'static str {
    match state {
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Exited(_) => "exited",
        State::Restarting(_) => "restarting",
    }
}

/// When the host was started, to the millisecond: processes tell their start from it.
pub(crate) fn boot_time() -> Option<Timestamp> {
    let millis = |clock| {
        let time = clock_gettime(clock);
        Some(time.tv_sec.checked_mul(1000)? + time.tv_nsec / 1_000_000)
    };
    let booted = millis(ClockId::Realtime)?.checked_sub(millis(ClockId::Boottime)?)?;
    Timestamp::from_millisecond(booted).ok()
}
