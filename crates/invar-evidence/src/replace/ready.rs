//! Waiting until a fresh container does its work.

use std::time::{Duration, Instant};

use invar_engine::{ContainerId, Engine, HealthStatus, LogOptions, State};

use crate::error::{EvidenceError, Result};
use crate::text;

/// How often the engine is asked.
const INTERVAL: Duration = Duration::from_millis(20);
/// Lines of output shown when a container does not come up.
const LINES: usize = 5;

/// Waits until the container is healthy, or, when it has no health check, still runs after
/// `settle`. Anything else within `limit` is an error that says what it printed.
pub(super) fn wait(
    engine: &dyn Engine,
    id: &ContainerId,
    name: &str,
    settle: Duration,
    limit: Duration,
) -> Result<()> {
    let start = Instant::now();
    let not_ready = |reason: String| EvidenceError::NotReady {
        name: name.to_owned(),
        reason: format!("{reason}{}", last_words(engine, id)),
    };
    loop {
        let container = engine
            .inspect(id.as_str())
            .map_err(EvidenceError::engine("look at the fresh container"))?;
        match container.state {
            State::Exited(status) | State::Restarting(status) => {
                return Err(not_ready(format!("ended with exit code {}", status.code)));
            }
            State::Running => match container.health.map(|health| health.status) {
                Some(HealthStatus::Healthy) => return Ok(()),
                Some(HealthStatus::Unhealthy) => {
                    return Err(not_ready("is unhealthy".to_owned()));
                }
                None if start.elapsed() >= settle => return Ok(()),
                Some(HealthStatus::Starting) | None => {}
            },
            State::Created | State::Paused => {}
        }
        if start.elapsed() > limit {
            return Err(not_ready(format!(
                "was not ready within {} s",
                limit.as_secs()
            )));
        }
        std::thread::sleep(INTERVAL);
    }
}

fn last_words(engine: &dyn Engine, id: &ContainerId) -> String {
    let mut lines = Vec::new();
    let options = LogOptions {
        tail: Some(LINES),
        ..LogOptions::default()
    };
    let read = engine.logs(id, &options, &mut |_, line| {
        lines.push(text::shown(line.strip_suffix(b"\n").unwrap_or(line)));
        lines.len() < LINES
    });
    match read {
        Ok(()) if !lines.is_empty() => format!("; it printed: {}", lines.join(" | ")),
        _ => String::new(),
    }
}
