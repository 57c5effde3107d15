//! One more program in a running container, by a helper: this program executed again, single-
//! threaded, with the caller's own standard streams, so that nothing is copied on the way. Only a
//! user who may not open these by name gets pipes.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fs_err as fs;
use invar_sys::process::{command, inherit, inherited, read_only_self};
use invar_sys::signal::{SIGCHLD, SIGWINCH, SignalFd};
use invar_sys::userns;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::PollFlags;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait, waitpid};
use serde::{Deserialize, Serialize};

use super::channel;
use super::layout::Directory;
use super::registry::Entry;
use super::runtime::inside::Inside;
use super::runtime::program::{Failure, Program};
use super::runtime::{seccomp, spec};
use super::shim::launch::{failure, runtime, setup};
use super::shim::supervise::Pump;
use super::shim::terminal;
use super::{EmbeddedEngine, users};
use crate::container::ContainerId;
use crate::engine::ExecConfig;
use crate::error::{EngineError, Result};

/// How long a program that could not be executed may take to be gone.
const REAPING: Duration = Duration::from_secs(1);

/// What the helper is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: ContainerId,
    pub(super) directory: PathBuf,
    /// The program, as the OCI runtime specification describes a process.
    pub(super) process: serde_json::Value,
    pub(super) cwd: PathBuf,
    pub(super) capabilities: Vec<String>,
    pub(super) tty: bool,
    pub(super) interactive: bool,
    /// Who it is in the container's user namespace, when that has one.
    pub(super) inside: Option<Inside>,
    /// Who may not open the caller's output by name (`/dev/stderr`), and so gets pipes of its own.
    pub(super) stranger: Option<u32>,
}

/// How it went, as the helper tells it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Ended(u8),
    Failed(Failure),
}

impl EmbeddedEngine {
    /// Runs a program in the running container `entry`, whose first process is `init`.
    pub(super) fn exec_in(&self, entry: &Entry, init: u32, exec: &ExecConfig) -> Result<u8> {
        let request = self.request(entry, init, exec)?;
        let failed = |source| EngineError::Runtime {
            action: "start the helper for the program",
            reason: std::io::Error::to_string(&source),
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let theirs = OwnedFd::from(theirs);
        let file = read_only_self().map_err(failed)?;
        inherit(theirs.as_fd()).map_err(failed)?;
        let stdin = if exec.interactive {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let output = || {
            if exec.quiet {
                Stdio::null()
            } else {
                Stdio::inherit()
            }
        };
        let mut helper = command(file.as_fd())
            .stdout(output())
            .stderr(output())
            .args(["exec-helper", &super::runtime::program::number(&theirs)])
            .env_clear()
            .stdin(stdin)
            .spawn()
            .map_err(failed)?;
        drop(theirs);
        channel::send(&ours, &request).map_err(failed)?;
        let answer = channel::receive(&ours);
        helper.wait().map_err(failed)?;
        match answer {
            Ok(Answer::Ended(code)) => Ok(code),
            Ok(Answer::Failed(failure)) => Err(failure.into()),
            Err(_killed) => Err(failed(std::io::Error::other("it was killed"))),
        }
    }

    fn request(&self, entry: &Entry, init: u32, exec: &ExecConfig) -> Result<Request> {
        let config = &entry.config;
        let root = PathBuf::from(format!("/proc/{init}/root"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &root, flags, Mode::empty())
            .map_err(|errno| EngineError::io("open", &root, errno.into()))?;
        let account = users::resolve(root.as_fd(), exec.user.as_ref().unwrap_or(&config.user))?;
        let directory = self.layout.container(&entry.id);
        let inputs = spec::Inputs {
            id: &entry.id,
            config,
            account: &account,
            directory: &directory,
            layout: &self.layout,
            capabilities: super::start::available(&config.capabilities),
            open_files: super::start::open_files(),
            first: self.registry.first_owner(&entry.id)?,
            profile: super::apparmor::profile(&config.apparmor)?,
        };
        let mut env = spec::environment(&inputs);
        for setting in &exec.env {
            let name = setting.split('=').next().unwrap_or(setting);
            env.retain(|other| other.split('=').next() != Some(name));
            env.push(setting.clone());
        }
        Ok(Request {
            process: spec::process(&inputs, &exec.args, &env, exec.tty),
            cwd: exec.cwd.clone().unwrap_or_else(|| config.cwd.clone()),
            id: entry.id.clone(),
            directory: directory.path().to_owned(),
            capabilities: config.capabilities.clone(),
            tty: exec.tty,
            interactive: exec.interactive,
            stranger: is_stranger(exec, &inputs).then_some(account.uid),
            inside: Inside::of(&inputs),
        })
    }
}

/// Whether the program's user is another than the caller, and writes to what is the caller's.
fn is_stranger(exec: &ExecConfig, inputs: &spec::Inputs<'_>) -> bool {
    let is_root = inputs.first.is_none() && inputs.account.uid == 0;
    !exec.tty && !exec.quiet && !is_root
}

/// The role `exec-helper CONTROL`, the number of a handle.
pub(super) fn main(args: &[String]) -> ExitCode {
    let Some(Ok(control)) = args.first().map(|number| inherited(number)) else {
        return ExitCode::FAILURE;
    };
    let control = UnixStream::from(control);
    let Ok(request) = channel::receive(&control) else {
        return ExitCode::FAILURE;
    };
    let answer = run(&request).map_or_else(Answer::Failed, Answer::Ended);
    match channel::send(&control, &answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_nobody_listens) => ExitCode::FAILURE,
    }
}

fn run(request: &Request) -> std::result::Result<u8, Failure> {
    invar_sys::signal::unblock_all().map_err(setup)?;
    let signals = SignalFd::block(&[SIGCHLD, SIGWINCH]).map_err(setup)?;
    let directory = Directory(request.directory.clone());
    let process = directory
        .runtime()
        .join(format!("process-{}.json", std::process::id()));
    fs::write(&process, request.process.to_string()).map_err(setup)?;
    let started = start(request, &directory, &process);
    fs::remove_file(&process).ok();
    if started.is_err() {
        reap();
    }
    let (pid, output) = started?;
    let mut pump = match output {
        Output::Callers => None,
        Output::Terminal(master) => Some(Pump::of_terminal(master, request.interactive)),
        Output::Pipes { stdout, stderr } => Some(Pump::of_pipes(stdout, stderr)),
    };
    loop {
        let is_signalled = match &mut pump {
            Some(pump) => {
                let (ready, _shown) = pump.step(&[(signals.as_fd(), PollFlags::IN)], None);
                ready.first() == Some(&true)
            }
            None => true,
        };
        if !is_signalled {
            continue;
        }
        match signals.wait() {
            Ok(SIGCHLD) => {
                if let Some(status) = ended(pid) {
                    match &mut pump {
                        Some(pump) if request.tty => drop(pump.drain()),
                        Some(pump) => pump.finish(),
                        None => {}
                    }
                    return Ok(super::exit_code(status));
                }
            }
            Ok(SIGWINCH) => pump.iter().for_each(Pump::follow_size),
            _ => {}
        }
    }
}

/// Reaps what could not become the program: it has ended, or is just ending. Left to the host's
/// first process, which may take its time, it would hold up the end of the whole container: that
/// waits for everything in its process namespace (`pid_namespaces(7)`).
fn reap() {
    let deadline = Instant::now() + REAPING;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => return,
        }
    }
}

fn ended(pid: Pid) -> Option<WaitStatus> {
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(Some((_pid, status))) => Some(status),
        _ => None,
    }
}

/// The user namespace of the container's first process, and who the program is there.
fn inside(
    request: &Request,
    directory: &Directory,
) -> std::result::Result<Option<(Rc<OwnedFd>, Inside)>, Failure> {
    let Some(inside) = request.inside.clone() else {
        return Ok(None);
    };
    let state = directory.runtime().join(request.id.as_str());
    let container = Container::load(state).map_err(|error| runtime(&error))?;
    let pid = container.pid().ok_or_else(|| setup("it has no process"))?;
    let namespace = userns::of_process(pid.as_raw()).map_err(setup)?;
    let number = u32::try_from(pid.as_raw()).map_err(setup)?;
    // Not that of a process which got the number of one that has ended.
    if userns::first_of(number).map_err(setup)? != inside.first {
        return Err(setup("its first process has ended"));
    }
    Ok(Some((Rc::new(namespace), inside)))
}

/// Where the program writes to.
enum Output {
    /// The caller's own streams, so that nothing is copied on the way.
    Callers,
    /// The other side of its terminal.
    Terminal(OwnedFd),
    /// The other sides of pipes made for it.
    Pipes { stdout: OwnedFd, stderr: OwnedFd },
}

/// Starts the program; its process, and where that writes to.
fn start(
    request: &Request,
    directory: &Directory,
    process: &std::path::Path,
) -> std::result::Result<(Pid, Output), Failure> {
    let (reader, outcome) = pipe_with(PipeFlags::CLOEXEC).map_err(setup)?;
    let executor = Program {
        filters: seccomp::filters(&request.capabilities).map_err(setup)?,
        outcome: Rc::new(outcome),
        cwd: request.cwd.clone(),
        size: request.tty.then(terminal::own_size).flatten(),
        init: None,
        inside: inside(request, directory)?,
        owns_streams: request.tty || request.stranger.is_some(),
    };
    let mut builder = ContainerBuilder::new(request.id.as_str().to_owned(), SyscallType::default())
        .with_root_path(directory.runtime())
        .map_err(|error| runtime(&error))?
        .with_executor(executor);
    let mut output = Output::Callers;
    if let Some(user) = request.stranger {
        let user = request.inside.is_none().then_some(user);
        let (stdout, theirs) = own_pipe(user).map_err(setup)?;
        builder = builder.with_stdout(theirs);
        let (stderr, theirs) = own_pipe(user).map_err(setup)?;
        builder = builder.with_stderr(theirs);
        output = Output::Pipes { stdout, stderr };
    }
    let mut console = None;
    if request.tty {
        let (listener, path) = terminal::listen(&directory.runtime()).map_err(setup)?;
        builder = builder.with_console_socket(Some(path.clone()));
        console = Some((listener, path));
    }
    let built = builder
        .as_tenant()
        .with_detach(true)
        .as_sibling(false)
        .with_process(Some(process))
        .build();
    let pid = match built {
        Ok(pid) => pid,
        Err(error) => return Err(failure(reader).unwrap_or_else(|| runtime(&error))),
    };
    if let Some(failure) = failure(reader) {
        return Err(failure);
    }
    if let Some((listener, path)) = console {
        let received = terminal::receive(&listener).map_err(setup)?;
        fs::remove_file(path).ok();
        output = Output::Terminal(received);
    }
    let pid = Pid::from_raw(pid.as_raw()).ok_or_else(|| setup("it has no process"))?;
    Ok((pid, output))
}

/// A pipe whose writing side is a user's. In a user namespace the program's side gives it
/// ([`super::runtime::inside`]).
fn own_pipe(user: Option<u32>) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    if let Some(user) = user {
        rustix::fs::fchown(&writer, Some(rustix::fs::Uid::from_raw(user)), None)?;
    }
    Ok((reader, writer))
}
