//! Posts alerts. Each waits in the journal until it was taken, also while the agent does not run.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::journal::Journal;

/// How long one delivery may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: i64 = 1;
/// Longest pause, in seconds.
const LONGEST_PAUSE: i64 = 300;
/// Deliveries of one alert; one that is refused so often would hold up the others for ever.
const MOST_ATTEMPTS: u32 = 50;

/// Delivers in a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct Courier {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_woken: bool,
    ends: bool,
}

impl Courier {
    /// Something may wait.
    pub(crate) fn wake(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_woken = true;
        self.changed.notify_all();
    }

    /// Ends the delivering once the one under way is done.
    pub(crate) fn end(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ends = true;
        self.changed.notify_all();
    }

    /// Delivers until it is told to end.
    pub(crate) fn run(&self, journal: &Journal) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            // A redirect would carry the alert, and what is secret in its address, elsewhere.
            .max_redirects(0)
            .build()
            .into();
        loop {
            let has_more = deliver(journal, &agent);
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let pause = if has_more {
                Duration::ZERO
            } else {
                Duration::from_secs(1)
            };
            let is_idle = |state: &mut State| !state.is_woken && !state.ends;
            // Without anything that waits, there is nothing to look for until it is woken.
            let waiting = journal.waiting().unwrap_or(1);
            let mut state = if waiting == 0 {
                let waited = self.changed.wait_while(state, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = self.changed.wait_timeout_while(state, pause, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
            if state.ends {
                return;
            }
            state.is_woken = false;
        }
    }
}

/// Posts the oldest alert that is due; whether there may be another.
fn deliver(journal: &Journal, agent: &ureq::Agent) -> bool {
    let now = Timestamp::now();
    let Ok(Some((id, url, body, attempts))) = journal.due(now) else {
        return false;
    };
    let sent = agent
        .post(&url)
        .header("content-type", "application/json")
        .send(&body);
    let is_taken = sent.is_ok_and(|answer| answer.status().is_success());
    if is_taken || attempts >= MOST_ATTEMPTS {
        return journal.delivered(id).is_ok();
    }
    let pause = (FIRST_PAUSE << attempts.min(16)).min(LONGEST_PAUSE);
    let until = now.saturating_add(SignedDuration::from_secs(pause));
    journal.postpone(&url, until.unwrap_or(now), id).is_ok()
}
