//! The contract every engine keeps.

use std::os::fd::OwnedFd;
use std::time::Duration;

use invar_sys::signal::SignalFd;
use jiff::Timestamp;

use crate::config::{ContainerConfig, Restart};
use crate::container::{Container, ContainerId, ContainerName, ExitStatus, RootFs};
use crate::error::{EngineError, Result};
use crate::files::Files;

/// A container engine. All methods may be called from several processes at once; each either
/// happens or leaves the state as it was, also when the caller is killed half-way.
///
/// Synchronous: callers that serve a network put it on a blocking thread.
pub trait Engine: Send + Sync {
    /// Its name as users write it before a colon: `embedded:web`, `docker:web`.
    fn kind(&self) -> &'static str;

    /// Every container, newest first.
    fn list(&self) -> Result<Vec<Container>>;

    /// The container with this name, id, or unambiguous id prefix.
    fn inspect(&self, name_or_id: &str) -> Result<Container>;

    /// Makes a container without starting it. The name must be free.
    fn create(&self, name: &ContainerName, config: &ContainerConfig) -> Result<ContainerId>;

    /// Makes a container of the same revision as `id` under another name: same image, settings,
    /// mounts, networks. Nothing of what `id` changed is in it.
    fn recreate(&self, id: &ContainerId, name: &ContainerName) -> Result<ContainerId>;

    /// Everything the engine knows of a container, in the engine's own form.
    fn settings(&self, id: &ContainerId) -> Result<serde_json::Value>;

    /// Starts a created or exited container; returns once its program was executed.
    ///
    /// A program that cannot be executed is `NotExecutable` or `ProgramNotFound`, and the
    /// container is then exited with 126 or 127.
    fn start(&self, id: &ContainerId, stdio: Stdio) -> Result<()>;

    /// Tells the container that the terminal it was started with (`Stdio::Attached`) has another
    /// size.
    fn terminal_resized(&self, id: &ContainerId) -> Result<()>;

    /// Blocks until the container has exited.
    fn wait(&self, id: &ContainerId) -> Result<ExitStatus>;

    /// Sends a signal to the container's first process.
    fn kill(&self, id: &ContainerId, signal: i32) -> Result<()>;

    /// Sends the configured stop signal, then `SIGKILL` to all once `timeout` has passed.
    fn stop(&self, id: &ContainerId, timeout: Duration) -> Result<ExitStatus>;

    /// As [`Engine::stop`], with another signal than the configured one.
    fn stop_with(&self, _id: &ContainerId, _signal: i32, _timeout: Duration) -> Result<ExitStatus> {
        Err(unsupported(self.kind(), "stopping with a chosen signal"))
    }

    /// Changes the limits and the restart policy of a container, running or not. It is then asked
    /// to be something else, so its revision changes.
    fn update(&self, _id: &ContainerId, _update: &Update) -> Result<()> {
        Err(unsupported(self.kind(), "changing limits"))
    }

    /// By which names beside its own a running container is found in its network, from now on
    /// until it ends. What it is asked to be stays as it is.
    fn set_aliases(&self, _id: &ContainerId, _aliases: &[String]) -> Result<()> {
        Err(unsupported(self.kind(), "changing aliases"))
    }

    /// Looks at a running container, from now on, until it ends or the caller has enough.
    fn attach(&self, _id: &ContainerId, _attachment: &Attachment) -> Result<Attached> {
        Err(unsupported(self.kind(), "attaching"))
    }

    /// Starts what its restart policy wants to run after the machine has booted; how each went.
    fn boot(&self) -> Result<Vec<(Container, Result<()>)>> {
        Err(unsupported(self.kind(), "starting containers at boot"))
    }

    /// Stops everything, without keeping it from being started at the next boot.
    fn shut_down(&self, _timeout: Duration) -> Result<Vec<(Container, Result<()>)>> {
        Err(unsupported(
            self.kind(),
            "stopping containers for a shutdown",
        ))
    }

    /// Freezes every process of the container; returns once all are frozen.
    fn pause(&self, id: &ContainerId) -> Result<()>;

    /// Lets a frozen container go on.
    fn resume(&self, id: &ContainerId) -> Result<()>;

    /// Every process of the container as the host numbers it, its first process first. Exact only
    /// while paused.
    fn processes(&self, id: &ContainerId) -> Result<Vec<u32>>;

    /// Runs one more program in a running container and waits for it; its exit code.
    fn exec(&self, id: &ContainerId, exec: &ExecConfig) -> Result<u8>;

    /// Hands each recorded output line to `each`, oldest first. With `follow`, goes on until the
    /// container ends. `each` returns `false` to stop.
    fn logs(
        &self,
        id: &ContainerId,
        options: &LogOptions,
        each: &mut dyn FnMut(LogStream, &[u8]) -> bool,
    ) -> Result<()>;

    /// Opens the container's root for reading.
    fn open_root(&self, id: &ContainerId) -> Result<RootFs>;

    /// Opens the files of a container to copy them: with everything mounted while it runs, its
    /// own root alone when it does not.
    fn open_files(&self, id: &ContainerId) -> Result<Files> {
        let container = self.inspect(id.as_str())?;
        match container.init_pid {
            Some(init) => Files::of_running(init),
            None => Err(unsupported(
                self.kind(),
                "copying files while it does not run",
            )),
        }
    }

    /// What the engine itself says changed, as letter and path; for a root that cannot be opened.
    /// `None` when the engine has no such list.
    fn reported_changes(&self, _id: &ContainerId) -> Result<Option<Vec<(char, String)>>> {
        Ok(None)
    }

    /// Whether the engine runs without root's rights, and its overlays therefore keep their marks
    /// in `user.` attributes.
    fn is_rootless(&self) -> Result<bool> {
        Ok(false)
    }

    /// Writes an image, named by the digest of its configuration as containers name it, as a
    /// docker-archive with uncompressed layers.
    fn save_image(&self, image: &str, _output: &mut dyn std::io::Write) -> Result<()> {
        Err(EngineError::Unsupported {
            what: format!("writing the image {image:?}"),
            reason: format!("{} does not give images away", self.kind()),
        })
    }

    /// Gives a container another name; the name must be free.
    fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<()>;

    /// Removes a container that is not running; with `force`, kills it first.
    fn remove(&self, id: &ContainerId, force: bool) -> Result<()>;
}

fn unsupported(kind: &str, what: &str) -> EngineError {
    EngineError::Unsupported {
        what: format!("{what} for a container of {kind}"),
        reason: format!("use {kind}'s own command"),
    }
}

/// What is to be changed; `None` leaves it as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Memory in bytes; `Some(None)` for no limit.
    pub memory: Option<Option<u64>>,
    /// CPU time in billionths of a CPU; `Some(None)` for no limit.
    pub nano_cpus: Option<Option<u64>>,
    /// Most processes and threads.
    pub pids: Option<u64>,
    /// When it is started again.
    pub restart: Option<Restart>,
}

/// How a caller looks at a running container.
#[derive(Debug, Default)]
pub struct Attachment {
    /// What is read for the program; `None` when nothing is typed.
    pub stdin: Option<OwnedFd>,
    /// Keys that end the looking, `Ctrl-P` and `Ctrl-Q` for example; none when empty.
    pub detach_keys: Vec<u8>,
    /// Signals that tell of the caller's terminal having another size; `None` without a terminal.
    pub resized: Option<SignalFd>,
}

/// Why looking at a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// The keys were typed; the container goes on.
    Detached,
    /// The container ended, or let go of a caller that did not read.
    Ended,
}

/// What a container's standard streams are connected to, beside its log.
#[derive(Debug)]
pub enum Stdio {
    /// Only the log.
    Detached,
    /// Copies of the caller's streams. With a terminal, `stdin` is the caller's terminal in raw
    /// mode and both outputs arrive on `stdout`.
    Attached {
        /// Read while `interactive`; `None` otherwise.
        stdin: Option<OwnedFd>,
        /// Gets standard output.
        stdout: OwnedFd,
        /// Gets standard error.
        stderr: OwnedFd,
    },
}

/// One more program in a running container.
#[derive(Debug, Clone)]
pub struct ExecConfig {
    /// Program and arguments, never empty.
    pub args: Vec<String>,
    /// Added to the container's environment: `NAME=value`.
    pub env: Vec<String>,
    /// Instead of the container's working directory.
    pub cwd: Option<std::path::PathBuf>,
    /// Instead of the container's user.
    pub user: Option<crate::config::User>,
    /// A pseudo-terminal for it.
    pub tty: bool,
    /// Keep standard input open.
    pub interactive: bool,
    /// Throw away what it writes; otherwise it goes to the caller's streams.
    pub quiet: bool,
}

/// Which log lines to read.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<usize>,
    /// Prefix each line with its time (RFC 3339).
    pub timestamps: bool,
    /// No line before this.
    pub since: Option<Timestamp>,
    /// No line after this; following ends there.
    pub until: Option<Timestamp>,
}

/// Where a log line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}
