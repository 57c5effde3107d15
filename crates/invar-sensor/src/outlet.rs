//! What every thread needs to tell of something: who did it, how bad it is, and where to put it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use invar_drift::{Rules, Severity, reported};
use jiff::Timestamp;

use crate::actor::{self, Actor, Remembered};
use crate::counts::{Tally, add};
use crate::event::{Event, Place, What};
use crate::known::Known;
use crate::queue::Queue;

/// How long the same deed of the same process is not told again.
const QUIET: Duration = Duration::from_secs(1);
/// How long what `/proc` said of a process is taken for true: a number is not given to another
/// process so soon.
const FRESH: Duration = Duration::from_millis(20);
const MOST_ENTRIES: usize = 16_384;

/// Where all events go.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) queue: Queue,
    pub(crate) tally: Tally,
    pub(crate) rules: Arc<Rules>,
    remembered: Mutex<Remembered>,
    looked_up: Mutex<HashMap<u32, (Instant, Option<Actor>)>>,
    told: Mutex<HashMap<u64, Instant>>,
    /// Paths whose events found no room in the queue, by container.
    lost: Mutex<HashMap<String, Known>>,
}

/// Something to be told.
#[derive(Debug)]
pub(crate) struct Deed {
    pub(crate) container: Arc<Place>,
    pub(crate) what: What,
    pub(crate) path: Vec<u8>,
    pub(crate) from: Option<Vec<u8>>,
    pub(crate) pid: u32,
    pub(crate) reason: Option<String>,
}

impl Outlet {
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self {
            queue: Queue::default(),
            tally: Tally::default(),
            rules,
            remembered: Mutex::default(),
            looked_up: Mutex::default(),
            told: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Tells of a deed of a process of the container whose first process is `init`.
    pub(crate) fn tell(&self, deed: Deed, init: u32) {
        if self.is_repeated(&deed) {
            add(&self.tally.repeated, 1);
            return;
        }
        let actor = if deed.pid == 0 {
            None
        } else {
            self.actor(deed.pid, init)
        };
        self.put(deed, actor);
    }

    fn put(&self, deed: Deed, actor: Option<Actor>) {
        let judged = reported(vec![(deed.what.kind(), deed.path)], &self.rules).pop();
        let Some(judged) = judged else {
            return;
        };
        let least = if deed.what.is_execution() {
            Severity::High
        } else {
            Severity::Info
        };
        if deed.what.is_blocked() {
            add(&self.tally.blocked, 1);
        }
        if deed.what == What::Missed {
            add(&self.tally.missed, 1);
        }
        let event = Event {
            time: Timestamp::now(),
            what: deed.what,
            path: judged.path,
            from: deed.from,
            container: deed.container,
            actor,
            pid: deed.pid,
            severity: judged.severity.max(least),
            finding: judged.finding,
            reason: deed.reason,
        };
        add(&self.tally.events, 1);
        if let Some(lost) = self.queue.push(event) {
            self.lose(&lost);
        }
    }

    fn lose(&self, event: &Event) {
        self.tally.events.fetch_sub(1, Ordering::Relaxed);
        add(&self.tally.dropped, 1);
        // A walk finds files, not executions.
        if !event.what.is_execution() {
            let mut lost = lock(&self.lost);
            let of = lost.entry(event.container.id.clone()).or_default();
            of.add(&event.path);
        }
    }

    /// Whether something was lost that a walk can find.
    pub(crate) fn has_lost(&self) -> bool {
        !lock(&self.lost).is_empty()
    }

    /// What was lost since it was asked last.
    pub(crate) fn take_lost(&self) -> HashMap<String, Known> {
        std::mem::take(&mut lock(&self.lost))
    }

    /// Remembers who executes something, for when it has ended before its deeds are told.
    pub(crate) fn remember(&self, pid: u32, init: u32, program: &[u8]) {
        if let Some(mut actor) = actor::read(pid, init) {
            actor.exe = invar_drift::escape(program).into_owned();
            let mut remembered = lock(&self.remembered);
            remembered.put(actor);
        }
    }

    fn actor(&self, pid: u32, init: u32) -> Option<Actor> {
        let mut looked_up = lock(&self.looked_up);
        if let Some((when, actor)) = looked_up.get(&pid)
            && when.elapsed() < FRESH
        {
            return actor.clone();
        }
        let found = actor::read(pid, init).or_else(|| lock(&self.remembered).get(pid));
        if looked_up.len() >= MOST_ENTRIES {
            looked_up.clear();
        }
        looked_up.insert(pid, (Instant::now(), found.clone()));
        found
    }

    fn is_repeated(&self, deed: &Deed) -> bool {
        let mut hasher = DefaultHasher::new();
        (
            &deed.container.id,
            &deed.path,
            &deed.from,
            deed.pid,
            deed.what,
        )
            .hash(&mut hasher);
        let key = hasher.finish();
        let mut told = lock(&self.told);
        if told.get(&key).is_some_and(|when| when.elapsed() < QUIET) {
            return true;
        }
        if told.len() >= MOST_ENTRIES {
            told.clear();
        }
        told.insert(key, Instant::now());
        false
    }
}

/// A thread that panicked has left whole values behind: each is written in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
