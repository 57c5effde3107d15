//! Signals as the command line takes them.

use anyhow::Context as _;
use invar_sys::signal_names;

/// A signal as people write it: `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`.
pub(crate) fn parse(text: &str) -> anyhow::Result<i32> {
    signal_names::parse(text)
        .with_context(|| format!("{text:?} is not a signal: write for example TERM, SIGHUP or 9"))
}
