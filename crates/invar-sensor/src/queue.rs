//! From the threads that see to the one that tells: two lanes, so that a flood of files never keeps
//! an execution from being told, and in each a share for every container, so that none hides what
//! happens in another.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event::Event;

/// Events that wait in each lane; more are dropped, and counted.
const LONGEST: usize = 65_536;

#[derive(Debug, Default)]
struct Lane {
    of: HashMap<String, VecDeque<Event>>,
    length: usize,
}

#[derive(Debug, Default)]
struct Lanes {
    executions: Lane,
    files: Lane,
}

/// A bounded queue whose writers never wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lanes: Mutex<Lanes>,
    filled: Condvar,
}

impl Queue {
    /// Puts an event at the end; the one for which there was no room any more, which is another
    /// one where a container had more than its share.
    pub(crate) fn push(&self, event: Event) -> Option<Event> {
        let mut lanes = self.lock();
        let lane = if event.what.is_execution() {
            &mut lanes.executions
        } else {
            &mut lanes.files
        };
        let lost = lane.push(event, LONGEST);
        drop(lanes);
        self.filled.notify_one();
        lost
    }

    /// Everything that waits, executions first; nothing when nothing came in time.
    pub(crate) fn take(&self, patience: Duration) -> Vec<Event> {
        let lanes = self.lock();
        let is_empty = |lanes: &mut Lanes| lanes.executions.length + lanes.files.length == 0;
        let (mut lanes, _) = self
            .filled
            .wait_timeout_while(lanes, patience, is_empty)
            .unwrap_or_else(PoisonError::into_inner);
        let lanes = std::mem::take(&mut *lanes);
        let mut events = lanes.executions.in_order();
        events.extend(lanes.files.in_order());
        events
    }

    /// Whether the lane of files is at most half full.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().files.length <= LONGEST / 2
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn push(&mut self, event: Event, longest: usize) -> Option<Event> {
        let id = event.container.id.clone();
        let own = self.of.entry(id).or_default();
        if self.length < longest {
            own.push_back(event);
            self.length += 1;
            return None;
        }
        let length = own.len();
        // The lane is full, so there is a longest one.
        let longest = self.of.values_mut().max_by_key(|events| events.len())?;
        if longest.len() <= length + 1 {
            return Some(event);
        }
        let lost = longest.pop_back();
        self.of
            .entry(event.container.id.clone())
            .or_default()
            .push_back(event);
        lost
    }

    fn in_order(self) -> Vec<Event> {
        let is_one = self.of.len() == 1;
        let mut events: Vec<Event> = self.of.into_values().flatten().collect();
        if !is_one {
            events.sort_by_key(|event| event.time);
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use invar_drift::Severity;
    use jiff::Timestamp;

    use super::*;
    use crate::event::{Place, What};

    fn event(container: &str, number: usize) -> Event {
        let place = Place {
            id: container.to_owned(),
            name: container.to_owned(),
            engine: "embedded".to_owned(),
        };
        Event {
            time: Timestamp::now(),
            what: What::Create,
            path: format!("/{number}").into_bytes(),
            from: None,
            container: Arc::new(place),
            actor: None,
            pid: 1,
            severity: Severity::Info,
            finding: None,
            reason: None,
        }
    }

    #[test]
    fn one_container_does_not_take_the_room_of_another() {
        let mut lane = Lane::default();
        let mut lost = Vec::new();
        let noisy = (0..20).map(|number| event("noisy", number));
        let quiet = (0..3).map(|number| event("quiet", number));
        for event in noisy.chain(quiet) {
            lost.extend(lane.push(event, 10));
        }
        assert_eq!(lost.len(), 13);
        assert!(lost.iter().all(|event| event.container.id == "noisy"));
        // Two that flood have half each.
        for number in 0..20 {
            lane.push(event("quiet", number), 10);
        }
        let kept = lane.in_order();
        let of = |id| kept.iter().filter(|event| event.container.id == id).count();
        assert_eq!((of("noisy"), of("quiet")), (5, 5));
        assert!(kept.is_sorted_by_key(|event| event.time));
    }
}
