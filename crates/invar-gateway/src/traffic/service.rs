//! A service: its traffic as one atomic pointer, and the claim that no switch can lose.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use http::{HeaderMap, HeaderName};
use tokio::sync::watch;

use super::cookie::{self, Bucket};
use super::revision::{Claim, Retirement, Revision};
use crate::config::{CanaryConfig, RuleConfig, ServiceConfig, WHOLE};
use crate::limits::ms;
use crate::{clock, random};

/// How requests of a service are spread at one moment. Never changed, only replaced.
#[derive(Debug)]
pub(crate) struct Traffic {
    generation: u64,
    /// Cookies of other epochs mean nothing.
    pub(crate) epoch: u64,
    /// As told, with `stable` always there.
    pub(crate) config: ServiceConfig,
    pub(crate) stable: Arc<Revision>,
    pub(crate) revisions: Vec<Arc<Revision>>,
    /// First bucket of each canary, from the highest down.
    split: Vec<(u32, Arc<Revision>)>,
    rules: Vec<Rule>,
    mirror: Option<(u32, Arc<Revision>)>,
    /// Requests wait until then, or until traffic changes.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct Rule {
    matcher: Matcher,
    value: String,
    revision: Arc<Revision>,
}

#[derive(Debug)]
enum Matcher {
    Header(HeaderName),
    Cookie(String),
}

/// A claimed revision and what the answer must tell the client.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) claim: Claim,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) set_cookie: Option<String>,
}

/// Why there is no claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotClaimed {
    /// Too many requests wait for the paused service.
    QueueFull,
}

/// A name with traffic.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    traffic: ArcSwap<Traffic>,
    generation: AtomicU64,
    /// Spreads requests over a split evenly.
    turn: AtomicU64,
    waiting: AtomicUsize,
    changed: watch::Sender<u64>,
    /// Revisions with addresses that were given up, as long as something is in flight there.
    left: Mutex<Vec<Weak<Revision>>>,
}

impl Service {
    /// A service as first configured. The configuration is checked and names its stable revision.
    pub(crate) fn new(config: ServiceConfig, epoch: u64) -> Self {
        let traffic = Traffic::build(config, &[], 1, epoch);
        traffic.announce(&[], Duration::ZERO);
        Self {
            name: traffic.config.name.as_str().into(),
            traffic: ArcSwap::from_pointee(traffic),
            generation: AtomicU64::new(1),
            turn: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            changed: watch::Sender::new(1),
            left: Mutex::default(),
        }
    }

    pub(crate) fn traffic(&self) -> Guard<Arc<Traffic>> {
        self.traffic.load()
    }

    /// Replaces the traffic; from the returned instant ([`clock::now`]) on no request goes to a
    /// revision that has no part in it. Called by one thread only.
    pub(crate) fn replace(&self, config: ServiceConfig, drain_limit: Duration) -> u64 {
        self.publish(config, None, drain_limit)
    }

    /// Lets requests wait for at most `limit`; a further [`replace`](Self::replace) ends it sooner.
    pub(crate) fn pause(&self, limit: Duration) {
        let config = self.traffic.load().config.clone();
        self.publish(config, Some(Instant::now() + limit), Duration::ZERO);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.traffic.load().is_paused()
    }

    /// Changes with every replacement of the traffic.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    fn publish(
        &self,
        config: ServiceConfig,
        paused_until: Option<Instant>,
        drain_limit: Duration,
    ) -> u64 {
        let old = self.traffic.load_full();
        let generation = old.generation + 1;
        let epoch = old.epoch + u64::from(takes_something_away(&old.config, &config));
        let mut new = Traffic::build(config, &old.revisions, generation, epoch);
        new.paused_until = paused_until;
        let new = Arc::new(new);
        // A revision that gets traffic again must not look retired to its first new tunnel.
        new.announce_active();
        self.remember(&old.revisions, &new.revisions);
        self.traffic.store(Arc::clone(&new));
        // A claim that saw the old number before this line is already counted in flight.
        self.generation.store(generation, SeqCst);
        let at = clock::now();
        new.announce(&old.revisions, drain_limit);
        self.changed.send_replace(generation);
        at
    }

    /// Keeps hold of revisions whose addresses changed: what is in flight there is told.
    fn remember(&self, old: &[Arc<Revision>], new: &[Arc<Revision>]) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|revision| revision.strong_count() > 0);
        let goes_on = |revision: &&Arc<Revision>| new.iter().any(|one| Arc::ptr_eq(one, revision));
        let gone = old.iter().filter(|revision| !goes_on(revision));
        left.extend(gone.map(Arc::downgrade));
    }

    /// Requests and tunnels on addresses that a revision had and has no more.
    pub(crate) fn leaving(&self, name: &str) -> u64 {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let of_name = left.iter().filter_map(Weak::upgrade);
        of_name
            .filter(|revision| *revision.name == *name)
            .map(|revision| revision.in_flight())
            .sum()
    }

    /// Claims a revision for a request, waiting while the service is paused.
    pub(crate) async fn claim(
        &self,
        headers: &HeaderMap,
        most_waiting: usize,
    ) -> Result<Claimed, NotClaimed> {
        if let Some(claimed) = self.try_claim(headers) {
            return Ok(claimed);
        }
        let _place = Place::take(&self.waiting, most_waiting).ok_or(NotClaimed::QueueFull)?;
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(claimed) = self.try_claim(headers) {
                return Ok(claimed);
            }
            let until = self.traffic.load().paused_until;
            let Some(until) = until else { continue };
            // Either traffic changed or the pause is over: look again in both cases.
            drop(tokio::time::timeout_at(until.into(), changed.changed()).await);
        }
    }

    /// Claims a revision unless the service is paused.
    fn try_claim(&self, headers: &HeaderMap) -> Option<Claimed> {
        loop {
            let traffic = self.traffic.load();
            if traffic.is_paused() {
                return None;
            }
            let (revision, set_cookie) = traffic.choose(headers, &self.turn);
            let claim = Claim::tentative(revision);
            if self.generation.load(SeqCst) == traffic.generation {
                return Some(Claimed {
                    claim,
                    traffic: Guard::into_inner(traffic),
                    set_cookie,
                });
            }
            // Traffic was switched in between: the claim is given back and made anew.
            drop(claim);
            std::hint::spin_loop();
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(name: &str) -> Self {
        let config = serde_json::json!({
            "name": name,
            "revisions": [
                {"name": "r1", "endpoints": ["127.0.0.1:1"]},
                {"name": "r2", "endpoints": ["127.0.0.1:2"]},
            ],
            "stable": "r1",
            "sticky_cookie": "invar",
        });
        Self::new(serde_json::from_value(config).unwrap(), 1)
    }
}

/// One of a bounded number of waiting requests.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Whether visitors must leave a revision they were on: then their cookies end.
fn takes_something_away(old: &ServiceConfig, new: &ServiceConfig) -> bool {
    let none = CanaryConfig::default();
    let before = old.canary.as_ref().unwrap_or(&none);
    let after = new.canary.as_ref().unwrap_or(&none);
    let shrinks = before
        .weights
        .iter()
        .any(|(name, weight)| after.weights.get(name).copied().unwrap_or(0) < *weight);
    old.stable != new.stable
        || shrinks
        || before.rules.iter().any(|rule| !after.rules.contains(rule))
}

impl Traffic {
    fn build(
        mut config: ServiceConfig,
        known: &[Arc<Revision>],
        generation: u64,
        epoch: u64,
    ) -> Self {
        let revisions: Vec<Arc<Revision>> = config
            .revisions
            .iter()
            .map(|wanted| {
                known
                    .iter()
                    .find(|revision| {
                        *revision.name == *wanted.name && revision.has_addresses(&wanted.endpoints)
                    })
                    .map_or_else(
                        || Arc::new(Revision::new(&wanted.name, &wanted.endpoints)),
                        Arc::clone,
                    )
            })
            .collect();
        let find = |name: &str| {
            revisions
                .iter()
                .find(|revision| *revision.name == *name)
                .map(Arc::clone)
        };
        let stable = config
            .stable
            .as_deref()
            .and_then(find)
            .unwrap_or_else(|| Arc::clone(&revisions[0]));
        config.stable = Some(stable.name.to_string());
        let none = CanaryConfig::default();
        let canary = config.canary.as_ref().unwrap_or(&none);
        let mut first = WHOLE;
        let split = canary
            .weights
            .iter()
            .filter(|(_, weight)| **weight > 0)
            .filter_map(|(name, weight)| {
                first = first.saturating_sub(*weight);
                find(name).map(|revision| (first, revision))
            })
            .collect();
        let rules = canary
            .rules
            .iter()
            .filter_map(|rule| Rule::new(rule, find(&rule.revision)?))
            .collect();
        let mirror = canary
            .mirror
            .as_ref()
            .and_then(|mirror| Some((mirror.share, find(&mirror.revision)?)));
        Self {
            generation,
            epoch,
            stable,
            split,
            rules,
            mirror,
            paused_until: None,
            revisions,
            config,
        }
    }

    fn is_paused(&self) -> bool {
        self.paused_until
            .is_some_and(|until| Instant::now() < until)
    }

    pub(crate) fn revision(&self, name: &str) -> Option<&Arc<Revision>> {
        self.revisions
            .iter()
            .find(|revision| *revision.name == *name)
    }

    /// Whether requests can reach a revision.
    pub(crate) fn reaches(&self, revision: &Arc<Revision>) -> bool {
        Arc::ptr_eq(&self.stable, revision)
            || self
                .split
                .iter()
                .any(|(_, other)| Arc::ptr_eq(other, revision))
            || self
                .rules
                .iter()
                .any(|rule| Arc::ptr_eq(&rule.revision, revision))
            || self
                .mirror
                .iter()
                .any(|(_, other)| Arc::ptr_eq(other, revision))
    }

    fn announce_active(&self) {
        for revision in self
            .revisions
            .iter()
            .filter(|revision| self.reaches(revision))
        {
            revision.retire(None);
        }
    }

    /// Tells every revision of before and of now whether it has a part in the traffic.
    fn announce(&self, before: &[Arc<Revision>], limit: Duration) {
        let policy = &self.config.policy;
        for revision in before.iter().chain(&self.revisions) {
            let retirement = (!self.reaches(revision)).then(|| Retirement {
                since: Instant::now(),
                lease: ms(policy.lease_ms),
                spread: ms(policy.lease_spread_ms),
                limit,
            });
            revision.retire(retirement);
        }
    }

    fn choose(&self, headers: &HeaderMap, turn: &AtomicU64) -> (Arc<Revision>, Option<String>) {
        if let Some(rule) = self
            .rules
            .iter()
            .find(|rule| rule.matches(headers, self.epoch))
        {
            return (Arc::clone(&rule.revision), None);
        }
        if self.split.is_empty() {
            return (Arc::clone(&self.stable), None);
        }
        let Some(cookie) = &self.config.sticky_cookie else {
            return (self.of_bucket(next_bucket(turn)), None);
        };
        if let Some(bucket) = Bucket::read(headers, cookie, self.epoch) {
            return (self.of_bucket(bucket), None);
        }
        let bucket = Bucket::at_random();
        let set_cookie = bucket.set_cookie(cookie, self.epoch);
        (self.of_bucket(bucket), Some(set_cookie))
    }

    /// A canary without a usable endpoint loses its requests to the stable revision: a dead canary
    /// must not cost an answer.
    fn of_bucket(&self, bucket: Bucket) -> Arc<Revision> {
        let canary = self.split.iter().find(|(first, _)| bucket.0 >= *first);
        match canary {
            Some((_, revision)) if revision.is_usable() => Arc::clone(revision),
            _ => Arc::clone(&self.stable),
        }
    }

    /// The revision that gets a copy of this request.
    pub(crate) fn mirror_of(&self, method: &http::Method) -> Option<&Arc<Revision>> {
        let (share, revision) = self.mirror.as_ref()?;
        let config = self.config.canary.as_ref()?.mirror.as_ref()?;
        let allowed = method.is_safe() || config.unsafe_methods;
        (allowed && Bucket::at_random().0 < *share).then_some(revision)
    }
}

/// Multiples of the golden ratio: any run of requests is split as evenly as its length allows.
fn next_bucket(turn: &AtomicU64) -> Bucket {
    let turn = turn.fetch_add(1, Relaxed);
    let scaled = random::scale(turn.wrapping_mul(0x9E37_79B9_7F4A_7C15), u64::from(WHOLE));
    Bucket(u32::try_from(scaled).unwrap_or(0))
}

impl Rule {
    fn new(config: &RuleConfig, revision: Arc<Revision>) -> Option<Self> {
        let matcher = match (&config.header, &config.cookie) {
            (Some(header), _) => Matcher::Header(header.parse().ok()?),
            (None, cookie) => Matcher::Cookie(cookie.clone()?),
        };
        Some(Self {
            matcher,
            value: config.value.clone(),
            revision,
        })
    }

    fn matches(&self, headers: &HeaderMap, epoch: u64) -> bool {
        match &self.matcher {
            Matcher::Header(name) => headers
                .get_all(name)
                .iter()
                .any(|value| value.as_bytes() == self.value.as_bytes()),
            Matcher::Cookie(name) => cookie::value(headers, name)
                .and_then(|value| value.rsplit_once('.'))
                .is_some_and(|(value, written)| {
                    value == self.value && written == epoch.to_string()
                }),
        }
    }
}

#[cfg(test)]
mod tests;
