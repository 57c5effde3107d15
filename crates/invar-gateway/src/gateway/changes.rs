//! What the control socket can change.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;
use crate::clock;
use crate::config::{
    CanaryConfig, Config, ListenerConfig, ListenerProtocol, RevisionConfig, ServiceConfig, check,
};
use crate::control::protocol::{Applied, Changed, Refusal, Switched};
use crate::error::{GatewayError, Result};
use crate::health;
use crate::limits::ms;
use crate::listener::Bound;
use crate::state::State;
use crate::traffic::revision::Revision;
use crate::traffic::service::Service;
use crate::traffic::table::Table;

/// How a switch is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HowToSwitch {
    pub(crate) drain: Duration,
    /// First no revision has a request, then the other one has.
    pub(crate) exclusive: Option<Duration>,
    pub(crate) force: bool,
}

impl Gateway {
    pub(crate) fn apply(&self, config: Config) -> Result<Applied> {
        self.may_change()?;
        self.put_in_force(config, &BTreeMap::new(), Vec::new());
        Ok(Applied {
            refused: self.refused.borrow().clone(),
            not_saved: self.not_saved(),
        })
    }

    /// Puts every good item of a configuration in force.
    pub(super) fn put_in_force(
        &self,
        config: Config,
        epochs: &BTreeMap<String, u64>,
        inherited: Vec<(SocketAddr, TcpListener)>,
    ) {
        let mut refused = Vec::new();
        let mut next = self.shared.table.load().apply(config, epochs, &mut refused);
        let listeners = self.good_listeners(&mut next, &mut refused);
        self.shared
            .tls
            .load(&next.config.certificates, &mut refused);
        let is_gone = |name: &String| !next.services.contains_key(name);
        self.leases.borrow_mut().retain(|name, _| !is_gone(name));
        for service in next.services.values() {
            self.begin_lease(&service.traffic().config);
        }
        // Routes before sockets: who connects finds what was asked for.
        self.shared.table.store(Arc::new(next));
        self.listen(listeners, inherited, &mut refused);
        *self.refused.borrow_mut() = refused;
    }

    /// The listeners of a table without those that cannot work; of these the ones before stay.
    fn good_listeners(&self, next: &mut Table, refused: &mut Vec<Refusal>) -> Vec<ListenerConfig> {
        let mut good: BTreeMap<SocketAddr, ListenerConfig> = BTreeMap::new();
        for listener in std::mem::take(&mut next.config.listeners) {
            let address = listener.address;
            let problem = if good.contains_key(&address) {
                Some("it is there twice".to_owned())
            } else {
                listener_problem(&listener, next)
            };
            let Some(reason) = problem else {
                good.insert(address, listener);
                continue;
            };
            let bound = self.listeners.borrow();
            let before = bound.get(&address);
            refused.push(Refusal::of(
                "listener",
                &address.to_string(),
                &reason,
                before.is_some(),
            ));
            if let Some(before) = before {
                good.entry(address)
                    .or_insert_with(|| ListenerConfig::clone(&before.config));
            }
        }
        let good: Vec<ListenerConfig> = good.into_values().collect();
        next.config.listeners.clone_from(&good);
        good
    }

    fn listen(
        &self,
        wanted: Vec<ListenerConfig>,
        inherited: Vec<(SocketAddr, TcpListener)>,
        refused: &mut Vec<Refusal>,
    ) {
        let mut sockets: BTreeMap<SocketAddr, Vec<TcpListener>> = BTreeMap::new();
        for (address, socket) in inherited {
            sockets.entry(address).or_default().push(socket);
        }
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|address, bound| {
            let stays = wanted.iter().any(|listener| listener.address == *address);
            if !stays {
                bound.stop(&self.workers);
            }
            stays
        });
        for config in wanted {
            let address = config.address;
            let done = match listeners.get_mut(&address) {
                Some(bound) if *bound.config == config => Ok(()),
                Some(bound) => bound.change(config, &self.workers),
                None => {
                    let inherited = sockets.remove(&address).unwrap_or_default();
                    Bound::start(config, inherited, &self.workers).map(|bound| {
                        listeners.insert(address, bound);
                    })
                }
            };
            if let Err(error) = done {
                let reason = explain(&error);
                refused.push(Refusal::of(
                    "listener",
                    &address.to_string(),
                    &reason,
                    false,
                ));
            }
        }
    }

    pub(crate) fn load_certificates(&self) {
        let mut refused = Vec::new();
        let table = self.shared.table.load();
        self.shared
            .tls
            .load(&table.config.certificates, &mut refused);
        for certificate in &table.config.certificates {
            let Some(problem) = self.orders.problem(&certificate.name) else {
                continue;
            };
            // Why there is none says more than that there is none.
            let before = refused
                .iter()
                .position(|refusal| refusal.name == certificate.name);
            let was_kept = before.map(|at| refused.remove(at).kept_last_good);
            let reason = format!("it could not be ordered: {problem}");
            let kept = was_kept.unwrap_or(true);
            refused.push(Refusal::of("certificate", &certificate.name, &reason, kept));
        }
        let mut shown = self.refused.borrow_mut();
        shown.retain(|refusal| refusal.kind != "certificate");
        shown.extend(refused);
    }

    pub(crate) fn reload(&self) -> Applied {
        self.load_certificates();
        Applied {
            refused: self.refused.borrow().clone(),
            not_saved: None,
        }
    }

    /// Switches all traffic of a service to one revision.
    pub(crate) async fn switch(&self, name: &str, to: &str, how: HowToSwitch) -> Result<Switched> {
        self.may_change()?;
        let service = self.service(name)?;
        let traffic = Arc::clone(&service.traffic());
        let target = traffic
            .revision(to)
            .ok_or_else(|| GatewayError::revision(to))?;
        let from = Arc::clone(&traffic.stable);
        // A revision that checks know to be well takes traffic at once: a rollback waits for nobody.
        let is_known = traffic.config.health.is_some() && is_known_well(target);
        if !how.force && !is_known && !health::probe(&traffic, target).await {
            let reason = "none of its containers answers; nothing was changed";
            return Err(GatewayError::refused(format!("switch to {to:?}"), reason));
        }
        if let Some(limit) = how.exclusive {
            wait_until_quiet(&service, &from, limit).await?;
        }
        self.may_change()?;
        let begun = Instant::now();
        let mut config = service.traffic().config.clone();
        if !config.revisions.iter().any(|revision| revision.name == to) {
            return Err(GatewayError::revision(to));
        }
        config.stable = Some(to.to_owned());
        config.canary = None;
        let at = service.replace(config, how.drain);
        let took = begun.elapsed();
        self.leases.borrow_mut().remove(name);
        let last = from.last_claim().min(at);
        Ok(Switched {
            from: from.name.to_string(),
            at_unix_us: clock::unix_micros(at),
            last_request_unix_us: (last > 0).then(|| clock::unix_micros(last)),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            in_flight: from.in_flight(),
            epoch: service.traffic().epoch,
            not_saved: self.not_saved(),
        })
    }

    pub(crate) fn set_canary(
        &self,
        name: &str,
        canary: CanaryConfig,
        drain: Duration,
    ) -> Result<Changed> {
        let service = self.service(name)?;
        let mut config = service.traffic().config.clone();
        config.canary = (canary != CanaryConfig::default()).then_some(canary);
        let lease = config.clone();
        let changed = self.change(&service, config, drain)?;
        self.begin_lease(&lease);
        Ok(changed)
    }

    pub(crate) fn add_revision(
        &self,
        name: &str,
        revision: &str,
        endpoints: Vec<SocketAddr>,
    ) -> Result<Changed> {
        let service = self.service(name)?;
        let mut config = service.traffic().config.clone();
        config.revisions.retain(|other| other.name != revision);
        config.revisions.push(RevisionConfig {
            name: revision.to_owned(),
            endpoints,
        });
        let limit = ms(config.policy.lease_ms);
        self.change(&service, config, limit)
    }

    pub(crate) fn forget_revision(&self, name: &str, revision: &str) -> Result<Changed> {
        let service = self.service(name)?;
        let traffic = Arc::clone(&service.traffic());
        let found = traffic
            .revision(revision)
            .ok_or_else(|| GatewayError::revision(revision))?;
        if traffic.reaches(found) {
            let reason = "it has traffic; switch to another revision first";
            return Err(GatewayError::refused(
                format!("forget {revision:?}"),
                reason,
            ));
        }
        let mut config = traffic.config.clone();
        config.revisions.retain(|other| other.name != revision);
        self.change(&service, config, Duration::ZERO)
    }

    fn change(&self, service: &Service, config: ServiceConfig, drain: Duration) -> Result<Changed> {
        self.may_change()?;
        check::service(&config).map_err(|reason| {
            GatewayError::refused(format!("service {:?}", config.name), reason)
        })?;
        service.replace(config, drain);
        Ok(Changed {
            not_saved: self.not_saved(),
        })
    }

    pub(crate) fn renew(&self, name: &str) -> Result<Changed> {
        let service = self.service(name)?;
        if self.lease_left(name).is_none() {
            let reason = "its canary has no lease, or it is over";
            return Err(GatewayError::refused(format!("renew {name:?}"), reason));
        }
        self.begin_lease(&service.traffic().config);
        Ok(Changed { not_saved: None })
    }

    pub(crate) fn pause(&self, name: &str, limit: Duration) -> Result<Changed> {
        self.may_change()?;
        self.service(name)?.pause(limit);
        Ok(Changed { not_saved: None })
    }

    pub(crate) fn resume(&self, name: &str) -> Result<Changed> {
        self.may_change()?;
        let service = self.service(name)?;
        let config = service.traffic().config.clone();
        service.replace(config, Duration::ZERO);
        Ok(Changed { not_saved: None })
    }

    pub(super) fn service(&self, name: &str) -> Result<Arc<Service>> {
        let table = self.shared.table.load();
        let service = table.services.get(name).map(Arc::clone);
        service.ok_or_else(|| GatewayError::service(name))
    }

    fn may_change(&self) -> Result<()> {
        if self.handing_over.get() || self.handed_over.get() {
            let reason = "another process is taking over; ask again in a moment";
            return Err(GatewayError::refused("change", reason));
        }
        Ok(())
    }

    /// Saves what is in force. A full disk must not stop a rollback: the answer says so instead.
    fn not_saved(&self) -> Option<String> {
        self.save().err().map(|error| explain(&error))
    }

    pub(super) fn save(&self) -> Result<()> {
        let table = self.shared.table.load();
        self.state
            .save(&State::new(table.in_force(), table.epochs()))
    }
}

fn is_known_well(revision: &Revision) -> bool {
    let mut endpoints = revision.endpoints.iter();
    endpoints.any(|endpoint| endpoint.was_checked()) && revision.is_usable()
}

fn listener_problem(config: &ListenerConfig, table: &Table) -> Option<String> {
    match (config.protocol, &config.service) {
        (ListenerProtocol::Tcp, None) => Some("a tcp listener names a service".to_owned()),
        (ListenerProtocol::Metrics, Some(_)) => {
            Some("a metrics listener has no service".to_owned())
        }
        (_, Some(name)) if !table.services.contains_key(name) => {
            Some(format!("no service named {name:?}"))
        }
        _ => None,
    }
}

/// Lets new requests wait until a revision has none.
async fn wait_until_quiet(service: &Service, from: &Revision, limit: Duration) -> Result<()> {
    service.pause(limit + Duration::from_secs(1));
    let generation = service.generation();
    let quiet = async {
        while from.in_flight() > from.tunnels() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = tokio::time::timeout(limit, quiet).await.is_ok();
    if service.generation() != generation {
        let reason = "traffic was changed by someone else meanwhile";
        return Err(GatewayError::refused("exclusive switch", reason));
    }
    if in_time {
        return Ok(());
    }
    let config = service.traffic().config.clone();
    service.replace(config, Duration::ZERO);
    let reason = format!(
        "requests on {:?} did not end in time; nothing was changed",
        from.name
    );
    Err(GatewayError::refused("exclusive switch", reason))
}

/// An error with its causes in one line.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
