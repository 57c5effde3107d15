//! How much one container may ask, so that it cannot keep the others from being answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// Queries that are answered at once, and how many more each second.
const BURST: f64 = 400.0;
const RATE: f64 = 200.0;
/// Questions of one container, and of all, that wait for the host's servers.
const WAITING_OF_ONE: usize = 64;
const WAITING: usize = 256;
/// Connections of one container, and of all.
const CONNECTIONS_OF_ONE: usize = 8;
const CONNECTIONS: usize = 64;

/// What is going on for each container.
#[derive(Debug, Default)]
pub(super) struct Limits {
    clients: HashMap<IpAddr, Client>,
    waiting: usize,
    connections: usize,
}

#[derive(Debug)]
struct Client {
    tokens: f64,
    at: Instant,
    waiting: usize,
    connections: usize,
}

/// What a container does beside asking.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    Waiting,
    Connection,
}

impl Limits {
    /// Whether one more query is answered.
    pub(super) fn allow(&mut self, client: IpAddr, now: Instant) -> bool {
        let client = self.client(client, now);
        let passed = now.saturating_duration_since(client.at).as_secs_f64();
        client.tokens = (client.tokens + passed * RATE).min(BURST);
        client.at = now;
        let is_allowed = client.tokens >= 1.0;
        if is_allowed {
            client.tokens -= 1.0;
        }
        is_allowed
    }

    /// Counts one more; `false` when there are enough. Each that was counted must end.
    pub(super) fn begin(&mut self, client: IpAddr, what: Use) -> bool {
        let (most, most_of_one) = match what {
            Use::Waiting => (WAITING, WAITING_OF_ONE),
            Use::Connection => (CONNECTIONS, CONNECTIONS_OF_ONE),
        };
        let all = *self.count(what);
        let own = self.client(client, Instant::now()).count(what);
        if all >= most || *own >= most_of_one {
            return false;
        }
        *own += 1;
        *self.count(what) += 1;
        true
    }

    pub(super) fn end(&mut self, client: IpAddr, what: Use) {
        let own = self.client(client, Instant::now()).count(what);
        *own = own.saturating_sub(1);
        let all = self.count(what);
        *all = all.saturating_sub(1);
    }

    /// Forgets containers that ask for nothing; called now and then.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        self.clients.retain(|_, client| {
            let passed = now.saturating_duration_since(client.at).as_secs_f64();
            client.waiting + client.connections > 0 || client.tokens + passed * RATE < BURST
        });
    }

    fn client(&mut self, client: IpAddr, now: Instant) -> &mut Client {
        self.clients.entry(client).or_insert(Client {
            tokens: BURST,
            at: now,
            waiting: 0,
            connections: 0,
        })
    }

    fn count(&mut self, what: Use) -> &mut usize {
        match what {
            Use::Waiting => &mut self.waiting,
            Use::Connection => &mut self.connections,
        }
    }
}

impl Client {
    fn count(&mut self, what: Use) -> &mut usize {
        match what {
            Use::Waiting => &mut self.waiting,
            Use::Connection => &mut self.connections,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_storm_of_one_container_is_cut_and_others_are_answered() {
        let (loud, calm) = (IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 3]));
        let mut limits = Limits::default();
        let start = Instant::now();
        let answered = (0..10_000).filter(|_| limits.allow(loud, start)).count();
        assert_eq!(answered, 400);
        assert!(limits.allow(calm, start));
        let later = start + Duration::from_secs(1);
        let answered = (0..10_000).filter(|_| limits.allow(loud, later)).count();
        assert_eq!(answered, 200);
        limits.forget_idle(later);
        assert_eq!(limits.clients.len(), 1, "the calm one is forgotten");
    }

    #[test]
    fn what_waits_is_bounded_for_one_and_for_all() {
        let mut limits = Limits::default();
        let client = |n: u8| IpAddr::from([10, 0, 0, n]);
        let begun = (0..1000)
            .filter(|_| limits.begin(client(2), Use::Waiting))
            .count();
        assert_eq!(begun, WAITING_OF_ONE);
        let others = (3..100).flat_map(|n| [n; 10]);
        let begun = others
            .filter(|n| limits.begin(client(*n), Use::Waiting))
            .count();
        assert_eq!(begun, WAITING - WAITING_OF_ONE);
        limits.end(client(2), Use::Waiting);
        assert!(limits.begin(client(200), Use::Waiting));
        assert!(limits.begin(client(2), Use::Connection), "counted apart");
    }
}
