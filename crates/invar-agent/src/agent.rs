//! The agent itself: one loop that looks for containers, takes what the sensor saw, and decides.
//! Responses, answers and deliveries have threads of their own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fs_err as fs;
use invar_drift::Severity;
use invar_engine::{Container, Engine, HealthStatus, State};
use invar_sensor::{Counts, Event, Guarding, Sensor, What};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::alert::{Alert, Courier, Kind, Sender};
use crate::api;
use crate::discovery::{Discovery, Host, Listed, target};
use crate::error::{AgentError, Result};
use crate::journal::{Incident, Journal};
use crate::metrics;
use crate::policy::{Mode, Phase, Policy, Respond, Rules, Seal, Verdict, parse};
use crate::respond::Responders;
use crate::warden::Warden;

/// How long the loop waits for events before it looks at anything else.
const PATIENCE: Duration = Duration::from_millis(100);
/// When a container without a health check counts as set up.
const SETTLED: SignedDuration = SignedDuration::from_secs(10);
/// How often what is old is forgotten.
const FORGET_EVERY: Duration = Duration::from_hours(1);
/// How often it is looked whether events were lost.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Where the agent works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The state root.
    pub root: PathBuf,
    /// The policy; one that is not there is the default.
    pub policy: PathBuf,
    /// Its socket.
    pub control: PathBuf,
    /// What refuses beside fanotify; what is pinned outlives an agent that was killed.
    pub guard: Guarding,
}

/// A container that is watched.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Watched {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) engine: String,
    pub(crate) mode: Mode,
    pub(crate) respond: Respond,
    pub(crate) phase: Phase,
    pub(crate) since: Timestamp,
    /// Events the policy does not expect.
    pub(crate) events: u64,
    pub(crate) blocked: u64,
    /// The worst of them.
    pub(crate) worst: Option<Severity>,
    /// The last of them, in one line.
    pub(crate) last: Option<String>,
    pub(crate) incident: Option<i64>,
    #[serde(skip)]
    pub(crate) init: u32,
    #[serde(skip)]
    pub(crate) rules: Arc<Rules>,
    #[serde(skip)]
    pub(crate) started_at: Option<Timestamp>,
}

/// What the threads share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) journal: Journal,
    pub(crate) sender: Sender,
    pub(crate) watched: Mutex<BTreeMap<String, Watched>>,
    pub(crate) counts: Mutex<Counts>,
    pub(crate) incidents: Mutex<HashMap<String, u64>>,
    pub(crate) problems: Mutex<Vec<String>>,
    pub(crate) policy_problem: Mutex<Option<String>>,
    /// Why refusing ends with this process, although it should not.
    pub(crate) unguarded: Option<String>,
    pub(crate) begun_at: Timestamp,
    pub(crate) reload: AtomicBool,
    pub(crate) ends: AtomicBool,
}

impl Shared {
    pub(crate) fn watched(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        locked(&self.watched)
    }

    /// Says that the agent has a problem of its own.
    pub(crate) fn complain(&self, text: String) {
        self.sender.send(&Alert::of_agent(Severity::High, text));
    }
}

/// A lock that a panic elsewhere does not close.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An agent that has its state root for itself.
pub struct Agent {
    shared: Arc<Shared>,
    policy: Policy,
    sensor: Sensor,
    discovery: Discovery,
    responders: Responders,
    courier: Arc<Courier>,
    warden: Warden,
    /// Runs that cannot be watched, and were told of.
    refused: HashSet<(String, u32)>,
    /// Engines that do not answer, since when.
    unreachable: BTreeMap<&'static str, Instant>,
    lost: Counts,
    _lock: fs::File,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Takes the state root over and goes on with what a killed agent left.
    pub fn start(settings: Settings, host: Arc<dyn Host>) -> Result<Self> {
        let lock = lock(&settings)?;
        let policy = read_policy(&settings)?;
        let journal = Journal::open(&settings.root)?;
        journal.end_watches()?;
        let sensor = Sensor::start(invar_sensor::Settings {
            rules: drift_rules(&policy)?,
            allow: Vec::new(),
            guard: settings.guard.clone(),
        })?;
        let courier = Arc::new(Courier::default());
        let sender = Sender::new(policy.alerts.clone(), journal.clone(), Arc::clone(&courier));
        let events = settings.root.join("events");
        let shared = Arc::new(Shared {
            host: Arc::clone(&host),
            journal,
            sender,
            settings,
            watched: Mutex::default(),
            counts: Mutex::default(),
            incidents: Mutex::default(),
            problems: Mutex::default(),
            policy_problem: Mutex::default(),
            unguarded: sensor.unguarded().map(ToString::to_string),
            begun_at: Timestamp::now(),
            reload: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        });
        let responders = Responders::start(&shared, policy.settings.responses);
        for incident in shared.journal.unfinished()? {
            responders.respond(incident);
        }
        Ok(Self {
            discovery: Discovery::new(host, events),
            shared,
            policy,
            sensor,
            responders,
            courier,
            warden: Warden::default(),
            refused: HashSet::new(),
            unreachable: BTreeMap::new(),
            lost: Counts::default(),
            _lock: lock,
        })
    }

    /// Ends the agent when it is set.
    pub fn end(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.ends.store(true, Ordering::SeqCst)
    }

    /// Has the policy read again.
    pub fn reload(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.reload.store(true, Ordering::SeqCst)
    }

    /// Works until it is told to end.
    pub fn run(mut self) -> Result<()> {
        api::server::start(Arc::clone(&self.shared))?;
        if let Some(address) = self.policy.settings.metrics {
            metrics::serve(address, Arc::clone(&self.shared))?;
        }
        let courier = {
            let (courier, journal) = (Arc::clone(&self.courier), self.shared.journal.clone());
            std::thread::Builder::new()
                .name("courier".to_owned())
                .spawn(move || courier.run(&journal))
                .map_err(AgentError::io(
                    "start a thread of",
                    &self.shared.settings.root,
                ))?
        };
        self.work();
        self.warden.dismiss(&self.shared);
        self.courier.end();
        courier.join().ok();
        // Responses under way are finished; a second signal kills, and they are gone on with later.
        self.responders.finish();
        fs::remove_file(&self.shared.settings.control).ok();
        if let Guarding::Pinned(pins) = &self.shared.settings.guard {
            invar_sensor::lift(pins).map_err(AgentError::io("lift the guard below", pins))?;
        }
        Ok(())
    }

    fn work(&mut self) {
        let events = self.sensor.events();
        let (mut forgot, mut counted) = (None::<Instant>, Instant::now());
        while !self.shared.ends.load(Ordering::SeqCst) {
            self.look();
            let taken = events.take(PATIENCE);
            if !taken.is_empty() {
                self.decide(&taken);
            }
            if counted.elapsed() >= COUNT_EVERY {
                counted = Instant::now();
                self.count(&events.counts());
                self.warden.attend(&self.shared);
            }
            if self.shared.reload.swap(false, Ordering::SeqCst) {
                self.read_policy_again();
            }
            if forgot.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
                forgot = Some(Instant::now());
                self.forget();
            }
        }
        self.count(&events.counts());
    }

    /// Begins to watch what was started, and lets go of what has ended.
    fn look(&mut self) {
        let looked = self.discovery.look();
        self.note_unreachable(looked.as_deref().unwrap_or_default());
        let Some(engines) = looked else {
            return;
        };
        let mut there = HashSet::new();
        for (engine, containers) in &engines {
            for container in containers {
                let (State::Running | State::Paused, Some(init)) =
                    (&container.state, container.init_pid)
                else {
                    continue;
                };
                there.insert((container.id.as_str().to_owned(), init));
                if let Some(engine) = engine {
                    self.begin(&**engine, container, init);
                }
                self.seal_if_due(container);
            }
        }
        let is_there = |id: &str, init| there.contains(&(id.to_owned(), init));
        self.sensor.keep_only(is_there);
        self.refused.retain(|run| there.contains(run));
        let mut watched = self.shared.watched();
        watched.retain(|id, watched| is_there(id, watched.init));
        drop(watched);
        let on_loss = self.policy.settings.on_agent_loss;
        self.warden.guard(&self.shared, on_loss);
    }

    /// Tells when an engine does not answer any more, and when it does again, what was lost.
    fn note_unreachable(&mut self, engines: &[Listed]) {
        let now = self.discovery.unreachable();
        let shared = Arc::clone(&self.shared);
        let told = now.iter().map(|(kind, why)| format!("{kind}: {why}"));
        *locked(&shared.problems) = told.collect();
        for (kind, why) in &now {
            if !self.unreachable.contains_key(kind) {
                self.unreachable.insert(kind, Instant::now());
                let all = shared.watched();
                let count = all.values().filter(|one| one.engine == *kind).count();
                drop(all);
                shared.complain(format!(
                    "{kind} does not answer: {why}; what was watched of it ({count}) stays \
                     watched, what it starts meanwhile is not"
                ));
            }
        }
        let back: Vec<&'static str> = self.unreachable.keys().copied().collect();
        for kind in back.into_iter().filter(|kind| !now.contains_key(kind)) {
            let away = self
                .unreachable
                .remove(kind)
                .map_or(0, |at| at.elapsed().as_secs());
            let lost = self.lost_with(kind, engines);
            let lost = if lost.is_empty() {
                "nothing that was watched has ended".to_owned()
            } else {
                format!(
                    "ended, or started anew and not watched until now: {}",
                    lost.join(", ")
                )
            };
            shared.complain(format!("{kind} answers again after {away} s; {lost}"));
        }
    }

    /// What was watched of an engine and does not run as it did.
    fn lost_with(&self, kind: &str, engines: &[Listed]) -> Vec<String> {
        let containers = engines.iter().flat_map(|(_, containers)| containers);
        let running: HashSet<(&str, u32)> = containers
            .filter(|one| one.engine == kind && matches!(one.state, State::Running | State::Paused))
            .filter_map(|one| Some((one.id.as_str(), one.init_pid?)))
            .collect();
        let all = self.shared.watched();
        let watched = all.values().filter(|one| one.engine == kind);
        watched
            .filter(|one| !running.contains(&(one.id.as_str(), one.init)))
            .map(|one| one.name.clone())
            .collect()
    }

    fn begin(&mut self, engine: &dyn Engine, container: &Container, init: u32) {
        let id = container.id.as_str();
        if self.sensor.watches(id, init) || self.refused.contains(&(id.to_owned(), init)) {
            self.rename(container);
            return;
        }
        let rules = Arc::new(self.policy.of(container));
        match self.watch(engine, container, init, &rules) {
            // It just ends, or is only being started: it is looked at again.
            Ok(()) | Err(AgentError::Sensor(invar_sensor::SensorError::Gone { .. })) => {}
            Err(error) => {
                self.refused.insert((id.to_owned(), init));
                let (kind, name) = (container.engine, &container.name);
                let text = format!("{kind}:{name} cannot be watched: {}", error.chain());
                self.shared.complain(text);
            }
        }
    }

    /// A replacement gives a container its final name after it was started.
    fn rename(&self, container: &Container) {
        if let Some(watched) = self.shared.watched().get_mut(container.id.as_str())
            && watched.name != container.name.as_str()
        {
            container.name.as_str().clone_into(&mut watched.name);
        }
    }

    fn watch(
        &mut self,
        engine: &dyn Engine,
        container: &Container,
        init: u32,
        rules: &Arc<Rules>,
    ) -> Result<()> {
        let block = rules.mode == Mode::Block;
        let allow = rules.run.clone();
        let Some(target) = target(engine, container, block, allow)? else {
            return Ok(());
        };
        self.sensor.watch(&target)?;
        let (id, name) = (container.id.as_str(), container.name.as_str());
        let journal = &self.shared.journal;
        journal.watches(id, name, container.engine)?;
        let is_sealed = journal.is_sealed(id)?;
        let incident = journal.incident_of(container.engine, id)?;
        let watched = Watched {
            id: id.to_owned(),
            name: name.to_owned(),
            engine: container.engine.to_owned(),
            mode: rules.mode,
            respond: rules.respond,
            phase: if is_sealed {
                Phase::Sealed
            } else {
                Phase::Starting
            },
            since: Timestamp::now(),
            events: 0,
            blocked: 0,
            worst: None,
            last: None,
            incident: incident.map(|incident| incident.id),
            init,
            rules: Arc::clone(rules),
            started_at: container.started_at,
        };
        self.shared.watched().insert(id.to_owned(), watched);
        Ok(())
    }

    /// Seals a container that has set itself up.
    fn seal_if_due(&self, container: &Container) {
        let id = container.id.as_str();
        let mut all = self.shared.watched();
        let Some(watched) = all.get_mut(id).filter(|w| w.phase == Phase::Starting) else {
            return;
        };
        // Of a clock that was set back the age is negative, and it waits for its time again.
        let age = watched
            .started_at
            .map(|at| Timestamp::now().duration_since(at));
        let is_older = |limit: SignedDuration| age.is_some_and(|age| age >= limit);
        let is_due = match watched.rules.seal {
            Seal::Command => false,
            Seal::After(limit) => SignedDuration::try_from(limit).is_ok_and(is_older),
            Seal::Health => match &container.health {
                Some(health) => health.status == HealthStatus::Healthy,
                None => is_older(SETTLED),
            },
        };
        if is_due {
            watched.phase = Phase::Sealed;
            drop(all);
            // A journal that cannot be written has it sealed again after a restart, no worse.
            self.shared.journal.sealed(id).ok();
        }
    }

    fn decide(&self, events: &[Event]) {
        if let Err(error) = self.shared.journal.remember(events) {
            self.shared
                .complain(format!("who changed what is not remembered: {error}"));
        }
        let least = self.shared.sender.least();
        for event in events {
            if let Some((rules, phase)) = self.note(event) {
                self.decide_one(event, &rules, phase, least);
            }
        }
    }

    /// Counts an event and says by what it is judged; `None` when its container is gone or the
    /// policy expects it.
    fn note(&self, event: &Event) -> Option<(Arc<Rules>, Phase)> {
        let mut all = self.shared.watched();
        let watched = all.get_mut(&event.container.id)?;
        if watched.rules.judge(event, watched.phase) == Verdict::Allowed {
            return None;
        }
        watched.events += 1;
        watched.blocked += u64::from(event.what.is_blocked());
        watched.worst = watched.worst.max(Some(event.severity));
        if event.severity > Severity::Info || watched.last.is_none() {
            watched.last = Some(crate::alert::summary(event));
        }
        Some((Arc::clone(&watched.rules), watched.phase))
    }

    fn decide_one(&self, event: &Event, rules: &Rules, phase: Phase, least: Severity) {
        if rules.judge(event, phase) != Verdict::Incident {
            if event.severity >= least || event.what == What::Missed {
                let alert = Alert::of_event(event, Kind::Event, None);
                self.shared.sender.send(&alert);
            }
            return;
        }
        match self.open_incident(event, rules) {
            Ok(Some(incident)) => {
                let alert = Alert::of_event(event, Kind::Incident, Some(incident.id));
                self.shared.sender.send(&alert);
                self.responders.respond(incident);
            }
            // The container has its incident; what else it does is part of it.
            Ok(None) => {
                let alert = Alert::of_event(event, Kind::Event, None);
                self.shared.sender.send(&alert);
            }
            // Without a journal a response could not be gone on with; it is told nevertheless.
            Err(error) => {
                self.shared
                    .sender
                    .send(&Alert::of_event(event, Kind::Event, None));
                self.shared
                    .complain(format!("no response: {}", error.chain()));
            }
        }
    }

    /// One incident a container; a name that was replaced too often is not replaced again.
    fn open_incident(&self, event: &Event, rules: &Rules) -> Result<Option<Incident>> {
        let place = &event.container;
        let known = self.shared.watched().get(&place.id).map(|one| one.incident);
        // The container may go on doing such things many times a second.
        if known.flatten().is_some() {
            return Ok(None);
        }
        let mut respond = rules.respond;
        let name = self.name_of(&place.engine, &place.id);
        let name = name.unwrap_or_else(|| place.name.clone());
        if respond == Respond::Replace {
            let within = SignedDuration::try_from(rules.within).unwrap_or(SignedDuration::MAX);
            let since = Timestamp::now().saturating_sub(within);
            let since = since.unwrap_or(Timestamp::MIN);
            let count = self.shared.journal.replaced(&place.engine, &name, since)?;
            if count >= rules.most {
                respond = rules.then;
                let text = format!(
                    "{}:{name} was attacked again after {count} replacements: {} instead of \
                     another one",
                    place.engine,
                    respond.as_str()
                );
                let alert = Alert::of_agent(Severity::Critical, text);
                self.shared.sender.send(&alert);
            }
        }
        let incident = self.shared.journal.begin(event, &name, respond)?;
        if let Some(incident) = &incident {
            if let Some(watched) = self.shared.watched().get_mut(&place.id) {
                watched.incident = Some(incident.id);
            }
            let mut counts = locked(&self.shared.incidents);
            *counts.entry(respond.as_str().to_owned()).or_default() += 1;
        }
        Ok(incident)
    }

    /// How a container is called at this moment: a replacement gives it its final name only after it
    /// was started and is watched.
    fn name_of(&self, kind: &str, id: &str) -> Option<String> {
        let engine = self.shared.host.open(kind).ok().flatten()?;
        let container = engine.inspect(id).ok()?;
        Some(container.name.as_str().to_owned())
    }

    /// Tells of losses when they happen.
    fn count(&mut self, now: &Counts) {
        *locked(&self.shared.counts) = *now;
        let dropped = now.dropped - self.lost.dropped;
        let overflows = now.overflows - self.lost.overflows;
        if dropped > 0 || overflows > 0 {
            self.shared.journal.dropped(dropped.max(overflows)).ok();
            self.shared.complain(format!(
                "{dropped} events were dropped, and the kernel's queue was full {overflows} times; \
                 a walk looks for the changes that were missed"
            ));
        }
        self.lost = *now;
    }

    /// A policy that is not good leaves the old one in force.
    fn read_policy_again(&mut self) {
        let shared = Arc::clone(&self.shared);
        match read_policy(&shared.settings) {
            Ok(policy) => {
                self.policy = policy;
                *locked(&shared.policy_problem) = None;
                shared.sender.change(self.policy.alerts.clone());
                // Each is watched anew, as its rules are now.
                self.sensor.keep_only(|_, _| false);
                self.refused.clear();
                shared.watched().clear();
                self.discovery = Discovery::new(
                    Arc::clone(&shared.host),
                    shared.settings.root.join("events"),
                );
            }
            Err(error) => {
                let text = error.chain();
                shared.complain(format!("the policy stays as it was: {text}"));
                *locked(&shared.policy_problem) = Some(text);
            }
        }
    }

    fn forget(&self) {
        let days = i64::from(self.policy.settings.retention_days);
        let before = Timestamp::now().saturating_sub(SignedDuration::from_hours(24 * days));
        let forgot = before
            .map_err(|_overflow| None)
            .and_then(|before| self.shared.journal.forget(before).map_err(Some));
        if let Err(Some(error)) = forgot {
            self.shared
                .complain(format!("what is old is not forgotten: {error}"));
        }
    }
}

/// One agent a state root.
fn lock(settings: &Settings) -> Result<fs::File> {
    use fs_err::os::unix::fs::OpenOptionsExt as _;
    let path = settings.root.join("agent.lock");
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
        .create(&settings.root)
        .map_err(AgentError::io("create", &settings.root))?;
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(AgentError::io("open", &path))?;
    match invar_sys::lock::try_lock(&file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(AgentError::Running {
            root: settings.root.clone(),
        }),
        Err(error) => Err(AgentError::io("lock", &path)(error)),
    }
}

fn read_policy(settings: &Settings) -> Result<Policy> {
    let path = &settings.policy;
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, &path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Policy::default()),
        Err(error) => Err(AgentError::io("read", path)(error)),
    }
}

fn drift_rules(policy: &Policy) -> Result<Arc<invar_drift::Rules>> {
    invar_drift::Rules::with_files(&policy.settings.rules).map_err(|error| {
        let text = error.to_string();
        AgentError::Policy {
            file: error.file,
            line: error.line,
            message: text,
        }
    })
}
