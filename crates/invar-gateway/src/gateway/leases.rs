//! The dead-man switch: a canary that nobody renews goes back to nothing.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Gateway;
use crate::config::ServiceConfig;
use crate::limits::ms;

const TICK: Duration = Duration::from_millis(25);

/// Ends canaries whose lease is over.
pub(super) async fn run(gateway: Rc<Gateway>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = Instant::now();
        let over: Vec<String> = gateway
            .leases
            .borrow()
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(service, _)| service.clone())
            .collect();
        for service in over {
            gateway.leases.borrow_mut().remove(&service);
            if gateway.end_canary(&service) {
                let expired = &gateway.shared.metrics.leases_expired;
                expired.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Gateway {
    /// Begins the lease of a service's canary anew, or forgets it when there is none.
    pub(super) fn begin_lease(&self, config: &ServiceConfig) {
        let lease = config.canary.as_ref().and_then(|canary| canary.lease_ms);
        let mut leases = self.leases.borrow_mut();
        match lease {
            Some(lease) => {
                leases.insert(config.name.clone(), Instant::now() + ms(lease));
            }
            None => {
                leases.remove(&config.name);
            }
        }
    }

    pub(super) fn lease_left(&self, service: &str) -> Option<Duration> {
        let leases = self.leases.borrow();
        let until = leases.get(service)?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    fn end_canary(&self, name: &str) -> bool {
        let Ok(service) = self.service(name) else {
            return false;
        };
        let mut config = service.traffic().config.clone();
        let limit = ms(config.policy.lease_ms);
        config.canary = None;
        service.replace(config, limit);
        if !self.handing_over.get() && !self.handed_over.get() {
            // A state that cannot be saved still holds the canary, with a lease that ends again.
            drop(self.save());
        }
        true
    }
}
