//! The last step inside a new container: install the system call filter and execute the program.

use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use rustix::fs::{Mode, OFlags};
use rustix::termios::Winsize;
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use super::inside::Inside;
use crate::embedded::init;
use crate::embedded::root::make_directories;
use crate::error::EngineError;

/// Why a program never ran, as the container's side tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::embedded) enum Failure {
    /// It is not there.
    NotFound { program: String },
    /// It is there and cannot be executed.
    NotExecutable { program: String, reason: String },
    /// The container could not be set up.
    Setup { reason: String },
}

impl Failure {
    /// The exit code Docker gives.
    pub(in crate::embedded) fn code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Setup { .. } => 125,
        }
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotFound { program } => Self::ProgramNotFound { program },
            Failure::NotExecutable { program, reason } => Self::NotExecutable { program, reason },
            Failure::Setup { reason } => Self::Runtime {
                action: "start the container",
                reason,
            },
        }
    }
}

/// Executes the program of a specification; [`libcontainer`] calls it where everything else of
/// the container is in place.
#[derive(Clone)]
pub(in crate::embedded) struct Program {
    pub(in crate::embedded) filters: Vec<BpfProgram>,
    /// Gets one [`Failure`]; closes without one when the program was executed.
    pub(in crate::embedded) outcome: Rc<OwnedFd>,
    /// Where the program starts; made when missing, as Docker does.
    pub(in crate::embedded) cwd: PathBuf,
    /// Size of its terminal, when it has one.
    pub(in crate::embedded) size: Option<Winsize>,
    /// This program's own file, to be process 1 in front of the container's program.
    pub(in crate::embedded) init: Option<Rc<OwnedFd>>,
    /// The user namespace it enters, and who it is there.
    pub(in crate::embedded) inside: Option<(Rc<OwnedFd>, Inside)>,
    /// Whether its standard output and error were made for it, and are not the caller's.
    pub(in crate::embedded) owns_streams: bool,
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = spec
            .process()
            .as_ref()
            .and_then(|process| process.args().as_deref());
        let failure = self.execute(args.unwrap_or_default());
        report(&self.outcome, &failure);
        // libcontainer would only log it; this process has nothing more to do.
        Err(ExecutorError::Other(format!("{failure:?}")))
    }

    /// Checked where it is executed, so that the reason is the kernel's.
    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }
}

impl Program {
    /// Returns only when it failed.
    fn execute(&self, args: &[String]) -> Failure {
        // Nothing runs unsupervised: the kernel ends the program when its shim ends.
        let end = Some(rustix::process::Signal::KILL);
        if let Err(error) = rustix::process::set_parent_process_death_signal(end) {
            return Failure::Setup {
                reason: format!("it could not be tied to its shim: {error}"),
            };
        }
        invar_sys::signal::reset_actions();
        if let Err(error) = invar_sys::signal::unblock_all() {
            return Failure::Setup {
                reason: format!("the signal mask could not be cleared: {error}"),
            };
        }
        if let Some(size) = self.size {
            // A wrong size is no reason not to run.
            rustix::termios::tcsetwinsize(std::io::stdin(), size).ok();
        }
        if let Some((namespace, inside)) = &self.inside
            && let Err(error) = inside.enter(namespace, self.owns_streams)
        {
            return Failure::Setup {
                reason: format!("its user namespace could not be entered: {error}"),
            };
        }
        if let Err(reason) = enter(&self.cwd) {
            return Failure::Setup { reason };
        }
        for filter in &self.filters {
            if let Err(error) = seccompiler::apply_filter(filter) {
                return Failure::Setup {
                    reason: format!("the system call filter could not be installed: {error}"),
                };
            }
        }
        match &self.init {
            Some(program) => init::become_init(program, &self.outcome, args),
            None => execute(args, CommandExt::exec),
        }
    }
}

/// Changes to a working directory of the container.
///
/// The image may name `/proc/self/fd/N`, and this process still has handles on the host
/// (CVE-2024-21626): no magic link is followed, and every other link ends at the container's root.
fn enter(cwd: &Path) -> Result<(), String> {
    let failed = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::ROFS => format!(
            "the working directory {} is not in the image, and cannot be made in a read-only root",
            cwd.display()
        ),
        _ => format!("the working directory {}: {errno}", cwd.display()),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(failed)?;
    let directory = make_directories(root.as_fd(), cwd).map_err(failed)?;
    rustix::process::fchdir(directory).map_err(failed)
}

/// Sends a failure through the outcome pipe.
pub(in crate::embedded) fn report(outcome: &OwnedFd, failure: &Failure) {
    let line = serde_json::to_vec(failure).expect("plain data");
    if let Ok(fd) = outcome.try_clone() {
        // Nobody is left to tell when the reader is gone.
        std::fs::File::from(fd).write_all(&line).ok();
    }
}

/// Finds the program as a shell would and hands it to `start`, which only returns on failure.
pub(in crate::embedded) fn execute(
    args: &[String],
    start: impl FnOnce(&mut Command) -> std::io::Error,
) -> Failure {
    let Some((name, rest)) = args.split_first() else {
        return Failure::Setup {
            reason: "there is no program to run".to_owned(),
        };
    };
    let program = match find(name) {
        Ok(path) => path,
        Err(failure) => return failure,
    };
    let error = start(Command::new(&program).arg0(name).args(rest));
    refused(name, &error)
}

/// What an error of `execve(2)` means.
pub(in crate::embedded) fn refused(name: &str, error: &std::io::Error) -> Failure {
    let reason = match error.raw_os_error() {
        // The file was there: what is missing is its interpreter.
        Some(libc_errno::ENOENT) => {
            "its interpreter or dynamic loader is not in the container".to_owned()
        }
        Some(libc_errno::ENOEXEC) => {
            "it is neither a program for this processor nor a script with #!".to_owned()
        }
        _ => error.to_string(),
    };
    Failure::NotExecutable {
        program: name.to_owned(),
        reason,
    }
}

mod libc_errno {
    pub(super) const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
    pub(super) const ENOEXEC: i32 = rustix::io::Errno::NOEXEC.raw_os_error();
}

/// A name with a slash is a path; any other is looked for in `PATH`.
fn find(name: &str) -> Result<PathBuf, Failure> {
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(None) => Err(not_found(name)),
            Err(Some(reason)) => Err(not_executable(name, reason)),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut reason = None;
    for directory in std::env::split_paths(&path) {
        let candidate = directory.join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(None) => {}
            Err(Some(why)) => reason = Some(why),
        }
    }
    Err(reason.map_or_else(|| not_found(name), |reason| not_executable(name, reason)))
}

/// Whether a path is a file this process may execute; the reason when it is there and may not be.
fn check(path: &Path) -> Result<(), Option<String>> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => None,
        _ => Some(error.to_string()),
    })?;
    if metadata.is_dir() {
        return Err(Some("it is a directory".to_owned()));
    }
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    )
    .map_err(|_denied| Some("permission denied".to_owned()))
}

fn not_found(name: &str) -> Failure {
    Failure::NotFound {
        program: name.to_owned(),
    }
}

fn not_executable(name: &str, reason: String) -> Failure {
    Failure::NotExecutable {
        program: name.to_owned(),
        reason,
    }
}

/// Where the outcome pipe is, for a program that inherits it.
pub(in crate::embedded) fn number(fd: &OwnedFd) -> String {
    fd.as_raw_fd().to_string()
}
