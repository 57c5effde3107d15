//! What is done about an incident, in threads of their own so that seeing never waits.
//!
//! Each step is in the journal before it is done. An agent that was killed goes on with what it
//! finds there: every deed is harmless when done twice, and evidence that was begun is finished.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use invar_drift::Severity;
use invar_engine::{Container, Engine, EngineError, State};
use invar_evidence::{EvidenceStore, Limits, Plan, ReplaceOptions, Traffic, Wanted};
use jiff::Timestamp;

use crate::agent::{Shared, locked};
use crate::alert::{Alert, Kind};
use crate::error::{AgentError, Result};
use crate::journal::{Incident, severity};

/// Threads that respond.
pub(crate) struct Responders {
    queue: Option<Sender<Incident>>,
    threads: Vec<JoinHandle<()>>,
}

impl Responders {
    pub(crate) fn start(shared: &Arc<Shared>, count: usize) -> Self {
        let (queue, incidents) = channel();
        let incidents = Arc::new(Mutex::new(incidents));
        let threads = (0..count).filter_map(|_| {
            let (shared, incidents) = (Arc::clone(shared), Arc::clone(&incidents));
            let thread = std::thread::Builder::new().name("responder".to_owned());
            thread.spawn(move || work(&shared, &incidents)).ok()
        });
        Self {
            threads: threads.collect(),
            queue: Some(queue),
        }
    }

    /// Has an incident responded to.
    pub(crate) fn respond(&self, incident: Incident) {
        if let Some(queue) = &self.queue {
            // Without a thread that takes it, it stays in the journal for the next start.
            queue.send(incident).ok();
        }
    }

    /// Waits for the responses under way.
    pub(crate) fn finish(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn work(shared: &Shared, incidents: &Mutex<Receiver<Incident>>) {
    loop {
        let next = locked(incidents).recv();
        let Ok(incident) = next else { return };
        respond(shared, &incident);
    }
}

/// Responds, and says how it went.
fn respond(shared: &Shared, incident: &Incident) {
    let began = std::time::Instant::now();
    let done = Response { shared, incident }.carry_out();
    let (outcome, is_done) = match &done {
        Ok(outcome) => (outcome.clone(), true),
        Err(error) => (format!("failed: {}", error.chain()), false),
    };
    if let Err(error) = shared.journal.end(incident.id, &outcome) {
        shared.complain(format!(
            "the end of incident {} is not kept: {error}",
            incident.id
        ));
    }
    // The first alert has said everything when nothing more was asked for.
    if incident.respond == "alert" {
        return;
    }
    let (kind, name) = (&incident.engine, &incident.name);
    let millis = began.elapsed().as_millis();
    let kept = shared.journal.incident_of(kind, &incident.container);
    let worst = severity(&incident.severity);
    shared.sender.send(&Alert {
        time: Timestamp::now(),
        kind: Kind::Response,
        severity: if is_done { worst } else { Severity::Critical },
        text: format!("{kind}:{name}: {outcome} ({millis} ms)"),
        container: Some(format!("{kind}:{name}")),
        container_id: Some(incident.container.clone()),
        incident: Some(incident.id),
        evidence: kept.ok().flatten().and_then(|kept| kept.evidence),
        event: None,
    });
}

struct Response<'a> {
    shared: &'a Shared,
    incident: &'a Incident,
}

impl Response<'_> {
    fn carry_out(&self) -> Result<String> {
        if self.incident.respond == "alert" {
            return Ok("told".to_owned());
        }
        let kind = &self.incident.engine;
        let engine = self.shared.host.open(kind)?.ok_or_else(|| {
            AgentError::Engine(EngineError::Unsupported {
                what: format!("responding to a container of {kind}"),
                reason: "the engine is not on this machine any more".to_owned(),
            })
        })?;
        let engine = &*engine;
        match self.incident.respond.as_str() {
            "freeze" => self.freeze(engine),
            "quarantine" => self.quarantine(engine),
            "capture" => self.capture(engine),
            _ => self.replace(engine),
        }
    }

    fn step(&self, step: &str) -> Result<()> {
        self.shared.journal.step(self.incident.id, step)?;
        hit(step);
        Ok(())
    }

    /// The container, unless it is gone.
    fn container(&self, engine: &dyn Engine) -> Result<Option<Container>> {
        match engine.inspect(&self.incident.container) {
            Ok(container) => Ok(Some(container)),
            Err(EngineError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn freeze(&self, engine: &dyn Engine) -> Result<String> {
        let Some(container) = self.container(engine)? else {
            return Ok("the container is gone".to_owned());
        };
        if container.state == State::Running {
            self.step("freezing")?;
            engine.pause(&container.id)?;
        }
        let name = &container.name;
        Ok(format!(
            "frozen; let it go on with: invar agent release {name}"
        ))
    }

    /// A container whose network cannot be cut (it is the host's) is frozen instead.
    fn quarantine(&self, engine: &dyn Engine) -> Result<String> {
        let container = self.container(engine)?;
        let init = container.and_then(|container| container.init_pid);
        let Some(init) = init else {
            return Ok("the container has ended".to_owned());
        };
        self.step("quarantining")?;
        match invar_sys::network::cut(init) {
            Ok(0) if is_on_hosts_network(init) => {
                let frozen = self.freeze(engine)?;
                Ok(format!("its network is the host's, so it was {frozen}"))
            }
            Ok(0) => Ok("it has no network that could be cut".to_owned()),
            Ok(_) => Ok(format!(
                "cut off its network; give it back with: invar agent release {}",
                self.incident.name
            )),
            Err(error) => {
                let frozen = self.freeze(engine)?;
                Ok(format!(
                    "its network could not be cut ({error}), so it was {frozen}"
                ))
            }
        }
    }

    fn store(&self) -> Result<EvidenceStore> {
        let root = &self.shared.settings.root;
        let store = EvidenceStore::open(root)?;
        Ok(store.with_witness(crate::attribution::witness(root)))
    }

    fn capture(&self, engine: &dyn Engine) -> Result<String> {
        let store = self.store()?;
        for found in store.list()? {
            let is_its = found.header.as_ref().is_some_and(|header| {
                let container = &header.container;
                container.id.as_str() == self.incident.container
                    && header.begun_at >= self.incident.begun_at
            });
            // Of an earlier agent that was killed in the middle of it.
            if is_its && found.state == invar_evidence::State::Incomplete {
                let sealed = invar_evidence::finish(&store, &found, engine, Limits::default())?;
                return self.captured(sealed.id.as_str());
            }
            if is_its && found.state == invar_evidence::State::Sealed {
                return self.captured(found.id.as_str());
            }
        }
        let Some(container) = self.container(engine)? else {
            return Ok("the container is gone, and nothing could be captured".to_owned());
        };
        self.step("capturing")?;
        let plan = Plan {
            stop: false,
            remove: false,
            wanted: Wanted::default(),
        };
        let limits = Limits::default();
        let sealed =
            invar_evidence::capture(&store, engine, &container, plan, limits, &mut |_| {})?;
        self.captured(sealed.id.as_str())
    }

    fn captured(&self, evidence: &str) -> Result<String> {
        self.shared.journal.evidence(self.incident.id, evidence)?;
        Ok(format!("captured as {evidence}; the container goes on"))
    }

    fn replace(&self, engine: &dyn Engine) -> Result<String> {
        let store = self.store()?;
        let name = invar_engine::ContainerName::parse(&self.incident.name)?;
        if self.incident.step == "replacing"
            && let Some(done) = invar_evidence::recover(&store, engine, &name, Limits::default())?
            && done.old.as_str() == self.incident.container
        {
            return self.replaced(&done);
        }
        let Some(container) = self.container(engine)? else {
            return Ok("the container is gone".to_owned());
        };
        self.step("replacing")?;
        let options = ReplaceOptions::default();
        let mut traffic = self.shared.host.traffic(engine, &container);
        let traffic = traffic
            .as_deref_mut()
            .map(|traffic| traffic as &mut dyn Traffic);
        let mut replaced = |_: &invar_evidence::Replacement| hit("replaced");
        let done =
            invar_evidence::replace(&store, engine, &container, &options, traffic, &mut replaced)?;
        self.replaced(&done)
    }

    fn replaced(&self, done: &invar_evidence::Replacement) -> Result<String> {
        let evidence = done
            .evidence
            .as_ref()
            .map(invar_evidence::EvidenceId::as_str);
        if let Some(evidence) = evidence {
            self.shared.journal.evidence(self.incident.id, evidence)?;
        }
        Ok(format!(
            "captured as {} and replaced by {}, which was ready after {} ms",
            evidence.unwrap_or("nothing"),
            done.new.short(),
            done.fresh_ms
        ))
    }
}

/// Whether a process is in the network namespace of the host.
fn is_on_hosts_network(pid: u32) -> bool {
    let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net")).ok();
    of(&pid.to_string()) == of("self")
}

/// Whether a response has frozen a container that must not go on by itself.
pub(crate) fn is_held(incident: &Incident) -> bool {
    let outcome = incident.outcome.as_deref().unwrap_or_default();
    matches!(incident.respond.as_str(), "freeze" | "quarantine") && outcome.contains("frozen")
}

/// Undoes what a response did to a container, as far as it can be.
pub(crate) fn release(shared: &Shared, engine: &dyn Engine, container: &Container) -> Result<()> {
    if container.state == State::Paused {
        engine.resume(&container.id)?;
    }
    if let Some(init) = container.init_pid {
        invar_sys::network::mend(init).map_err(AgentError::io(
            "give the network back to the container of",
            format!("/proc/{init}").as_ref(),
        ))?;
    }
    shared
        .journal
        .release(container.engine, container.id.as_str())
}

/// Kills this process at a step, for tests; only builds with debug assertions do.
fn hit(step: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("INVAR_AGENT_KILL_AT").is_some_and(|wanted| wanted == step) {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .ok();
    }
    #[cfg(not(debug_assertions))]
    let _ = step;
}
