//! Whether containers are well: their own check, and whether their port answers. Checks run beside
//! the driver, so that one that hangs holds nothing up.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use invar_engine::{ContainerId, Engine, ExecConfig};

use crate::compose::Healthcheck;
use crate::machine::ReplicaState;

/// Until a port must take a connection.
const CONNECT: Duration = Duration::from_millis(500);
/// Between two checks of a container that is not well yet.
const EAGER: Duration = Duration::from_millis(200);
/// Failures in a row, when nothing else is said.
const RETRIES: u32 = 3;
/// A container without a port or a check is well once it has run so long.
const SETTLED: Duration = Duration::from_secs(1);

/// What is asked of a container.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) check: Option<Healthcheck>,
    pub(super) ports: Vec<SocketAddr>,
}

/// What is known of the containers of a service.
pub(super) struct Health {
    engine: Arc<dyn Engine>,
    known: HashMap<ContainerId, Known>,
    sender: Sender<(ContainerId, Result<(), String>)>,
    answers: Receiver<(ContainerId, Result<(), String>)>,
}

struct Known {
    seen: Instant,
    /// Since when a check runs.
    running: Option<Instant>,
    next: Instant,
    was_well: bool,
    failures: u32,
    reason: String,
}

impl Health {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Self {
        let (sender, answers) = channel();
        Self {
            engine,
            known: HashMap::new(),
            sender,
            answers,
        }
    }

    /// What a running container is; begins a check when one is due.
    pub(super) fn state(&mut self, id: &ContainerId, asked: &Asked) -> ReplicaState {
        self.collect();
        let now = Instant::now();
        let known = self.known.entry(id.clone()).or_insert_with(|| Known {
            seen: now,
            running: None,
            next: now,
            was_well: false,
            failures: 0,
            reason: String::new(),
        });
        if asked.check.is_none() && asked.ports.is_empty() {
            return if known.seen.elapsed() >= SETTLED {
                ReplicaState::Healthy
            } else {
                ReplicaState::Starting
            };
        }
        let check = asked.check.as_ref();
        let timeout = check.map_or(CONNECT * 4, |check| check.timeout);
        if known.running.is_some_and(|since| since.elapsed() > timeout) {
            // Its answer, if it ever comes, is one more failure or success of that moment.
            known.running = None;
            known.fail("gave its health check no answer in time".to_owned());
        }
        if known.running.is_none() && known.next <= now {
            let usual = check.map_or(Duration::from_secs(1), |check| check.interval);
            let pause = if known.was_well { usual } else { EAGER };
            known.next = now + pause;
            known.running = Some(now);
            begin(&self.engine, &self.sender, id.clone(), asked.clone());
        }
        let retries = check.map_or(RETRIES, |check| check.retries);
        match (known.was_well, known.failures) {
            (false, _) => ReplicaState::Starting,
            (true, failures) if failures >= retries => {
                ReplicaState::Unhealthy(known.reason.clone())
            }
            (true, _) => ReplicaState::Healthy,
        }
    }

    /// Forgets containers that are gone.
    pub(super) fn keep(&mut self, there: &[ContainerId]) {
        self.known.retain(|id, _| there.contains(id));
    }

    fn collect(&mut self) {
        while let Ok((id, answer)) = self.answers.try_recv() {
            let Some(known) = self.known.get_mut(&id) else {
                continue;
            };
            known.running = None;
            match answer {
                Ok(()) => {
                    known.was_well = true;
                    known.failures = 0;
                }
                Err(reason) => known.fail(reason),
            }
        }
    }
}

impl Known {
    fn fail(&mut self, reason: String) {
        self.failures = self.failures.saturating_add(1);
        self.reason = reason;
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

fn begin(
    engine: &Arc<dyn Engine>,
    sender: &Sender<(ContainerId, Result<(), String>)>,
    id: ContainerId,
    asked: Asked,
) {
    let (engine, sender) = (Arc::clone(engine), sender.clone());
    std::thread::spawn(move || {
        let answer = check(&*engine, &id, &asked);
        // Nobody waits for it when the driver has ended.
        drop(sender.send((id, answer)));
    });
}

fn check(engine: &dyn Engine, id: &ContainerId, asked: &Asked) -> Result<(), String> {
    for address in &asked.ports {
        TcpStream::connect_timeout(address, CONNECT)
            .map_err(|error| format!("does not answer at {address}: {error}"))?;
    }
    let Some(check) = &asked.check else {
        return Ok(());
    };
    let exec = ExecConfig {
        args: check.test.clone(),
        env: Vec::new(),
        cwd: None,
        user: None,
        tty: false,
        interactive: false,
        quiet: true,
    };
    match engine.exec(id, &exec) {
        Ok(0) => Ok(()),
        Ok(code) => Err(format!("failed its health check with code {code}")),
        Err(error) => Err(format!("could not be checked: {error}")),
    }
}
