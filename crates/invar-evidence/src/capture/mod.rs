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
mod mounts;
mod output;
pub(crate) mod processes;
mod resume;
pub(crate) mod timeline;
mod tmpfs;
pub(crate) mod upper;

use std::os::fd::AsFd as _;

use invar_drift::{Comparison, Namespace};
use invar_engine::{Container, Engine, MountKind, RootFs, State};
use jiff::Timestamp;

use self::freeze::Frozen;
use self::held::HeldFiles;
use self::log::Step;
use self::mounts::Mounts;
use self::processes::Recorder;
pub(crate) use self::resume::take_up;
use self::tmpfs::Tmpfs;
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::header::{Header, Marks, Plan};
use crate::limits::{Budget, Limits};
use crate::store::{Draft, EvidenceStore};
use crate::tree::take::{Method, Taken};
use crate::tree::{open_dir, stat};

/// A capture at work.
pub(crate) struct Capture<'a> {
    engine: &'a dyn Engine,
    container: &'a Container,
    limits: Limits,
    draft: Draft,
    root: Option<RootFs>,
    held: HeldFiles,
    tmpfs: Vec<Tmpfs>,
    budget: Budget,
    owns_upper: bool,
    taken: Option<Taken>,
    comparison: Option<Comparison>,
    has_logs: bool,
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
            tmpfs: Vec::new(),
            owns_upper: false,
            taken: None,
            comparison: None,
            has_logs: false,
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
                if self.will_vanish() {
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

    /// Whether the container is gone afterwards, and all that was not taken with it.
    fn will_vanish(&self) -> bool {
        let plan = self.draft.header.plan;
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
        }
        let plan = self.draft.header.plan;
        // An engine that removes the container when it ends takes all of this with it.
        if plan.stop && self.container.config.auto_remove {
            let kept = self.keep_logs();
            self.draft.log.absorb("logs", kept)?;
            let compared = self.compare_in_place();
            self.draft.log.absorb("changes", compared)?;
        }
        if !plan.stop {
            self.keep_files()?;
        }
        if self.taken.is_none() {
            self.take_upper()?;
        }
        match frozen {
            None => Ok(()),
            Some(frozen) if plan.stop => self.kill(frozen),
            Some(frozen) => {
                self.frozen_ms = Some(frozen.resume(&mut self.draft.log)?);
                Ok(())
            }
        }
    }

    fn record_processes(&mut self) -> Result<()> {
        let pids = self
            .engine
            .processes(&self.container.id)
            .map_err(EvidenceError::engine("list the processes"))?;
        let count = Recorder {
            dir: &self.draft.dir,
            limits: &self.limits,
            held: &mut self.held,
            log: &mut self.draft.log,
            booted_at: self.draft.header.booted_at,
        }
        .record(&pids)?;
        self.draft.log.step(Step::Processes { count })?;
        let Some(init) = pids.first() else {
            return Ok(());
        };
        let path = format!("/proc/{init}/mountinfo");
        let (text, _) = files::read_start(path.as_ref(), self.limits.proc_file)?;
        let mounts = Mounts::parse(&text);
        if self.draft.header.plan.tmpfs {
            self.tmpfs = tmpfs::hold(*init, &mounts, &mut self.draft.log)?;
            return Ok(());
        }
        for point in tmpfs::points(&mounts) {
            let reason = "temporary file system: not asked for (--tmpfs)";
            self.draft.log.not_captured(&point, reason)?;
        }
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
            )?);
        }
        Ok(())
    }

    fn take_upper(&mut self) -> Result<()> {
        let Some(upper) = self.root.as_ref().and_then(|root| root.upper.as_ref()) else {
            return Ok(());
        };
        let plan = self.draft.header.plan;
        let method = match (plan.stop, self.owns_upper) {
            (true, true) => Method::Renamed,
            (true, false) if self.will_vanish() => Method::Linked,
            _ => Method::Copied,
        };
        let (dir, log) = (&self.draft.dir, &mut self.draft.log);
        self.taken = Some(upper::take(upper, dir, method, &mut self.budget, log)?);
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

    fn keep_files(&mut self) -> Result<()> {
        let (dir, log) = (&self.draft.dir, &mut self.draft.log);
        let count = self.held.len();
        let digests = self.held.keep(dir, &mut self.budget, &mut |name, reason| {
            log.not_captured(name.as_bytes(), reason)
        });
        let kept = digests.map(drop);
        log.absorb("kept files", kept)?;
        if count > 0 {
            log.step(Step::Files { count })?;
        }
        let kept = tmpfs::keep(&self.tmpfs, dir, &mut self.budget, log);
        log.absorb("temporary file systems", kept)?;
        self.tmpfs.clear();
        Ok(())
    }

    fn keep_logs(&mut self) -> Result<()> {
        self.has_logs = true;
        let (dir, log) = (&self.draft.dir, &mut self.draft.log);
        output::keep(self.engine, &self.container.id, dir, self.limits.log, log)
    }

    /// Does all that need not be done while the container is frozen. What is returned is ready to
    /// be sealed.
    pub(crate) fn complete(mut self) -> Result<Draft> {
        let completed = self.try_complete();
        self.or_break_off(completed)?;
        Ok(self.draft)
    }

    fn try_complete(&mut self) -> Result<()> {
        if self.draft.header.plan.stop {
            self.keep_files()?;
        }
        if !self.has_logs {
            let kept = self.keep_logs();
            self.draft.log.absorb("logs", kept)?;
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
            changes::compare(root.lower.as_fd(), taken.as_fd(), self.draft.header.marks)?
        };
        let lower = root.lower.as_fd();
        changes::write(
            &comparison,
            lower,
            dir,
            &mut self.budget,
            &mut self.draft.log,
        )
    }

    /// Names what a reader may expect and will not find.
    fn declare_gaps(&mut self) -> Result<()> {
        let log = &mut self.draft.log;
        log.not_captured(
            b"memory of the processes",
            "only maps, arguments and environment are kept, no memory image",
        )?;
        for mount in &self.container.config.mounts {
            let reason = match &mount.kind {
                MountKind::Bind { .. } => "a directory of the host, not a part of the container",
                MountKind::Volume { .. } => "a volume, which outlives the container",
                MountKind::Tmpfs { .. } => continue,
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

/// When the host was started (`btime` of `/proc/stat`).
pub(crate) fn boot_time() -> Option<Timestamp> {
    let (text, _) = files::read_start("/proc/stat".as_ref(), 1 << 20).ok()?;
    let text = String::from_utf8(text).ok()?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(seconds.trim().parse().ok()?).ok()
}
