//! Numbers for Prometheus (text format 0.0.4), over HTTP.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{Shared, locked};
use crate::error::{AgentError, Result};
use crate::policy::{Mode, Phase};

/// Longest request.
const LONGEST: u64 = 8 << 10;
/// How long a reader may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers every request at the address with all numbers. One at a time: a reader that is slow
/// holds up other readers, for a few seconds, and nothing else.
pub(crate) fn serve(address: SocketAddr, shared: Arc<Shared>) -> Result<()> {
    let shown = std::path::PathBuf::from(address.to_string());
    let failed = || AgentError::io("serve metrics at", &shown);
    let listener = TcpListener::bind(address).map_err(failed())?;
    std::thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(&stream, &shared).ok();
            }
        })
        .map_err(failed())?;
    Ok(())
}

fn answer(mut stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.take(LONGEST)).lines();
    let is_read = lines
        .next()
        .transpose()?
        .is_some_and(|line| line.starts_with("GET "));
    // A request that is cut short is not waited for.
    while let Some(line) = lines.next().transpose()? {
        if line.is_empty() {
            break;
        }
    }
    let (status, body) = if is_read {
        ("200 OK", text(shared))
    } else {
        ("405 Method Not Allowed", String::new())
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

fn text(shared: &Shared) -> String {
    let mut out = String::new();
    counters(&mut out, shared);
    metric(
        &mut out,
        "incidents_total",
        "Incidents by response",
        "counter",
    );
    for (respond, count) in &*locked(&shared.incidents) {
        writeln!(
            out,
            "invar_agent_incidents_total{{respond=\"{respond}\"}} {count}"
        )
        .ok();
    }
    containers(&mut out, shared);
    let waiting = shared.journal.waiting().unwrap_or(0);
    let problem = u64::from(locked(&shared.policy_problem).is_some());
    for (name, help, value) in [
        ("alerts_waiting", "Alerts that wait for a webhook", waiting),
        (
            "policy_problem",
            "Whether the policy could not be read again",
            problem,
        ),
    ] {
        metric(&mut out, name, help, "gauge");
        writeln!(out, "invar_agent_{name} {value}").ok();
    }
    out
}

fn counters(out: &mut String, shared: &Shared) {
    let counts = *locked(&shared.counts);
    let (sent, failed) = shared.sender.counts();
    for (name, help, value) in [
        ("events_total", "Events seen", counts.events),
        (
            "blocked_total",
            "Programs and openings refused",
            counts.blocked,
        ),
        (
            "repeated_total",
            "The same again within a second",
            counts.repeated,
        ),
        (
            "kernel_overflows_total",
            "Times the kernel's queue was full",
            counts.overflows,
        ),
        ("dropped_total", "Events not taken in time", counts.dropped),
        (
            "missed_total",
            "Changes only a walk has found",
            counts.missed,
        ),
        ("alerts_total", "Alerts", sent),
        (
            "alert_failures_total",
            "Alerts that a place did not get",
            failed,
        ),
    ] {
        metric(out, name, help, "counter");
        writeln!(out, "invar_agent_{name} {value}").ok();
    }
}

fn containers(out: &mut String, shared: &Shared) {
    metric(out, "containers", "Watched containers", "gauge");
    let watched = shared.watched();
    for (mode, name) in [(Mode::Observe, "observe"), (Mode::Block, "block")] {
        for (phase, of) in [(Phase::Starting, "starting"), (Phase::Sealed, "sealed")] {
            let count = watched
                .values()
                .filter(|watched| watched.mode == mode && watched.phase == phase)
                .count();
            writeln!(
                out,
                "invar_agent_containers{{mode=\"{name}\",phase=\"{of}\"}} {count}"
            )
            .ok();
        }
    }
}

fn metric(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing into a string cannot fail.
    writeln!(
        out,
        "# HELP invar_agent_{name} {help}.\n# TYPE invar_agent_{name} {kind}"
    )
    .ok();
}
