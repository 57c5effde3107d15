//! Which containers there are, and what the sensor needs of each.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use invar_drift::{Glob, Namespace};
use invar_engine::{Container, Engine, EngineError, State};
use invar_evidence::Traffic;
use invar_sensor::{Place, Target, UpperDirectory};
use rustix::fs::stat;

/// What the sensor needs of a container; `None` when it does not run.
pub fn target(
    engine: &dyn Engine,
    container: &Container,
    block: bool,
    allow: Vec<Glob>,
) -> Result<Option<Target>, EngineError> {
    // A frozen one must be watched before it may go on.
    let (State::Running | State::Paused, Some(init)) = (&container.state, container.init_pid)
    else {
        return Ok(None);
    };
    let root = engine.open_root(&container.id)?;
    // A process that has just ended, or a root that is no overlay, keeps no marks.
    let namespace = invar_drift::namespace_of(init).ok().flatten();
    Ok(Some(Target {
        place: Place {
            id: container.id.as_str().to_owned(),
            name: container.name.as_str().to_owned(),
            engine: container.engine.to_owned(),
        },
        init,
        lower: root.lower,
        upper: root.upper.map(|upper| UpperDirectory {
            dir: upper.dir,
            path: upper.path,
        }),
        namespace: namespace.unwrap_or(Namespace::Trusted),
        block,
        allow,
    }))
}

/// What the agent needs of the machine it runs on.
pub trait Host: Send + Sync {
    /// The engines there can be, by the names users give them.
    fn kinds(&self) -> Vec<&'static str>;

    /// An engine; `None` when it is not on this machine.
    fn open(&self, kind: &str) -> Result<Option<Box<dyn Engine>>, EngineError>;

    /// Who sends requests to a container, and must know when it is replaced.
    fn traffic<'e>(
        &self,
        engine: &'e dyn Engine,
        container: &Container,
    ) -> Option<Box<dyn Traffic + 'e>>;

    /// The program that calls [`crate::keep_watch`], with its arguments; the agent adds its own
    /// process id.
    fn warden(&self) -> Command;
}

/// How often an engine is asked that does not say when something happens.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often one is asked that does: only against what was missed.
const ASK_ANYWAY: Duration = Duration::from_secs(10);
/// How often it is tried whether an engine has come that was not there.
const TRY_EVERY: Duration = Duration::from_secs(5);

/// An engine that is asked for its containers.
struct Asked {
    engine: Option<Arc<dyn Engine>>,
    /// Whether it has ever answered: one that is gone since is missed.
    has_answered: bool,
    at: Option<Instant>,
    /// What it said last.
    containers: Vec<Container>,
    problem: Option<String>,
}

/// An engine, unless it does not answer, and its containers.
pub(crate) type Listed = (Option<Arc<dyn Engine>>, Vec<Container>);

/// Asks the engines of a host, each no more often than needed.
pub(crate) struct Discovery {
    host: Arc<dyn Host>,
    asked: HashMap<&'static str, Asked>,
    /// Grows whenever something happens to a container of the embedded engine.
    events: PathBuf,
    seen: Option<(u64, i64, u64)>,
}

impl Discovery {
    pub(crate) fn new(host: Arc<dyn Host>, events: PathBuf) -> Self {
        Self {
            host,
            asked: HashMap::new(),
            events,
            seen: None,
        }
    }

    /// Whether the embedded engine has told of something since the last time this was asked.
    fn has_told(&mut self) -> bool {
        let now = stat(&self.events).ok().map(|stat| {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            (size, stat.st_mtime, stat.st_ino)
        });
        std::mem::replace(&mut self.seen, now) != now
    }

    /// Every engine with its containers, when any of them was asked anew. One that does not answer
    /// any more keeps those it had.
    pub(crate) fn look(&mut self) -> Option<Vec<Listed>> {
        let has_told = self.has_told();
        let mut is_new = false;
        for kind in self.host.kinds() {
            let is_told = kind == invar_engine::embedded::KIND;
            let asked = self.asked.entry(kind).or_insert(Asked {
                engine: None,
                has_answered: false,
                at: None,
                containers: Vec::new(),
                problem: None,
            });
            let pause = match (&asked.engine, is_told) {
                (None, _) if asked.has_answered => ASK_EVERY,
                (None, _) => TRY_EVERY,
                (Some(_), true) if has_told => Duration::ZERO,
                (Some(_), true) => ASK_ANYWAY,
                (Some(_), false) => ASK_EVERY,
            };
            if asked.at.is_some_and(|at| at.elapsed() < pause) {
                continue;
            }
            asked.at = Some(Instant::now());
            is_new |= asked.ask(kind, &*self.host);
        }
        is_new.then(|| {
            let asked = self.asked.values();
            asked
                .map(|asked| (asked.engine.clone(), asked.containers.clone()))
                .collect()
        })
    }

    /// Engines that are there, or were, and do not answer, and why.
    pub(crate) fn unreachable(&self) -> BTreeMap<&'static str, String> {
        let asked = self.asked.iter();
        asked
            .filter_map(|(kind, asked)| Some((*kind, asked.problem.clone()?)))
            .collect()
    }
}

impl Asked {
    /// Whether it said something.
    fn ask(&mut self, kind: &str, host: &dyn Host) -> bool {
        if self.engine.is_none() {
            match host.open(kind) {
                Ok(engine) => self.engine = engine.map(Arc::from),
                Err(error) => {
                    self.problem = Some(error.to_string());
                    return false;
                }
            }
        }
        let Some(engine) = &self.engine else {
            // A daemon that ends takes its socket with it.
            let is_missed = self.has_answered;
            self.problem = is_missed.then(|| "it is not there any more".to_owned());
            return false;
        };
        match engine.list() {
            Ok(containers) => {
                self.containers = containers;
                self.has_answered = true;
                self.problem = None;
                true
            }
            // A daemon that is restarted keeps its containers; it is opened anew the next time.
            Err(error) => {
                self.problem = Some(error.to_string());
                self.engine = None;
                false
            }
        }
    }
}
