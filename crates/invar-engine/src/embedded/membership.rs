//! Networks that a container joins and leaves after it was made. What it asks for is in its
//! configuration, first; a command that was killed before the rest is made good by the next
//! start, or by the same command again.

use invar_sys::network::namespace_of;

use super::EmbeddedEngine;
use super::network::Running;
use super::registry::Entry;
use crate::config::{ContainerConfig, Membership, Network};
use crate::container::ContainerId;
use crate::error::{EngineError, Result};

/// Each is a link, a bridge and a dozen rules.
const MOST: usize = 32;

impl EmbeddedEngine {
    /// Puts a container into one more network, at once when it runs.
    pub fn connect_network(&self, id: &ContainerId, wanted: &Membership) -> Result<()> {
        let entry = self.registry.get(id)?;
        let (network, name) = self.networks.resolve(&wanted.network)?;
        let wanted = Membership {
            network: name,
            ..wanted.clone()
        };
        let running = self.running(&entry)?;
        let old = entry.config.clone();
        let asks = asks_for(self, &old, &network);
        let has = running.is_some() && self.networks.has_place(id, &network)?;
        if asks && (running.is_none() || has) {
            return Err(EngineError::InvalidConfig {
                what: format!("the network {:?}", wanted.network),
                reason: format!("the container {:?} is in it already", entry.name.as_str()),
            });
        }
        let mut config = old.clone();
        if !asks {
            add(&mut config, &wanted)?;
            self.registry.set_config(id, &config)?;
        }
        let Some(running) = running else {
            return Ok(());
        };
        let entry = Entry { config, ..entry };
        let joined = self.networks.join(&entry, &wanted, &running);
        if joined.is_err() && !asks {
            // The error that stopped it matters more.
            self.registry.set_config(id, &old).ok();
        }
        joined
    }

    /// Takes a container out of a network, at once when it runs.
    pub fn disconnect_network(&self, id: &ContainerId, network: &str) -> Result<()> {
        let entry = self.registry.get(id)?;
        let (network, name) = self.networks.resolve(network)?;
        let running = self.running(&entry)?;
        let has = running.is_some() && self.networks.has_place(id, &network)?;
        let asks = asks_for(self, &entry.config, &network);
        if !asks && !has {
            return Err(EngineError::InvalidConfig {
                what: format!("the network {name:?}"),
                reason: format!("the container {:?} is not in it", entry.name.as_str()),
            });
        }
        let mut config = entry.config.clone();
        if asks {
            remove(&mut config, |other| self.networks.is(other, &network));
            self.registry.set_config(id, &config)?;
        }
        match running {
            Some(running) => {
                let entry = Entry { config, ..entry };
                self.networks.leave(&entry, &network, &running)
            }
            None => Ok(()),
        }
    }

    /// The run of a container, if there is one.
    fn running(&self, entry: &Entry) -> Result<Option<Running>> {
        let failed = |error: std::io::Error| EngineError::Runtime {
            action: "find the container's network",
            reason: error.to_string(),
        };
        if self.observe(entry)?.init_pid.is_none() {
            return Ok(None);
        }
        let Some((init, shim)) = self.run_of(&entry.id)? else {
            return Ok(None);
        };
        let namespace = namespace_of(init.pid).map_err(failed)?;
        // It may have ended, and its number be another's.
        if init.open().map_err(failed)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Running {
            namespace,
            shim,
            etc: self.layout.container(&entry.id).etc(),
        }))
    }
}

/// Whether the configuration has the network of this id.
fn asks_for(engine: &EmbeddedEngine, config: &ContainerConfig, id: &str) -> bool {
    let first = match &config.network {
        Network::Named(name) => Some(name),
        _ => None,
    };
    let further = config.networking.further.iter();
    first
        .into_iter()
        .chain(further.map(|other| &other.network))
        .any(|name| engine.networks.is(name, id))
}

fn add(config: &mut ContainerConfig, wanted: &Membership) -> Result<()> {
    let refused = |reason: String| {
        Err(EngineError::InvalidConfig {
            what: format!("the network {:?}", wanted.network),
            reason,
        })
    };
    let networking = &mut config.networking;
    match &config.network {
        Network::Named(_) if networking.further.len() + 1 >= MOST => {
            refused(format!("a container can be in {MOST} networks"))
        }
        Network::Named(_) => {
            networking.further.push(wanted.clone());
            Ok(())
        }
        Network::None => {
            config.network = Network::Named(wanted.network.clone());
            networking.aliases.clone_from(&wanted.aliases);
            networking.address = wanted.address;
            Ok(())
        }
        Network::Host => refused("a container with --network host has no link of its own".into()),
        Network::Container(other) => refused(format!(
            "the container shares the network of {other:?}; connect that one"
        )),
    }
}

/// Takes a network out; the next takes the place of the first, and its published ports.
fn remove(config: &mut ContainerConfig, is_it: impl Fn(&str) -> bool) {
    let networking = &mut config.networking;
    networking.further.retain(|other| !is_it(&other.network));
    if !matches!(&config.network, Network::Named(first) if is_it(first)) {
        return;
    }
    let next = if networking.further.is_empty() {
        Membership::default()
    } else {
        networking.further.remove(0)
    };
    networking.aliases = next.aliases;
    networking.address = next.address;
    config.network = if next.network.is_empty() {
        Network::None
    } else {
        Network::Named(next.network)
    };
}
