//! From a request to a running program: session, namespaces, root, streams, then libcontainer.

use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;

use fs_err as fs;
use invar_sys::process::{self, Identity};
use invar_sys::signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGWINCH, SignalFd};
use invar_sys::{mount, network};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use seccompiler::BpfProgram;

use super::terminal;
use super::{Place, Request};
use crate::embedded::cgroup::Group;
use crate::embedded::layout::Directory;
use crate::embedded::runtime::program::{Failure, Program};
use crate::embedded::runtime::{seccomp, spec};
use crate::embedded::status::{Record, Status};

/// Bytes for `/etc/hosts` and its like; the host's own may be long.
const FILES_SIZE: u64 = 16 << 20;
/// Bytes of the message with which a program says why it never ran.
const FAILURE_LIMIT: u64 = 64 << 10;

/// Ports below 1024 and ping need no right in a network that is the container's own.
const OWN_NETWORK: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// A program that runs.
pub(super) struct Run {
    pub(super) init: i32,
    pub(super) signals: SignalFd,
    pub(super) streams: Streams,
}

/// The shim's ends of the program's standard streams.
pub(super) enum Streams {
    /// Standard output and standard error.
    Pipes {
        stdout: OwnedFd,
        stderr: OwnedFd,
        /// Kept open so that a program nobody types to waits instead of seeing an end.
        stdin: Option<OwnedFd>,
    },
    /// The terminal's other side.
    Terminal(OwnedFd),
}

impl Streams {
    /// The streams, and where a command that attaches later may type.
    pub(super) fn split(self, is_attached: bool) -> (Self, Option<OwnedFd>) {
        match self {
            Self::Pipes {
                stdout,
                stderr,
                stdin,
            } => {
                let streams = Self::Pipes {
                    stdout,
                    stderr,
                    stdin: None,
                };
                (streams, stdin.filter(|_| !is_attached))
            }
            Self::Terminal(master) => {
                let typed = master.try_clone().ok();
                (Self::Terminal(master), typed)
            }
        }
    }
}

type Outcome<T> = Result<T, Failure>;

/// What needs no root yet.
pub(super) struct Prepared {
    signals: SignalFd,
    filters: Vec<BpfProgram>,
}

/// Leaves the caller's session, signals, mounts and network.
pub(super) fn prepare(request: &Request, network: &[OwnedFd]) -> Outcome<Prepared> {
    let signals = become_shim()?;
    take_place(&request.place, network).map_err(|error| setup(format!("its network: {error}")))?;
    let filters = seccomp::filters(&request.capabilities).map_err(setup)?;
    Ok(Prepared { signals, filters })
}

/// What is mounted for a container.
pub(super) struct Root {
    pub(super) root: OwnedFd,
    /// Its user namespace, when it has one.
    pub(super) namespace: Option<OwnedFd>,
}

/// Starts the container; returns once its program was executed.
pub(super) fn launch(
    request: &Request,
    directory: &Directory,
    prepared: Prepared,
    root: Root,
    status: &mut Status,
) -> Outcome<Run> {
    let Root { root, namespace } = root;
    fs::create_dir_all(directory.rootfs()).map_err(setup)?;
    mount::attach(&root, &directory.rootfs()).map_err(setup)?;
    drop(root);
    write_files(request, directory).map_err(setup)?;
    if let Some(namespace) = &namespace {
        shift_mounts(request, directory, namespace)?;
    }

    let (reader, outcome) = pipe()?;
    let executor = Program {
        filters: prepared.filters,
        outcome: Rc::new(outcome),
        cwd: request.cwd.clone(),
        size: (request.tty && request.attached)
            .then(terminal::own_size)
            .flatten(),
        init: own_file(request)?,
        inside: namespace.map(Rc::new).zip(request.inside.clone()),
        owns_streams: true,
    };
    let builder = ContainerBuilder::new(request.id.as_str().to_owned(), SyscallType::default())
        .with_root_path(directory.runtime())
        .map_err(|error| runtime(&error))?
        .with_executor(executor);
    let (builder, ends) = connect(request, directory, builder)?;
    let built = builder
        .as_init(directory.runtime())
        .with_systemd(false)
        .build();
    let mut container = match built {
        Ok(container) => container,
        Err(error) => return Err(failure(reader).unwrap_or_else(|| runtime(&error))),
    };
    // Before the program runs; without it a container could read the host's disks.
    Group::of(&request.id)
        .limit_devices()
        .map_err(|error| setup(format!("its devices could not be limited: {error}")))?;
    container.start().map_err(|error| runtime(&error))?;
    if let Some(failure) = failure(reader) {
        return Err(failure);
    }
    let streams = ends.take()?;
    let init = container
        .pid()
        .ok_or_else(|| setup("it has no process"))?
        .as_raw();
    record(init, request.history.restarts, status)?;
    Ok(Run {
        init,
        signals: prepared.signals,
        streams,
    })
}

fn become_shim() -> Outcome<SignalFd> {
    invar_sys::signal::unblock_all().map_err(setup)?;
    rustix::process::setsid().map_err(setup)?;
    // The first three are for the container, not for its shim: a closing terminal or a signal to
    // a whole process group must not end it.
    let signals = SignalFd::block(&[SIGHUP, SIGINT, SIGTERM, SIGCHLD, SIGWINCH]).map_err(setup)?;
    process::become_subreaper().map_err(setup)?;
    process::unshare_mounts().map_err(setup)?;
    Ok(signals)
}

/// Enters the network namespace the container will be in, and makes it first if it is new.
fn take_place(place: &Place, handles: &[OwnedFd]) -> std::io::Result<()> {
    match (place, handles) {
        (Place::Host, _) => return Ok(()),
        (Place::Other, [namespace, ..]) => return network::enter(namespace.as_fd()),
        (Place::Other, []) => return Err(std::io::Error::other("it was not handed over")),
        (Place::Alone, _) => network::unshare()?,
        (Place::Network(wiring), _) => {
            let host = network::Routing::open()?;
            network::unshare()?;
            for cable in wiring {
                cable.connect(&host)?;
            }
        }
    }
    for (setting, value) in OWN_NETWORK {
        // Each is a convenience, and a kernel may be built without it.
        fs::write(setting, value).ok();
    }
    Ok(())
}

/// The engine's files, in memory: a mount of them then tells nothing of the host's paths.
fn write_files(request: &Request, directory: &Directory) -> std::io::Result<()> {
    let etc = directory.etc();
    mount::attach(mount::tmpfs(FILES_SIZE)?, &etc)?;
    // In a user namespace the container's root owns them.
    let owner = request.inside.as_ref().map(|inside| inside.first);
    for (name, text) in &request.files {
        let path = etc.join(name);
        fs::write(&path, text)?;
        if owner.is_some() {
            std::os::unix::fs::chown(&path, owner, owner)?;
        }
    }
    Ok(())
}

/// Shows what is mounted from the host as the users of the container's namespace own it.
fn shift_mounts(request: &Request, directory: &Directory, namespace: &OwnedFd) -> Outcome<()> {
    for (number, source) in &request.shifted {
        let failed = |error: std::io::Error| {
            setup(format!(
                "{} cannot be mounted with shifted owners (--userns auto; its file system must \
                 support idmapped mounts): {error}",
                source.display()
            ))
        };
        let tree = mount::clone_tree(source).map_err(failed)?;
        mount::set_owner_map_recursively(&tree, namespace.as_fd()).map_err(failed)?;
        let place = spec::shifted(directory, *number);
        if source.is_dir() {
            fs::create_dir(&place).map_err(failed)?;
        } else {
            fs::write(&place, "").map_err(failed)?;
        }
        mount::attach(tree, &place).map_err(failed)?;
    }
    Ok(())
}

fn own_file(request: &Request) -> Outcome<Option<Rc<OwnedFd>>> {
    if !request.init {
        return Ok(None);
    }
    // The file the starting command executed us from, through its read-only mount.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat(CWD, "/proc/self/exe", flags, Mode::empty()).map_err(setup)?;
    Ok(Some(Rc::new(file)))
}

/// The shim's ends, before the program runs.
enum Ends {
    Pipes(Streams),
    Console(UnixListener),
}

fn connect(
    request: &Request,
    directory: &Directory,
    mut builder: ContainerBuilder,
) -> Outcome<(ContainerBuilder, Ends)> {
    if request.tty {
        let (listener, path) = terminal::listen(&directory.runtime()).map_err(setup)?;
        return Ok((
            builder.with_console_socket(Some(path)),
            Ends::Console(listener),
        ));
    }
    let (stdout, theirs) = pipe()?;
    give(request, &theirs)?;
    builder = builder.with_stdout(theirs);
    let (stderr, theirs) = pipe()?;
    give(request, &theirs)?;
    builder = builder.with_stderr(theirs);
    let (stdin, kept) = match (request.interactive, request.attached) {
        (true, true) => (
            std::io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .map_err(setup)?,
            None,
        ),
        (true, false) => {
            let (theirs, kept) = pipe()?;
            give(request, &theirs)?;
            (theirs, Some(kept))
        }
        (false, _) => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            (
                openat(CWD, "/dev/null", flags, Mode::empty()).map_err(setup)?,
                None,
            )
        }
    };
    let ends = Ends::Pipes(Streams::Pipes {
        stdout,
        stderr,
        stdin: kept,
    });
    Ok((builder.with_stdin(stdin), ends))
}

/// Lets the program's user open a pipe again by name (`/dev/stderr`). In a user namespace the
/// program's side does that ([`crate::embedded::runtime::inside`]).
fn give(request: &Request, pipe: &OwnedFd) -> Outcome<()> {
    if request.inside.is_some() || request.user == 0 {
        return Ok(());
    }
    let user = rustix::fs::Uid::from_raw(request.user);
    rustix::fs::fchown(pipe, Some(user), None).map_err(setup)
}

impl Ends {
    fn take(self) -> Outcome<Streams> {
        match self {
            Self::Pipes(streams) => Ok(streams),
            Self::Console(listener) => {
                let master = terminal::receive(&listener).map_err(setup)?;
                Ok(Streams::Terminal(master))
            }
        }
    }
}

fn record(init: i32, restarts: u32, status: &mut Status) -> Outcome<()> {
    let identity = |pid: u32| {
        Identity::of(pid).ok_or_else(|| Failure::Setup {
            reason: "the program ended while it was being started".to_owned(),
        })
    };
    // A program may be very short: what counts is that it was executed and has not been reaped.
    let record = Record::Started {
        init: identity(u32::try_from(init).unwrap_or(0))?,
        shim: identity(std::process::id())?,
        at: jiff::Timestamp::now(),
        restarts,
    };
    status.append(&record).map_err(setup)
}

/// Why the program was not executed; `None` when it was, which closes the other end.
pub(in crate::embedded) fn failure(reader: OwnedFd) -> Option<Failure> {
    let mut message = Vec::new();
    std::fs::File::from(reader)
        .take(FAILURE_LIMIT)
        .read_to_end(&mut message)
        .ok()?;
    serde_json::from_slice(&message).ok()
}

fn pipe() -> Outcome<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(setup)
}

pub(in crate::embedded) fn setup(error: impl std::fmt::Display) -> Failure {
    Failure::Setup {
        reason: error.to_string(),
    }
}

/// libcontainer's error with all its causes, each said once.
pub(in crate::embedded) fn runtime(error: &LibcontainerError) -> Failure {
    let mut reason = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        next = cause.source();
    }
    Failure::Setup { reason }
}
