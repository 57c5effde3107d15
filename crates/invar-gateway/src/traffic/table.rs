//! All services and routes of one moment, made from a configuration item by item.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::route::RouteTable;
use super::service::Service;
use crate::clock;
use crate::config::{Config, RouteConfig, ServiceConfig, check};
use crate::control::protocol::Refusal;
use crate::limits::Limits;

/// What requests are matched against. Replaced as a whole.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) services: BTreeMap<String, Arc<Service>>,
    pub(crate) routes: RouteTable,
    /// What is in force, which is not what was asked for where items were refused. Services stand in
    /// it as they were configured; their traffic of the moment is in [`Service`].
    pub(crate) config: Config,
    pub(crate) limits: Arc<Limits>,
}

impl Table {
    /// The table after `wanted` is applied. A refused item leaves what was in force before it, if
    /// anything. Services that go on existing are changed at once, so only one thread calls this.
    pub(crate) fn apply(
        &self,
        wanted: Config,
        epochs: &BTreeMap<String, u64>,
        refusals: &mut Vec<Refusal>,
    ) -> Self {
        let mut next = Self {
            config: Config {
                listeners: wanted.listeners,
                certificates: wanted.certificates,
                limits: wanted.limits.clone(),
                ..Config::default()
            },
            limits: Arc::new(wanted.limits),
            ..Self::default()
        };
        for config in wanted.services.into_iter().take(check::MOST_ITEMS) {
            self.apply_service(&mut next, config, epochs, refusals);
        }
        for config in wanted.routes.into_iter().take(check::MOST_ITEMS) {
            self.apply_route(&mut next, config, refusals);
        }
        next
    }

    fn apply_service(
        &self,
        next: &mut Self,
        mut config: ServiceConfig,
        epochs: &BTreeMap<String, u64>,
        refusals: &mut Vec<Refusal>,
    ) {
        let before = self.services.get(&config.name);
        if next.services.contains_key(&config.name) {
            refusals.push(Refusal::of(
                "service",
                &config.name,
                "it is there twice",
                true,
            ));
            return;
        }
        let adopted = before.is_some() && config.stable.is_none();
        if let (Some(before), true) = (before, adopted) {
            let traffic = before.traffic();
            config.stable.clone_from(&traffic.config.stable);
            config.canary.clone_from(&traffic.config.canary);
        }
        if let Err(reason) = check::service(&config) {
            refusals.push(Refusal::of(
                "service",
                &config.name,
                &reason,
                before.is_some(),
            ));
            if let Some(before) = before {
                next.services.insert(config.name, Arc::clone(before));
            }
            return;
        }
        let service = if let Some(before) = before {
            // What leaves with this gets the time a tunnel has; a switch sets its own limit.
            let limit = Duration::from_millis(config.policy.lease_ms);
            before.replace(config, limit);
            Arc::clone(before)
        } else {
            // A name that comes back later must not revive the cookies of its first life.
            let fresh = clock::unix_micros(clock::now()) / 1_000_000;
            let epoch = epochs.get(&config.name).copied().unwrap_or(fresh);
            Arc::new(Service::new(config, epoch))
        };
        next.services.insert(service.name.to_string(), service);
    }

    fn apply_route(&self, next: &mut Self, config: RouteConfig, refusals: &mut Vec<Refusal>) {
        let label = format!("{}{}", config.host, config.path);
        let reason = match check::route(&config) {
            Err(reason) => reason,
            Ok(()) => match next.services.get(&config.service) {
                None => format!("no service named {:?}", config.service),
                Some(service) => {
                    if next
                        .routes
                        .add(&config.host, &config.path, Arc::clone(service))
                    {
                        next.config.routes.push(config);
                        return;
                    }
                    "host and path are there twice".to_owned()
                }
            },
        };
        let before = self
            .config
            .routes
            .iter()
            .find(|route| route.host == config.host && route.path == config.path);
        let kept = before.is_some_and(|route| {
            next.services.get(&route.service).is_some_and(|service| {
                next.routes
                    .add(&route.host, &route.path, Arc::clone(service))
            })
        });
        if let (Some(route), true) = (before, kept) {
            next.config.routes.push(route.clone());
        }
        refusals.push(Refusal::of("route", &label, &reason, kept));
    }

    /// The cookie epoch of each service.
    pub(crate) fn epochs(&self) -> BTreeMap<String, u64> {
        self.services
            .iter()
            .map(|(name, service)| (name.clone(), service.traffic().epoch))
            .collect()
    }

    /// The configuration in force, with the traffic of this moment: what the state file holds.
    pub(crate) fn in_force(&self) -> Config {
        Config {
            services: self
                .services
                .values()
                .map(|service| service.traffic().config.clone())
                .collect(),
            ..self.config.clone()
        }
    }
}
