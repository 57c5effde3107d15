//! Where tests kill the process.

/// Ends the process as `kill -9` does, at the pass whose number is in `INVAR_ROLLOUT_DIES_AT`. Only
/// in builds with debug assertions.
pub(super) fn failpoint() {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

        use rustix::process::{Signal, getpid, kill_process};

        static PASSED: AtomicU32 = AtomicU32::new(0);
        let wanted = std::env::var("INVAR_ROLLOUT_DIES_AT").ok();
        let wanted = wanted.and_then(|text| text.parse::<u32>().ok());
        if wanted == Some(PASSED.fetch_add(1, Relaxed)) {
            kill_process(getpid(), Signal::KILL).unwrap_or_default();
        }
    }
}
