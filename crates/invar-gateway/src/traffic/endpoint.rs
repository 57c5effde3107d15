//! One container's address, how well it does, and which of several is asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::config::PolicyConfig;
use crate::{clock, random};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The address of one container.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Unique in this process; connections are pooled by it.
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    in_flight: AtomicU32,
    /// Active checks say that it does not answer.
    down: AtomicBool,
    /// Checks in a row with the outcome opposite to `down`.
    checks: AtomicU32,
    was_checked: AtomicBool,
    /// Failures of real requests in a row.
    failures: AtomicU32,
    ejections: AtomicU32,
    ejected_until: AtomicU64,
}

impl Endpoint {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            address,
            in_flight: AtomicU32::new(0),
            down: AtomicBool::new(false),
            checks: AtomicU32::new(0),
            was_checked: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// Whether an active check ever had an outcome.
    pub(crate) fn was_checked(&self) -> bool {
        self.was_checked.load(Relaxed)
    }

    pub(crate) fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Relaxed);
        until != 0 && clock::now() < until
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Takes the outcome of one active check; true when the endpoint's state changed by it.
    pub(crate) fn checked(&self, well: bool, unhealthy: u32, healthy: u32) -> bool {
        self.was_checked.store(true, Relaxed);
        if well != self.is_down() {
            self.checks.store(0, Relaxed);
            return false;
        }
        let needed = if well { healthy } else { unhealthy };
        if self.checks.fetch_add(1, Relaxed) + 1 < needed {
            return false;
        }
        self.checks.store(0, Relaxed);
        self.down.store(!well, Relaxed);
        if well {
            self.ejected_until.store(0, Relaxed);
        }
        true
    }

    /// A real request was answered.
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.ejections.store(0, Relaxed);
        }
    }

    /// A real request failed here; after enough in a row the endpoint is left alone for a while.
    pub(crate) fn failed(&self, policy: &PolicyConfig) {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        if policy.eject_after == 0 || failures < policy.eject_after || self.is_ejected() {
            return;
        }
        let before = self.ejections.fetch_add(1, Relaxed).min(9);
        let pause = policy
            .eject_ms
            .saturating_mul(1 << before)
            .min(policy.eject_ms.saturating_mul(10));
        let until = clock::now().saturating_add(pause.saturating_mul(1_000_000));
        self.ejected_until.store(until, Relaxed);
    }
}

/// Counts one request of an endpoint.
#[derive(Debug)]
pub(crate) struct Use(Arc<Endpoint>);

impl Use {
    pub(crate) fn of(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Relaxed);
        Self(endpoint)
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The less busy of two endpoints taken at random among those that are well and were not `tried`.
///
/// When all that are up are ejected, ejection is ignored: a guess is better than no answer. `None`
/// when every one is down or was tried.
pub(crate) fn choose(endpoints: &[Arc<Endpoint>], tried: &[u64]) -> Option<Arc<Endpoint>> {
    if let [only] = endpoints {
        return (!only.is_down() && tried.is_empty()).then(|| Arc::clone(only));
    }
    let up = |endpoint: &&Arc<Endpoint>| !endpoint.is_down() && !tried.contains(&endpoint.id);
    let good = |endpoint: &&Arc<Endpoint>| up(endpoint) && !endpoint.is_ejected();
    less_busy(|| endpoints.iter().filter(good))
        .or_else(|| less_busy(|| endpoints.iter().filter(up)))
}

fn less_busy<'a, I>(candidates: impl Fn() -> I) -> Option<Arc<Endpoint>>
where
    I: Iterator<Item = &'a Arc<Endpoint>>,
{
    let count = candidates().count();
    if count == 0 {
        return None;
    }
    let pick = |limit: usize| {
        let index = random::below(u64::try_from(limit).unwrap_or(1));
        usize::try_from(index).unwrap_or(0)
    };
    let first = pick(count);
    let one = candidates().nth(first)?;
    if count == 1 {
        return Some(Arc::clone(one));
    }
    let second = (first + 1 + pick(count - 1)) % count;
    let other = candidates().nth(second)?;
    let better = if other.in_flight() < one.in_flight() {
        other
    } else {
        one
    };
    Some(Arc::clone(better))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Arc<Endpoint>> {
        (1..=3)
            .map(|port| Arc::new(Endpoint::new(SocketAddr::from(([127, 0, 0, 1], port)))))
            .collect()
    }

    #[test]
    fn a_down_endpoint_gets_nothing_and_an_ejected_one_only_when_no_other_is_left() {
        let endpoints = three();
        let policy = PolicyConfig {
            eject_after: 2,
            ..PolicyConfig::default()
        };
        for _ in 0..3 {
            endpoints[0].checked(false, 3, 2);
        }
        endpoints[1].failed(&policy);
        assert!(!endpoints[1].is_ejected());
        endpoints[1].failed(&policy);
        assert!(endpoints[0].is_down() && endpoints[1].is_ejected());
        for _ in 0..50 {
            assert_eq!(choose(&endpoints, &[]).unwrap().id, endpoints[2].id);
        }
        let tried = [endpoints[2].id];
        assert_eq!(choose(&endpoints, &tried).unwrap().id, endpoints[1].id);
        let tried = [endpoints[2].id, endpoints[1].id];
        assert!(choose(&endpoints, &tried).is_none());
    }

    #[test]
    fn the_busiest_of_three_is_never_chosen() {
        let endpoints = three();
        let _held: Vec<Use> = (0..5).map(|_| Use::of(Arc::clone(&endpoints[1]))).collect();
        for _ in 0..100 {
            assert_ne!(choose(&endpoints, &[]).unwrap().id, endpoints[1].id);
        }
    }

    #[test]
    fn checks_count_in_a_row() {
        let endpoint = Endpoint::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        let outcomes = [
            false, false, true, false, false, false, true, false, true, true,
        ];
        let down: Vec<bool> = outcomes
            .iter()
            .map(|well| {
                endpoint.checked(*well, 3, 2);
                endpoint.is_down()
            })
            .collect();
        let expected = [
            false, false, false, false, false, true, true, true, true, false,
        ];
        assert_eq!(down, expected);
    }
}
