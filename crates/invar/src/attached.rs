//! A container in the foreground: it has the caller's streams and terminal, gets the signals the
//! caller gets, and its exit code becomes the caller's.
//!
//! ```text
//!  prepare: terminal there? · signals blocked ─▶ start ─▶ wait ─▶ exit code
//!                                    └─ signal thread: kill, terminal_resized
//! ```

use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use invar_engine::{ContainerId, Engine, EngineError, Stdio};
use invar_sys::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SignalFd};

use crate::exit::{Advise as _, NOT_EXECUTABLE, PROGRAM_NOT_FOUND};
use crate::terminal::{self, Raw};
use crate::{printer, signals};

/// What reaches the program instead of ending the command, and the news of the terminal's size.
const HELD: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
/// So often a request to end is passed on before the command leaves without the program.
const PATIENCE: u32 = 3;

/// Streams and signals, ready for a container to start.
#[derive(Debug)]
pub(crate) struct Attached {
    tty: bool,
    stdin: bool,
    signals: SignalFd,
}

impl Attached {
    /// Checks the terminal and holds signals back from here on, so that none is lost or ends the
    /// command before the program can get it. To be called before any thread starts.
    pub(crate) fn prepare(tty: bool, stdin: bool) -> anyhow::Result<Self> {
        terminal::require(tty, stdin)?;
        let signals =
            SignalFd::block(&signals::heeded(&HELD)).context("could not take over the signals")?;
        Ok(Self {
            tty,
            stdin,
            signals,
        })
    }

    /// Starts the container and waits for it; `name` is how the user calls it.
    pub(crate) fn run(
        self,
        engine: &Arc<dyn Engine>,
        id: &ContainerId,
        name: &str,
    ) -> anyhow::Result<ExitCode> {
        let stdio = self.streams().context("could not copy the streams")?;
        let raw = (self.tty && self.stdin)
            .then(Raw::enter)
            .transpose()
            .context("could not set up the terminal")?;
        start(&**engine, id, stdio)?;
        let forwarder = Forwarder {
            engine: Arc::clone(engine),
            id: id.clone(),
            name: name.to_owned(),
            ends: 0,
        };
        let signals = self.signals;
        std::thread::spawn(move || forwarder.run(&signals));
        let status = engine.wait(id)?;
        drop(raw);
        if let Some(error) = status.error {
            printer::note(format!("{name}: {error}"));
        }
        Ok(ExitCode::from(status.code))
    }

    fn streams(&self) -> io::Result<Stdio> {
        let stdin = self.stdin.then(|| io::stdin().as_fd().try_clone_to_owned());
        Ok(Stdio::Attached {
            stdin: stdin.transpose()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }
}

/// Starts a container; a program that cannot run has Docker's exit code, and a container of `--rm`
/// is gone then.
pub(crate) fn start(engine: &dyn Engine, id: &ContainerId, stdio: Stdio) -> anyhow::Result<()> {
    let outcome = engine.start(id, stdio);
    if outcome.is_err()
        && engine
            .inspect(id.as_str())
            .is_ok_and(|container| container.config.auto_remove)
    {
        // Why it did not start is what the user must read; without force, one that runs stays.
        engine.remove(id, false).ok();
    }
    with_code(outcome)
}

/// Gives 126 and 127 to the errors of a program that could not run.
pub(crate) fn with_code<T>(outcome: invar_engine::Result<T>) -> anyhow::Result<T> {
    match &outcome {
        Err(EngineError::ProgramNotFound { .. }) => outcome.exit_code(PROGRAM_NOT_FOUND),
        Err(EngineError::NotExecutable { .. }) => outcome.exit_code(NOT_EXECUTABLE),
        _ => Ok(outcome?),
    }
}

/// Hands signals on to the container.
struct Forwarder {
    engine: Arc<dyn Engine>,
    id: ContainerId,
    name: String,
    ends: u32,
}

impl Forwarder {
    fn run(mut self, signals: &SignalFd) {
        while let Ok(signal) = signals.wait() {
            let passed_on = match signal {
                SIGWINCH => self.engine.terminal_resized(&self.id),
                _ => self.engine.kill(&self.id, signal),
            };
            // Losing a race against the container's end is no news to the user.
            passed_on.ok();
            if matches!(signal, SIGINT | SIGTERM) {
                self.asked_to_end(signal);
            }
        }
    }

    /// Process 1 gets only signals it has a handler for, so many a program cannot be ended with
    /// `Ctrl-C`; the user must get out nevertheless.
    fn asked_to_end(&mut self, signal: i32) {
        self.ends += 1;
        if self.ends < PATIENCE {
            return;
        }
        terminal::restore();
        printer::note(format!(
            "{} did not end after {PATIENCE} signals and goes on",
            self.name
        ));
        printer::hint(&format!(
            "stop it with: invar stop {0}; a program that does not handle {1} needs --init",
            self.name,
            invar_sys::signal_names::name(signal)
        ));
        std::process::exit(128 + signal);
    }
}
