//! The caller's terminal, given to a container's program and taken back however the command ends.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, Once, PoisonError};

use invar_sys::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SignalFd};
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::exit::failure;
use crate::signals;

/// How the terminal was before, while it is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input as a terminal in raw mode: every key reaches the program, `Ctrl-C` too.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Switches the terminal over until the value is dropped.
    pub(crate) fn enter() -> io::Result<Self> {
        // Dropping is not enough: a panic of the release build ends the process at once.
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                report(panic);
            }));
        });
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let entered = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(entered)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was; also called where the process ends without unwinding.
pub(crate) fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // The terminal may be gone, and then there is nothing to restore.
        tcsetattr(stdin(), OptionalActions::Now, &before).ok();
    }
}

/// Has signals that end this command give the terminal back first. To be called before any thread
/// starts.
pub(crate) fn restore_on_signals() -> io::Result<()> {
    let ends = signals::heeded(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM]);
    let signals = SignalFd::block(&ends)?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            restore();
            #[allow(clippy::exit, reason = "the other thread waits for the program")]
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Fails when a program is to have a terminal and read from it, and there is none.
pub(crate) fn require(tty: bool, interactive: bool) -> anyhow::Result<()> {
    if tty && interactive && !io::stdin().is_terminal() {
        return Err(failure(
            "the input device is not a TTY",
            "leave -t out when the input comes from a file or a pipe",
        ));
    }
    Ok(())
}
