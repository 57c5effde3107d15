//! What the control socket shows.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Gateway;
use crate::control::protocol::{
    DrainStatus, EndpointStatus, RevisionStatus, ServiceStatus, Status,
};
use crate::error::{GatewayError, Result};
use crate::traffic::revision::{DrainState, Revision};
use crate::traffic::service::Service;

impl Gateway {
    pub(crate) fn status(&self) -> Status {
        let table = self.shared.table.load();
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: self.shared.metrics.open_connections.load(Relaxed),
            listeners: self.listeners.borrow().keys().copied().collect(),
            services: table
                .services
                .iter()
                .map(|(name, service)| (name.clone(), self.service_status(service)))
                .collect(),
            refused: self.refused.borrow().clone(),
        }
    }

    fn service_status(&self, service: &Service) -> ServiceStatus {
        let traffic = service.traffic();
        let left = self.lease_left(&service.name);
        ServiceStatus {
            stable: traffic.stable.name.to_string(),
            canary: traffic.config.canary.clone(),
            lease_left_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            epoch: traffic.epoch,
            paused: service.is_paused(),
            waiting: u64::try_from(service.waiting()).unwrap_or(u64::MAX),
            revisions: traffic
                .revisions
                .iter()
                .map(|revision| {
                    let leaving = service.leaving(&revision.name);
                    (
                        revision.name.to_string(),
                        revision_status(revision, leaving),
                    )
                })
                .collect(),
        }
    }

    /// How far a revision is drained, at the latest after `wait`.
    pub(crate) async fn drain_status(
        &self,
        name: &str,
        revision: &str,
        wait: Duration,
    ) -> Result<DrainStatus> {
        let service = self.service(name)?;
        let found = service.traffic().revision(revision).map(Arc::clone);
        let revision = found.ok_or_else(|| GatewayError::revision(revision))?;
        let until = Instant::now() + wait;
        while revision.drain_state() == DrainState::Draining && Instant::now() < until {
            let limit = revision
                .retirement()
                .map_or(until, |retirement| retirement.since + retirement.limit);
            let pause = limit.min(until).saturating_duration_since(Instant::now());
            drop(tokio::time::timeout(pause, revision.wait_until_empty()).await);
        }
        Ok(drain_status(&revision))
    }
}

fn revision_status(revision: &Revision, leaving: u64) -> RevisionStatus {
    RevisionStatus {
        drain: drain_status(revision),
        endpoints: revision
            .endpoints
            .iter()
            .map(|endpoint| EndpointStatus {
                address: endpoint.address,
                up: !endpoint.is_down(),
                ejected: endpoint.is_ejected(),
                in_flight: endpoint.in_flight(),
            })
            .collect(),
        leaving,
        counts: revision.metrics.counts(),
    }
}

fn drain_status(revision: &Revision) -> DrainStatus {
    let state = match revision.drain_state() {
        DrainState::Active => "active",
        DrainState::Draining => "draining",
        DrainState::Drained => "drained",
        DrainState::LimitReached => "limit",
    };
    DrainStatus {
        state: state.to_owned(),
        in_flight: revision.in_flight(),
        tunnels: revision.tunnels(),
    }
}
