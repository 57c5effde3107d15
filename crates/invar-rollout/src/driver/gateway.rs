//! A service at the gateway: one of the gateway's services for each of its ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use invar_gateway::GatewayError;
use invar_gateway::config::{
    CanaryConfig, Config, HealthConfig, ListenerConfig, ListenerProtocol, PolicyConfig,
    RevisionConfig, ServiceConfig, ServiceProtocol,
};
use invar_gateway::control::client::Client;
use invar_gateway::control::protocol::ServiceStatus;

use super::store::{Result, RolloutError};
use crate::compose::PortProtocol;
use crate::definition::Definition;
use crate::judge::Tally;
use crate::machine::{Role, Traffic};

/// A trial that nobody renews for so long ends.
const LEASE: Duration = Duration::from_secs(30);

/// Names of a role's revision at the gateway.
pub(super) type Names = BTreeMap<Role, String>;

/// Addresses of a role's healthy containers, by port.
pub(super) type Addresses = BTreeMap<Role, Vec<BTreeSet<SocketAddr>>>;

/// The gateway, as far as one service goes.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) socket: PathBuf,
    pub(super) service: String,
    pub(super) names: Names,
    client: Option<Client>,
}

impl Front {
    pub(super) fn new(socket: PathBuf, service: String, names: Names) -> Self {
        Self {
            socket,
            service,
            names,
            client: None,
        }
    }

    /// The gateway's service for a port, counted from 0.
    fn name(&self, port: usize) -> String {
        gateway_name(&self.service, port)
    }

    /// Asks the gateway; a connection that broke is made anew the next time.
    fn ask<T>(
        &mut self,
        action: &str,
        ask: impl FnOnce(&mut Client) -> std::result::Result<T, GatewayError>,
    ) -> Result<T> {
        let failed = |socket: &PathBuf, source| RolloutError::Gateway {
            action: action.to_owned(),
            socket: socket.clone(),
            source,
        };
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.socket).map_err(|e| failed(&self.socket, e))?,
        };
        let answer = ask(&mut client).map_err(|e| failed(&self.socket, e))?;
        self.client = Some(client);
        Ok(answer)
    }

    /// Whether a gateway answers.
    pub(super) fn require(&mut self) -> Result<()> {
        self.ask("ask for the status", Client::status).map(|_| ())
    }

    /// What the gateway says of the service; `None` when it does not answer.
    pub(super) fn traffic(&mut self, ports: usize, addresses: &Addresses) -> Option<Traffic> {
        let status = self.ask("ask for the status", Client::status).ok()?;
        let mut all = Vec::new();
        for port in 0..ports {
            let found = status.services.get(&self.name(port));
            all.push(found.map(|service| self.of_port(service, port, addresses)));
        }
        combine(all)
    }

    fn of_port(&self, service: &ServiceStatus, port: usize, addresses: &Addresses) -> Traffic {
        let weights = service.canary.as_ref().map(|canary| &canary.weights);
        let weight = |role| {
            let name = self.names.get(&role)?;
            weights?.get(name).copied()
        };
        let tally = |role| {
            let revision = service.revisions.get(self.names.get(&role)?)?;
            Some(Tally::of(&revision.counts))
        };
        let mut traffic = Traffic {
            canary: weight(Role::Target).unwrap_or(0),
            baseline: weight(Role::Baseline).unwrap_or(0),
            canary_tally: tally(Role::Target).unwrap_or_default(),
            baseline_tally: tally(Role::Baseline).unwrap_or_default(),
            ..Traffic::default()
        };
        for (role, name) in &self.names {
            let Some(revision) = service.revisions.get(name) else {
                continue;
            };
            traffic.known.insert(*role);
            if service.stable == *name {
                traffic.stable = Some(*role);
            }
            let has: BTreeSet<SocketAddr> = revision
                .endpoints
                .iter()
                .map(|endpoint| endpoint.address)
                .collect();
            if addresses.get(role).and_then(|ports| ports.get(port)) == Some(&has) {
                traffic.current.insert(*role);
            }
            if revision.drain.in_flight > 0 {
                traffic.busy.insert(*role);
            }
        }
        traffic
    }

    /// Makes a role's revision known with its addresses; a service that is not there comes with it.
    pub(super) fn register(
        &mut self,
        role: Role,
        definition: &Definition,
        addresses: &Addresses,
    ) -> Result<()> {
        let revision = self.revision(role);
        let status = self.ask("ask for the status", Client::status)?;
        let mut missing = Vec::new();
        for port in 0..definition.ports.len() {
            let at = addresses.get(&role).and_then(|ports| ports.get(port));
            let at: Vec<SocketAddr> = at.into_iter().flatten().copied().collect();
            let name = self.name(port);
            if status.services.contains_key(&name) {
                let revision = revision.clone();
                self.ask("add the revision", |client| {
                    client.revision(&name, &revision, at)
                })?;
            } else {
                missing.push(service_config(&name, definition, port, &revision, at));
            }
        }
        if !missing.is_empty() {
            self.change("add the service", |config| {
                config.services.extend(missing);
            })?;
            self.publish(definition)?;
        }
        Ok(())
    }

    /// Listens where the definition says, and nowhere else for this service.
    pub(super) fn publish(&mut self, definition: &Definition) -> Result<()> {
        let mut wanted = Vec::new();
        for (index, port) in definition.ports.iter().enumerate() {
            let ip = port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            wanted.push(ListenerConfig {
                address: SocketAddr::new(ip, port.published),
                protocol: match port.protocol {
                    PortProtocol::Tcp => ListenerProtocol::Tcp,
                    PortProtocol::Http | PortProtocol::Http2 => ListenerProtocol::Http,
                },
                tls: false,
                service: Some(self.name(index)),
                trusted_proxies: Vec::new(),
            });
        }
        let config = self.ask("ask for the configuration", Client::config)?;
        let is_ours = |listener: &&ListenerConfig| self.is_ours(listener.service.as_deref());
        let has: Vec<ListenerConfig> = config.listeners.iter().filter(is_ours).cloned().collect();
        if has == wanted {
            return Ok(());
        }
        let service = self.service.clone();
        self.change("listen", |config| {
            config
                .listeners
                .retain(|listener| !belongs(listener.service.as_deref(), &service));
            config.listeners.extend(wanted);
        })
    }

    fn is_ours(&self, service: Option<&str>) -> bool {
        belongs(service, &self.service)
    }

    /// Changes the whole configuration; what is in force of others stays as it is.
    fn change(&mut self, action: &str, change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut config = self.ask(action, Client::config)?;
        for service in &mut config.services {
            // Left out: as it is at the moment of the change, not of the question.
            if service.stable.is_some() {
                service.stable = None;
                service.canary = None;
            }
        }
        change(&mut config);
        let applied = self.ask(action, |client| client.apply(config))?;
        let ours = applied
            .refused
            .into_iter()
            .find(|refusal| self.is_ours(Some(&refusal.name)) || refusal.kind == "listener");
        match ours {
            None => Ok(()),
            Some(refusal) => Err(RolloutError::Refused {
                name: format!("{} {}", refusal.kind, refusal.name),
                reason: refusal.reason,
            }),
        }
    }

    fn revision(&self, role: Role) -> String {
        self.names.get(&role).cloned().unwrap_or_default()
    }

    pub(super) fn weigh(&mut self, ports: usize, canary: u32, baseline: u32) -> Result<()> {
        let weights: BTreeMap<String, u32> = [(Role::Target, canary), (Role::Baseline, baseline)]
            .into_iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(role, weight)| (self.revision(role), weight))
            .collect();
        let config = CanaryConfig {
            lease_ms: (!weights.is_empty()).then(|| crate::machine::millis(LEASE)),
            weights,
            ..CanaryConfig::default()
        };
        for port in 0..ports {
            let name = self.name(port);
            self.ask("move traffic", |client| {
                client.canary(&name, config.clone(), LEASE)
            })?;
        }
        Ok(())
    }

    pub(super) fn renew(&mut self, ports: usize) -> Result<()> {
        for port in 0..ports {
            let name = self.name(port);
            self.ask("renew the lease", |client| client.renew(&name))?;
        }
        Ok(())
    }

    /// All traffic to a role; how long it took, in one sentence.
    pub(super) fn switch(
        &mut self,
        role: Role,
        definition: &Definition,
        drain: Duration,
    ) -> Result<Option<String>> {
        let to = self.revision(role);
        let mut told = None;
        for port in 0..definition.ports.len() {
            let name = self.name(port);
            let switched = self.ask("switch", |client| client.switch(&name, &to, drain))?;
            if switched.from != to {
                told = Some(format!(
                    "traffic went from {} to {to} in {} µs, with {} requests in flight",
                    switched.from, switched.took_us, switched.in_flight
                ));
            }
        }
        self.publish(definition)?;
        Ok(told)
    }

    /// The gateway forgets a role's revision; of a service that has no other, the whole service.
    pub(super) fn forget(&mut self, role: Role, ports: usize) -> Result<()> {
        let revision = self.revision(role);
        self.forget_revision(&revision, ports)
    }

    /// The gateway serves nothing of the service any more; what is in flight ends.
    pub(super) fn withdraw(&mut self) -> Result<()> {
        let service = self.service.clone();
        let is_ours = move |name: &str| belongs(Some(name), &service);
        self.change("remove the service", |config| {
            config
                .listeners
                .retain(|listener| !listener.service.as_deref().is_some_and(&is_ours));
            config.routes.retain(|route| !is_ours(&route.service));
            config.services.retain(|service| !is_ours(&service.name));
        })
    }

    pub(super) fn forget_revision(&mut self, revision: &str, ports: usize) -> Result<()> {
        let status = self.ask("ask for the status", Client::status)?;
        for port in 0..ports {
            let name = self.name(port);
            let Some(service) = status.services.get(&name) else {
                continue;
            };
            if service.stable == revision {
                self.change("remove the service", |config| {
                    config.services.retain(|service| service.name != name);
                    config
                        .listeners
                        .retain(|listener| listener.service.as_deref() != Some(&name));
                    config.routes.retain(|route| route.service != name);
                })?;
            } else if service.revisions.contains_key(revision) {
                self.ask("forget the revision", |client| {
                    client.forget(&name, revision)
                })?;
            }
        }
        Ok(())
    }
}

/// The gateway's name for a port of a service, counted from 0.
pub(super) fn gateway_name(service: &str, port: usize) -> String {
    match port {
        0 => service.to_owned(),
        _ => format!("{service}.{}", port + 1),
    }
}

pub(super) fn belongs(service: Option<&str>, ours: &str) -> bool {
    service.is_some_and(|name| {
        name == ours
            || name
                .strip_prefix(ours)
                .and_then(|rest| rest.strip_prefix('.'))
                .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn service_config(
    name: &str,
    definition: &Definition,
    port: usize,
    revision: &str,
    endpoints: Vec<SocketAddr>,
) -> ServiceConfig {
    let protocol = definition.ports[port].protocol;
    ServiceConfig {
        name: name.to_owned(),
        protocol: match protocol {
            PortProtocol::Http => ServiceProtocol::Http1,
            PortProtocol::Http2 => ServiceProtocol::H2c,
            PortProtocol::Tcp => ServiceProtocol::Tcp,
        },
        revisions: vec![RevisionConfig {
            name: revision.to_owned(),
            endpoints,
        }],
        stable: Some(revision.to_owned()),
        canary: None,
        sticky_cookie: None,
        health: Some(HealthConfig {
            path: definition
                .health_path
                .clone()
                .filter(|_| protocol == PortProtocol::Http),
            interval_ms: 1_000,
            ..HealthConfig::default()
        }),
        policy: PolicyConfig::default(),
    }
}

/// Several ports as one: all have the traffic, or none counts as having it.
fn combine(all: Vec<Option<Traffic>>) -> Option<Traffic> {
    let mut all = all.into_iter();
    let mut sum = all.next()?.unwrap_or_default();
    for port in all {
        let port = port.unwrap_or_default();
        sum.stable = sum.stable.filter(|stable| port.stable == Some(*stable));
        sum.canary = sum.canary.min(port.canary);
        sum.baseline = sum.baseline.min(port.baseline);
        sum.known.extend(port.known);
        sum.current = &sum.current & &port.current;
        sum.busy.extend(port.busy);
        sum.canary_tally.add(&port.canary_tally);
        sum.baseline_tally.add(&port.baseline_tally);
    }
    Some(sum)
}
