//! From the threads that see to the one that tells: two lanes, so that a flood of files never keeps
//! an execution from being told.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event::{Event, What};

/// Events that wait in each lane; more are dropped, and counted.
const LONGEST: usize = 65_536;

#[derive(Debug, Default)]
struct Lanes {
    executions: VecDeque<Event>,
    files: VecDeque<Event>,
}

/// A bounded queue whose writers never wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lanes: Mutex<Lanes>,
    filled: Condvar,
}

impl Queue {
    /// Whether there was room.
    pub(crate) fn push(&self, event: Event) -> bool {
        let mut lanes = self.lock();
        let lane = match event.what {
            What::Exec | What::ExecBlocked | What::OpenBlocked | What::MapBlocked => {
                &mut lanes.executions
            }
            _ => &mut lanes.files,
        };
        if lane.len() >= LONGEST {
            return false;
        }
        lane.push_back(event);
        drop(lanes);
        self.filled.notify_one();
        true
    }

    /// Everything that waits, executions first; nothing when nothing came in time.
    pub(crate) fn take(&self, patience: Duration) -> Vec<Event> {
        let lanes = self.lock();
        let is_empty = |lanes: &mut Lanes| lanes.executions.is_empty() && lanes.files.is_empty();
        let (mut lanes, _) = self
            .filled
            .wait_timeout_while(lanes, patience, is_empty)
            .unwrap_or_else(PoisonError::into_inner);
        let lanes = std::mem::take(&mut *lanes);
        lanes.executions.into_iter().chain(lanes.files).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
