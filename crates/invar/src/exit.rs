//! Exit codes and how errors are shown: what failed, on what, why, and what to do next.
//!
//! 0 done · 1 failed · 2 usage · 3 a check found something (drift, invalid evidence) ·
//! 125, 126, 127, 128+N from `run` and `exec` as Docker gives them.

use std::process::ExitCode;

use crate::printer;

/// The operation failed.
pub(crate) const FAILED: u8 = 1;
/// The command line was wrong.
const USAGE: u8 = 2;
/// A check found what it looked for: drift, a flipped byte, invalid evidence.
pub(crate) const FOUND: u8 = 3;

/// Shows an error with its causes and, when the error knows one, the next step.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    printer::error(error);
    ExitCode::from(
        error
            .downcast_ref::<WithCode>()
            .map_or(FAILED, |with| with.code),
    )
}

/// Shows clap's own message; `--help` and `--version` are not failures.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    match error.print() {
        Ok(()) if error.use_stderr() => ExitCode::from(USAGE),
        _ => ExitCode::SUCCESS,
    }
}

/// A failure that ends with a certain exit code instead of 1.
#[derive(Debug)]
pub(crate) struct WithCode {
    /// The exit code.
    pub(crate) code: u8,
    /// What failed.
    pub(crate) message: String,
}

impl std::fmt::Display for WithCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WithCode {}

/// `invar diff … | head` ends quietly.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
