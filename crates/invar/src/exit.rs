//! Exit codes and how errors are shown: what failed, on what, why, and what to do next.
//!
//! 0 done · 1 failed · 2 usage · 3 a check found something (drift, invalid evidence) ·
//! 125, 126, 127, 128+N from `run`, `start` and `exec` as Docker gives them.
//!
//! A next step is attached where it is known ([`Advise::hint`]); what every command would say the
//! same of an engine's error is in one table, [`crate::hints`].

use std::fmt;
use std::process::ExitCode;

use crate::{hints, printer};

/// The operation failed.
pub(crate) const FAILED: u8 = 1;
/// The command line was wrong.
const USAGE: u8 = 2;
/// A check found what it looked for: drift, a flipped byte, invalid evidence.
pub(crate) const FOUND: u8 = 3;
/// `run`, `create`, `exec`: Invar itself failed, not the program.
pub(crate) const NOT_RUN: u8 = 125;
/// `run`, `exec`: the program cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// `run`, `exec`: the program is not in the container.
pub(crate) const PROGRAM_NOT_FOUND: u8 = 127;

/// Shows an error with its causes and, when the error knows one, the next step.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let advice = error.downcast_ref::<Advised>();
    let hint = advice
        .and_then(|advice| advice.hint.clone())
        .or_else(|| hints::next_step(error));
    printer::error(error, hint.as_deref());
    ExitCode::from(advice.and_then(|advice| advice.code).unwrap_or(FAILED))
}

/// Shows what was wrong with the command line; `--help` and `--version` are not failures.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    let code = ExitCode::from(if hints::runs_a_program(std::env::args_os()) {
        NOT_RUN
    } else {
        USAGE
    });
    if let Some((message, hint)) =
        hints::docker_flag(error).or_else(|| hints::docker_command(error))
    {
        printer::error(&anyhow::Error::msg(message), Some(hint));
        return code;
    }
    match error.print() {
        Ok(()) if error.use_stderr() => code,
        _ => ExitCode::SUCCESS,
    }
}

/// Attaches a next step or an exit code to an error, keeping what it says.
pub(crate) trait Advise<T> {
    /// Shown as `hint:` below the error, unless a hint is there already.
    fn hint(self, next_step: impl Into<String>) -> anyhow::Result<T>;

    /// Ends the process with this code instead of 1, unless a code is there already.
    fn exit_code(self, code: u8) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Advise<T> for Result<T, E> {
    fn hint(self, next_step: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            advised(error.into(), |advice| {
                advice.hint.get_or_insert(next_step.into());
            })
        })
    }

    fn exit_code(self, code: u8) -> anyhow::Result<T> {
        self.map_err(|error| {
            advised(error.into(), |advice| {
                advice.code.get_or_insert(code);
            })
        })
    }
}

/// An error with the message alone and its next step.
pub(crate) fn failure(message: impl fmt::Display, next_step: impl Into<String>) -> anyhow::Error {
    advised(anyhow::Error::msg(message.to_string()), |advice| {
        advice.hint = Some(next_step.into());
    })
}

fn advised(mut error: anyhow::Error, change: impl FnOnce(&mut Advised)) -> anyhow::Error {
    if let Some(advice) = error.downcast_mut::<Advised>() {
        change(advice);
        return error;
    }
    let mut advice = Advised {
        error,
        hint: None,
        code: None,
    };
    change(&mut advice);
    advice.into()
}

/// An error that knows what to do next, or which exit code it means. Reads as the error itself.
#[derive(Debug)]
struct Advised {
    error: anyhow::Error,
    hint: Option<String>,
    code: Option<u8>,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for Advised {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// The first error of this type, also behind an attached hint or exit code.
pub(crate) fn find<E>(error: &anyhow::Error) -> Option<&E>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let inner = error
        .downcast_ref::<Advised>()
        .map_or(error, |advice| &advice.error);
    inner.chain().find_map(|cause| cause.downcast_ref::<E>())
}

/// `invar diff … | head` ends quietly.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    find::<std::io::Error>(error)
        .is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn fails() -> Result<(), std::io::Error> {
        Err(std::io::Error::other("disk is on fire"))
    }

    #[test]
    fn advice_is_found_below_context_and_keeps_the_message() {
        let error = fails()
            .hint("call the fire brigade")
            .context("could not write")
            .exit_code(125)
            .unwrap_err();
        let advice = error.downcast_ref::<Advised>().unwrap();
        assert_eq!(advice.hint.as_deref(), Some("call the fire brigade"));
        assert_eq!(advice.code, Some(125));
        let said: Vec<String> = error.chain().map(ToString::to_string).collect();
        assert_eq!(said, ["could not write", "disk is on fire"]);
        assert!(find::<std::io::Error>(&error).is_some());
    }

    #[test]
    fn the_first_hint_and_code_win() {
        let error = fails()
            .hint("near")
            .exit_code(127)
            .hint("far")
            .exit_code(125)
            .unwrap_err();
        let advice = error.downcast_ref::<Advised>().unwrap();
        assert_eq!(
            (advice.hint.as_deref(), advice.code),
            (Some("near"), Some(127))
        );
    }
}
