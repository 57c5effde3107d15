//! The shim: one small single-threaded process a container. This program executed again, apart
//! from the command that started it.
//!
//! ```text
//!  start ──handles, Request──▶ shim: own session and namespaces ─▶ libcontainer ─▶ program
//!    ◀──────── Answer ────────── │ executed, or why not
//!                                └─ copies output, reaps, records the end, cleans up
//! ```
//!
//! It holds the lock on the container's status for as long as the run is under way. Killing it
//! leaves the lock free and the record `Started`: that is how the next command knows.

pub(super) mod health;
pub(super) mod launch;
mod output;
pub(super) mod supervise;
pub(super) mod terminal;
pub(super) mod viewers;

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use invar_sys::process::inherited;
use serde::{Deserialize, Serialize};

use self::launch::Run;
use super::journal::{self, Event};
use super::layout::Directory;
use super::network::{Networks, Wiring};
use super::restart::{History, Home, Next};
use super::runtime::inside::Inside;
use super::runtime::program::Failure;
use super::status::{Phase, Record, Status};
use super::{EmbeddedEngine, channel};
use crate::config::Restart;
use crate::container::{ContainerId, ExitStatus};

/// What the starting command tells the shim; the specification is in the bundle.
#[derive(Debug, Serialize, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one independent switch of the command line"
)]
pub(super) struct Request {
    pub(super) id: ContainerId,
    /// The state root.
    pub(super) root: PathBuf,
    /// The container's directory.
    pub(super) directory: PathBuf,
    /// What it may do, which also decides its system calls.
    pub(super) capabilities: Vec<String>,
    /// Where the program starts.
    pub(super) cwd: PathBuf,
    /// Names and contents of the engine's files in `/etc`.
    pub(super) files: Vec<(String, String)>,
    /// The network it is in.
    pub(super) place: Place,
    pub(super) tty: bool,
    pub(super) interactive: bool,
    /// Whether the shim's standard streams are the caller's.
    pub(super) attached: bool,
    /// Whether an init goes in front of the program.
    pub(super) init: bool,
    pub(super) auto_remove: bool,
    /// How it is called and what it was made from, for the journal.
    pub(super) name: String,
    pub(super) image: String,
    pub(super) restart: Restart,
    pub(super) history: History,
    /// Known only once the root is mounted, and said then.
    #[serde(skip)]
    pub(super) health: Option<health::Plan>,
    /// Likewise: who the program is in its user namespace.
    #[serde(skip)]
    pub(super) inside: Option<Inside>,
    /// Likewise: its user, for the streams of a program without such a namespace.
    #[serde(skip)]
    pub(super) user: u32,
    /// Whether a handle on a user namespace follows the root.
    pub(super) has_namespace: bool,
    /// What is mounted from the host with the namespace's owners, and its number among the mounts.
    pub(super) shifted: Vec<(usize, PathBuf)>,
}

impl Request {
    /// Adds to the journal.
    fn tell(&self, action: &str, attributes: &[(&str, String)]) {
        let attributes = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        journal::record(
            &self.root,
            &Event {
                time: jiff::Timestamp::now(),
                kind: "container".to_owned(),
                action: action.to_owned(),
                id: self.id.as_str().to_owned(),
                name: self.name.clone(),
                image: self.image.clone(),
                attributes,
            },
        );
    }
}

/// Where a container is among networks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// In the host's namespace.
    Host,
    /// In the namespace of another container; the first further handle.
    Other,
    /// In a namespace with loopback only.
    Alone,
    /// In a namespace with cables to bridges. Further handles hold ports of the host.
    Network(Vec<Wiring>),
}

/// What the shim answers, once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The program was executed.
    Started,
    /// It was not; the record says so too.
    Failed(Failure),
}

/// The role `shim CONTROL STATUS [NETWORK …]`, all numbers of handles.
pub(super) fn main(args: &[String]) -> ExitCode {
    let [control, status, network @ ..] = args else {
        return ExitCode::FAILURE;
    };
    let (Ok(control), Ok(status)) = (inherited(control), inherited(status)) else {
        return ExitCode::FAILURE;
    };
    let network: std::io::Result<Vec<OwnedFd>> = network.iter().map(|n| inherited(n)).collect();
    let Ok(network) = network else {
        return ExitCode::FAILURE;
    };
    let control = UnixStream::from(control);
    let Ok(mut request) = channel::receive::<Request>(&control) else {
        return ExitCode::FAILURE;
    };
    let host = invar_sys::network::own_namespace();
    let home = (!request.restart.is_no())
        .then(|| Home::here().ok())
        .flatten();
    // While the command mounts the root.
    let prepared = launch::prepare(&request, &network);
    let Ok(root) = channel::receive_handle(&control) else {
        return ExitCode::FAILURE;
    };
    let directory = Directory(request.directory.clone());
    let mut status = Status::from_handle(status, &directory);
    let namespace = request
        .has_namespace
        .then(|| channel::receive_handle(&control))
        .transpose();
    let (Ok(namespace), Ok((plan, inside, user))) = (namespace, channel::receive(&control)) else {
        return ExitCode::FAILURE;
    };
    (request.health, request.inside, request.user) = (plan, inside, user);
    let root = launch::Root { root, namespace };
    let launched = prepared
        .and_then(|prepared| launch::launch(&request, &directory, prepared, root, &mut status));
    let run = run(&request, &directory, launched, &mut status, &control);
    // A port is free for the next container once this one's rules are gone.
    leave_network(&request, host);
    drop(network);
    let next = run.was_executed.then(|| {
        let Request {
            restart, history, ..
        } = request;
        super::restart::next(home, restart, history, &run.ended, &mut status)
    });
    let next = next.flatten();
    let waiting = next.as_ref().and_then(Next::record);
    finish(
        &request,
        &directory,
        &mut status,
        run.ended.clone(),
        waiting,
        run.remover,
    );
    if let Some(next) = next {
        next.wait(&request.root, &request.id, &run.ended, &mut status);
    }
    ExitCode::SUCCESS
}

/// How a run went.
struct Ran {
    ended: ExitStatus,
    /// Whether its program was executed at all.
    was_executed: bool,
    /// The engine, where it is ready to remove the container.
    remover: Option<EmbeddedEngine>,
}

/// Serves the container from its start to its end.
fn run(
    request: &Request,
    directory: &Directory,
    launched: Result<Run, Failure>,
    status: &mut Status,
    control: &UnixStream,
) -> Ran {
    match launched {
        Ok(run) => {
            // Nobody may hear any answer: the command may have been killed; the container runs on.
            channel::send(control, &Answer::Started).ok();
            if let Err(error) = control.shutdown(std::net::Shutdown::Both) {
                // The command is gone; the container is not.
                drop(error);
            }
            request.tell("start", &[]);
            // What removes it is made ready while it runs; most that are removed are short.
            let mut remover = request
                .auto_remove
                .then(|| EmbeddedEngine::open(&request.root));
            let ended = supervise::until_end(run, request, directory, status, || remover = None);
            if ended.oom_killed {
                request.tell("oom", &[]);
            }
            request.tell("die", &[("exit_code", ended.code.to_string())]);
            Ran {
                ended,
                was_executed: true,
                remover: remover.and_then(Result::ok),
            }
        }
        Err(failure) => {
            let ended = ExitStatus {
                code: failure.code(),
                oom_killed: false,
                error: Some(crate::EngineError::from(failure.clone()).to_string()),
                finished_at: jiff::Timestamp::now(),
            };
            // Recorded first: who hears the answer may look at once.
            status.append(&Record::Ended(ended.clone())).ok();
            channel::send(control, &Answer::Failed(failure)).ok();
            Ran {
                ended,
                was_executed: false,
                remover: None,
            }
        }
    }
}

/// Takes the container's place in its network back, from the host's namespace.
fn leave_network(request: &Request, host: std::io::Result<OwnedFd>) {
    if !matches!(request.place, Place::Network(_)) {
        return;
    }
    // What is left is taken back by the next container that starts.
    let Ok(()) = host.and_then(|host| invar_sys::network::enter(host.as_fd())) else {
        return;
    };
    let layout = super::layout::Layout::new(&request.root);
    Networks::open_alone(&layout)
        .and_then(|networks| networks.release(&request.id))
        .ok();
}

/// Records the end and removes what only a run needs; with `--rm`, the container.
fn finish(
    request: &Request,
    directory: &Directory,
    status: &mut Status,
    ended: ExitStatus,
    waiting: Option<Record>,
    remover: Option<EmbeddedEngine>,
) {
    super::clear_run(&request.id, directory).ok();
    let is_recorded = status
        .now()
        .is_ok_and(|now| matches!(now.phase, Phase::Ended(_)));
    if !is_recorded {
        // With a full disk the next command finds a run without an end, and says so.
        let records: Vec<Record> = std::iter::once(Record::Ended(ended))
            .chain(waiting)
            .collect();
        status.append_all(&records).ok();
    }
    if request.auto_remove {
        // What is left is removed by the next command that looks.
        remover
            .map_or_else(|| EmbeddedEngine::open(&request.root), Ok)
            .and_then(|engine| engine.discard(&request.id))
            .ok();
    }
}
