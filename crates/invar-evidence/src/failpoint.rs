//! Places where a test kills or stops the process, to see that nothing is lost. Only builds with
//! debug assertions have them.

/// Kills this process when the environment variable `INVAR_KILL_AT` has this name, and stops it
/// until it is continued when `INVAR_STOP_AT` has it.
#[cfg(debug_assertions)]
pub(crate) fn hit(name: &str) {
    use rustix::process::{Signal, getpid, kill_process};
    let table = [
        ("INVAR_KILL_AT", Signal::KILL),
        ("INVAR_STOP_AT", Signal::STOP),
    ];
    for (variable, signal) in table {
        if std::env::var_os(variable).is_some_and(|wanted| wanted == name) {
            kill_process(getpid(), signal).ok();
        }
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn hit(_name: &str) {}
