//! Signals as the command line takes them, and as it was started with them.

use anyhow::Context as _;
use fs_err as fs;
use invar_sys::signal_names;

/// A signal as people write it: `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`.
pub(crate) fn parse(text: &str) -> anyhow::Result<i32> {
    signal_names::parse(text)
        .with_context(|| format!("{text:?} is not a signal: write for example TERM, SIGHUP or 9"))
}

/// Those of the signals that this process was not told to ignore. What `nohup`, or a script for a
/// job in the background, has ignored is neither passed on nor an end.
pub(crate) fn heeded(signals: &[i32]) -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored(&status);
    let is_heeded = |signal: &&i32| (ignored >> (**signal - 1)) & 1 == 0;
    signals.iter().filter(is_heeded).copied().collect()
}

/// The set of `/proc/PID/status` (proc(5)): bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_kernel_s_own_words() {
        for (status, expected) in [
            ("Name:\tinvar\nSigIgn:\t0000000000001001\n", 0x1001),
            ("SigIgn:\tffffffffffffffff", u64::MAX),
            ("SigBlk:\t0000000000000001\n", 0),
            ("", 0),
        ] {
            assert_eq!(ignored(status), expected, "{status}");
        }
    }
}
