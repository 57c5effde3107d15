//! Whether the fresh container may start while the old one runs.

use invar_engine::{Container, MountKind, Network};
use serde::Serialize;
use serde_json::Value;

/// Who is there first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// The fresh container is up before the old one ends: no gap.
    FreshFirst,
    /// The old container must end first.
    OldFirst {
        /// What both would need at once.
        because: String,
    },
}

impl Order {
    /// What a container's settings allow. `settings` are in the engine's own form; those of
    /// Docker's API are understood.
    pub(crate) fn of(container: &Container, settings: &Value) -> Self {
        let reasons = [
            published_port(settings),
            asked_port(container),
            host_network(container, settings),
            fixed_address(settings),
            asked_address(container),
            writable_volume(container),
        ];
        match reasons.into_iter().flatten().next() {
            Some(because) => Self::OldFirst { because },
            None => Self::FreshFirst,
        }
    }
}

fn published_port(settings: &Value) -> Option<String> {
    let ports = settings.pointer("/HostConfig/PortBindings")?.as_object()?;
    let bindings = ports.values().filter_map(Value::as_array).flatten();
    let port = bindings
        .filter_map(|binding| binding.get("HostPort")?.as_str())
        // Without a number the engine chooses one, another for each container.
        .find(|port| !port.is_empty() && *port != "0")?;
    Some(format!("it publishes the host's port {port}"))
}

fn asked_port(container: &Container) -> Option<String> {
    let mut ports = container.config.networking.ports.iter();
    let port = ports.find(|port| port.host != 0)?;
    Some(format!("it publishes the host's port {}", port.host))
}

fn asked_address(container: &Container) -> Option<String> {
    let address = container.config.networking.address?;
    Some(format!("it has the fixed address {address}"))
}

fn host_network(container: &Container, settings: &Value) -> Option<String> {
    let mode = settings.pointer("/HostConfig/NetworkMode");
    let is_host =
        container.config.network == Network::Host || mode.and_then(Value::as_str) == Some("host");
    is_host.then(|| "it shares the host's network".to_owned())
}

fn fixed_address(settings: &Value) -> Option<String> {
    let networks = settings.pointer("/NetworkSettings/Networks")?.as_object()?;
    let address = networks
        .values()
        .filter_map(|network| network.pointer("/IPAMConfig/IPv4Address")?.as_str())
        .find(|address| !address.is_empty())?;
    Some(format!("it has the fixed address {address}"))
}

/// Two databases on one volume would destroy it.
fn writable_volume(container: &Container) -> Option<String> {
    let mut mounts = container.config.mounts.iter();
    mounts.find_map(|mount| match &mount.kind {
        MountKind::Volume { name } if !mount.read_only => {
            Some(format!("it writes to the volume {name:?}"))
        }
        _ => None,
    })
}
