//! Where a container about to be started is among networks.

use std::os::fd::OwnedFd;

use super::registry::Entry;
use super::runtime::spec;
use super::shim::Place;
use super::{EmbeddedEngine, network};
use crate::config::Network;
use crate::error::{EngineError, Result};

/// A container's network, made or found.
pub(super) struct Placed {
    pub(super) place: Place,
    /// The files in `/etc` that tell the container of it.
    pub(super) files: Vec<(String, String)>,
    /// What belongs to it for as long as the container runs.
    pub(super) handles: Vec<OwnedFd>,
}

impl EmbeddedEngine {
    /// Makes or finds the network of a container whose status is locked.
    pub(super) fn place(&self, entry: &Entry) -> Result<Placed> {
        let name = spec::hostname(&entry.id, &entry.config);
        let networking = &entry.config.networking;
        let (place, (hosts, resolver), handles) = match &entry.config.network {
            Network::None => (
                Place::Alone,
                network::files_without(name, networking),
                Vec::new(),
            ),
            Network::Host => (Place::Host, network::files_of_host(networking), Vec::new()),
            Network::Container(other) => {
                let (namespace, files) = self.place_of(other)?;
                (Place::Other, files, vec![namespace])
            }
            Network::Named(network) => {
                let attached = self.networks.attach(entry, network)?;
                let files = (attached.hosts, attached.resolver);
                (Place::Network(attached.wiring), files, attached.ports)
            }
        };
        let files = [
            ("hostname", format!("{name}\n")),
            ("hosts", hosts),
            ("resolv.conf", resolver),
        ];
        Ok(Placed {
            place,
            files: files.map(|(name, text)| (name.to_owned(), text)).into(),
            handles,
        })
    }

    /// The network namespace of a running container, and its files.
    fn place_of(&self, other: &str) -> Result<(OwnedFd, (String, String))> {
        let other = self.registry.find(other)?;
        let container = self.observe(&other)?;
        let Some(pid) = container.init_pid else {
            return Err(super::wrong_state(&other.name, &container.state, "running"));
        };
        let failed = |error: std::io::Error| EngineError::Runtime {
            action: "join the network of the other container",
            reason: error.to_string(),
        };
        let namespace = invar_sys::network::namespace_of(pid).map_err(failed)?;
        // It may have ended, and its number be another's.
        if self.observe(&other)?.init_pid != Some(pid) {
            return Err(failed(std::io::Error::other("it ended just now")));
        }
        Ok((namespace, self.networks.files_of(&other)?))
    }
}
