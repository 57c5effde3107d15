//! The side that answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fs_err as fs;
use invar_engine::{Container, Engine};
use rustix::process::geteuid;
use serde_json::{Value, json};

use super::protocol::{Answer, Ask, LONGEST, Request, VERSION};
use crate::agent::{Shared, locked};
use crate::error::{AgentError, Result};
use crate::policy::Phase;
use crate::respond;

/// Connections at once.
const MOST_CONNECTIONS: usize = 16;
/// How long one may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// Incidents in one answer.
const MOST_INCIDENTS: u32 = 10_000;

/// Makes the socket, mode 0600, and answers in a thread. What a killed agent left is removed.
pub(crate) fn start(shared: Arc<Shared>) -> Result<()> {
    let path = shared.settings.control.clone();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(AgentError::io("create", parent))?;
    }
    let listener = bind(&path)?;
    std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || accept(&shared, &listener))
        .map_err(AgentError::io("answer on", &path))?;
    Ok(())
}

fn bind(path: &Path) -> Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        let taken = std::io::ErrorKind::AddrInUse.into();
        return Err(AgentError::io("listen on", path)(taken));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(AgentError::io("remove", path)(error));
        }
        _ => {}
    }
    // Nobody can connect in between: whoever does is asked who he is.
    let listener = UnixListener::bind(path).map_err(AgentError::io("listen on", path))?;
    fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(AgentError::io("listen on", path))?;
    Ok(listener)
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        if open.load(Ordering::SeqCst) >= MOST_CONNECTIONS || !is_allowed(&stream) {
            continue;
        }
        open.fetch_add(1, Ordering::SeqCst);
        let (shared, done) = (Arc::clone(shared), Arc::clone(&open));
        let thread = std::thread::Builder::new().spawn(move || {
            // Whoever asks may be gone.
            serve(&shared, &stream).ok();
            done.fetch_sub(1, Ordering::SeqCst);
        });
        if thread.is_err() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Root and the agent's own user, whatever the mode of the socket says.
fn is_allowed(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == geteuid())
}

fn serve(shared: &Shared, mut stream: &UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new(stream.take(LONGEST)).read_until(b'\n', &mut line)?;
    let answer = match serde_json::from_slice::<Request>(&line) {
        Ok(request) if request.version != VERSION => Answer::Refused(format!(
            "this agent speaks version {VERSION}, not {}",
            request.version
        )),
        Ok(request) => match answer(shared, &request.ask) {
            Ok(value) => Answer::Done(value),
            Err(error) => Answer::Refused(error.chain()),
        },
        Err(error) => Answer::Refused(format!("the question cannot be read: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    stream.write_all(&text)
}

fn answer(shared: &Shared, ask: &Ask) -> Result<Value> {
    match ask {
        Ask::Status => Ok(status(shared)),
        Ask::Incidents { most } => {
            let incidents = shared.journal.incidents((*most).min(MOST_INCIDENTS))?;
            Ok(json!(incidents))
        }
        Ask::Seal { container } => {
            let id = find(shared, container)?;
            if let Some(watched) = shared.watched().get_mut(&id) {
                watched.phase = Phase::Sealed;
            }
            shared.journal.sealed(&id)?;
            Ok(json!({ "sealed": id }))
        }
        Ask::Release { container } => {
            let (engine, container) = open(shared, container)?;
            respond::release(shared, &*engine, &container)?;
            if let Some(watched) = shared.watched().get_mut(container.id.as_str()) {
                watched.incident = None;
            }
            Ok(json!({ "released": container.id }))
        }
        Ask::Reload => {
            shared.reload.store(true, Ordering::SeqCst);
            Ok(json!({ "reloading": shared.settings.policy }))
        }
    }
}

fn status(shared: &Shared) -> Value {
    let containers: Vec<Value> = shared
        .watched()
        .values()
        .map(|watched| json!(watched))
        .collect();
    let (sent, failed) = shared.sender.counts();
    json!({
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "begun_at": shared.begun_at,
        "policy": shared.settings.policy,
        "guard": if shared.unguarded.is_none() { "kernel" } else { "fanotify" },
        "unguarded": shared.unguarded,
        "policy_problem": *locked(&shared.policy_problem),
        "engines_unreachable": *locked(&shared.problems),
        "counts": *locked(&shared.counts),
        "alerts": { "sent": sent, "failed": failed, "waiting": shared.journal.waiting().ok() },
        "incidents": *locked(&shared.incidents),
        "containers": containers,
    })
}

/// The id of a watched container. After a replacement the old one may have the name for a moment
/// longer: the one that was started last is meant.
fn find(shared: &Shared, asked: &str) -> Result<String> {
    let (kind, name) = match asked.split_once(':') {
        Some((kind, name)) => (Some(kind), name),
        None => (None, asked),
    };
    let watched = shared.watched();
    let mut fitting: Vec<_> = watched
        .values()
        .filter(|watched| kind.is_none_or(|kind| kind == watched.engine))
        .filter(|watched| watched.name == name || watched.id.starts_with(name))
        .collect();
    fitting.sort_by_key(|watched| watched.started_at);
    let found = fitting.last().filter(|_| !name.is_empty());
    let same_engine = fitting
        .iter()
        .all(|watched| Some(&watched.engine) == found.map(|found| &found.engine));
    match found {
        Some(found) if same_engine => Ok(found.id.clone()),
        Some(_) => Err(AgentError::Answer(format!(
            "several engines have a container {name:?}: say docker:{name} or embedded:{name}"
        ))),
        None => Err(AgentError::NotWatched {
            name: asked.to_owned(),
        }),
    }
}

/// A container and its engine.
fn open(shared: &Shared, asked: &str) -> Result<(Box<dyn Engine>, Container)> {
    let id = find(shared, asked)?;
    let kind = shared
        .watched()
        .get(&id)
        .map(|watched| watched.engine.clone());
    let not_watched = || AgentError::NotWatched {
        name: asked.to_owned(),
    };
    let kind = kind.ok_or_else(not_watched)?;
    let engine = shared.host.open(&kind)?.ok_or_else(not_watched)?;
    let container = engine.inspect(&id)?;
    Ok((engine, container))
}
