//! A command that answers before everything is done: a process of its own does all of it, and
//! goes on in the background once it has told what the user waits for.
//!
//! ```text
//!  command ── the same words, --tell HANDLE ──▶ worker: works, prints the result
//!     ◀─────────────── exit code ───────────────── │
//!   ends                                           └─ leaves the terminal, does the rest
//! ```

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use invar_sys::process::{inherit, inherited};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::exit;

/// The flags of such a command.
#[derive(Debug, clap::Args)]
pub(crate) struct Background {
    /// End only when the evidence is sealed, instead of leaving that to the background
    #[arg(long, env = "INVAR_WAIT")]
    wait: bool,

    /// Handle of the command that waits for this worker
    #[arg(long, hide = true, value_name = "HANDLE")]
    tell: Option<String>,
}

/// The side that does the work.
pub(crate) struct Worker {
    command: Option<File>,
}

/// Who goes on with a command.
pub(crate) enum Role {
    /// This process does the work.
    Worker(Worker),
    /// A worker did, or goes on with what nobody waits for.
    Done(ExitCode),
}

impl Background {
    /// Starts a worker and waits for its word; in the worker, or when everything is waited for,
    /// returns at once.
    pub(crate) fn begin(&self, must_wait: bool) -> anyhow::Result<Role> {
        if let Some(handle) = &self.tell {
            let command = inherited(handle).context("--tell")?;
            return Ok(Role::Worker(Worker {
                command: Some(command.into()),
            }));
        }
        if self.wait || must_wait {
            return Ok(Role::Worker(Worker { command: None }));
        }
        delegate()
            .context("could not start the process that does the work")
            .map(Role::Done)
    }
}

fn delegate() -> anyhow::Result<ExitCode> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    inherit(writer.as_fd())?;
    let mut worker = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .arg("--tell")
        .arg(writer.as_raw_fd().to_string())
        .spawn()?;
    drop(writer);
    let mut told = Vec::new();
    File::from(reader).take(1).read_to_end(&mut told)?;
    if let Some(code) = told.first() {
        return Ok(ExitCode::from(*code));
    }
    // It ended without a word, so it has failed and said why, or was killed.
    let ended = worker.wait()?;
    match ended.code().map(u8::try_from) {
        Some(Ok(code)) => Ok(ExitCode::from(code)),
        _ => Err(exit::failure(
            format!("the process that did the work was ended ({ended})"),
            "what was taken is kept; see: invar evidence ls",
        )),
    }
}

impl Worker {
    /// Whether a command waits for it, and is to end before the work is done.
    pub(crate) fn is_let_go_of(&self) -> bool {
        self.command.is_some()
    }

    /// Lets the command end with success: what it has to say is printed. This process loses its
    /// terminal and goes on.
    pub(crate) fn let_go(&mut self) {
        let Some(mut command) = self.command.take() else {
            return;
        };
        // A command that was killed meanwhile waits for nothing, and whoever reads what it prints
        // must see the end of it.
        rustix::process::setsid().ok();
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
            rustix::stdio::dup2_stdin(&null).ok();
            rustix::stdio::dup2_stdout(&null).ok();
            rustix::stdio::dup2_stderr(&null).ok();
        }
        command.write_all(&[0]).ok();
    }
}
