//! Process 1 of a container that asked for one (`--init`): this program, executed inside the
//! container. It starts the real program, passes signals on to it, reaps what is orphaned, and
//! ends with the program's exit code.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ExitCode};

use invar_sys::process::{command, inherit, inherited};
use invar_sys::signal::{SIGCHLD, SignalFd};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::runtime::program::{self, Failure};

/// Signals that mean something to the kernel about process 1 itself, or cannot be caught.
const KEPT: [i32; 8] = [4, 5, 6, 7, 8, 9, 11, 19];

/// Replaces this process by the init; returns only when that failed.
pub(super) fn become_init(file: &OwnedFd, outcome: &OwnedFd, args: &[String]) -> Failure {
    if let Err(error) = inherit(outcome.as_fd()) {
        return Failure::Setup {
            reason: error.to_string(),
        };
    }
    let error = command(file.as_fd())
        .arg0("init")
        .args(["init", &program::number(outcome), "--"])
        .args(args)
        .exec();
    Failure::Setup {
        reason: format!("the init could not be executed: {error}"),
    }
}

/// The role `init OUTCOME -- PROGRAM [ARG …]`.
pub(super) fn main(args: &[String]) -> ExitCode {
    let [outcome, _separator, command @ ..] = args else {
        return ExitCode::from(125);
    };
    let Ok(outcome) = inherited(outcome) else {
        return ExitCode::from(125);
    };
    let mut child = None;
    let failure = program::execute(command, |command| match command.spawn() {
        Ok(started) => {
            child = Some(started);
            std::io::Error::other("started")
        }
        Err(error) => error,
    });
    // After the program was started, for it inherits what is blocked. Until then the kernel keeps
    // signals from process 1, which has no handlers.
    let everything: Vec<i32> = (1..=31).filter(|signal| !KEPT.contains(signal)).collect();
    let (Some(child), Ok(signals)) = (child, SignalFd::block(&everything)) else {
        program::report(&outcome, &failure);
        return ExitCode::from(failure.code());
    };
    drop(outcome);
    ExitCode::from(serve(&child, &signals))
}

/// Until the program ends; its exit code.
fn serve(child: &Child, signals: &SignalFd) -> u8 {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It may have ended before its signal could be seen.
    let mut signal = SIGCHLD;
    loop {
        if signal == SIGCHLD {
            if let Some(code) = reap(pid) {
                return code;
            }
        } else if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
            // It may have ended just now; the next SIGCHLD tells.
            kill_process(pid, signal).ok();
        }
        signal = match signals.wait() {
            Ok(signal) => signal,
            Err(_closed) => return 125,
        };
    }
}

/// Reaps everything that has ended; the program's exit code when it is among it.
fn reap(program: Option<Pid>) -> Option<u8> {
    let mut code = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if Some(pid) == program {
            code = Some(super::exit_code(status));
        }
    }
    code
}
