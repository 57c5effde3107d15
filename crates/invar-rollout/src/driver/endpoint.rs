//! How a container is reached.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use invar_engine::{Container, Engine, Network};
use serde_json::Value;

use super::store::{Result, RolloutError};

/// Label with the host's port that stands for a port of the container, which comes after it.
pub(super) const PORT_LABEL: &str = "invar.port.";

/// The address at which a running container's port is reached from the host.
///
/// With a network of its own that is the container's address on its bridge. With the host's network
/// each container listens on a port of its own, which it was told in `PORT`.
pub fn endpoint(engine: &dyn Engine, container: &Container, port: u16) -> Result<SocketAddr> {
    let missing = |reason: &str| RolloutError::NoAddress {
        name: container.name.as_str().to_owned(),
        port,
        reason: reason.to_owned(),
    };
    if container.config.network == Network::Host {
        let label = container.config.labels.get(&format!("{PORT_LABEL}{port}"));
        let port = label.and_then(|text| text.parse().ok());
        return port
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .ok_or_else(|| missing("it was not made by a deploy"));
    }
    let settings = engine.settings(&container.id)?;
    address(&settings)
        .map(|ip| SocketAddr::new(ip, port))
        .ok_or_else(|| missing("it is in no network that the host reaches"))
}

/// The first address in what an engine says of a container: Docker's form, or the embedded one's.
fn address(settings: &Value) -> Option<IpAddr> {
    let parse = |value: &Value| value.as_str()?.parse().ok();
    let docker = &settings["NetworkSettings"];
    let networks = docker["Networks"].as_object();
    let of_networks = networks
        .into_iter()
        .flatten()
        .find_map(|(_, network)| parse(&network["IPAddress"]));
    let embedded = settings["endpoints"].as_array();
    let of_embedded = embedded
        .into_iter()
        .flatten()
        .find_map(|endpoint| parse(&endpoint["address"][0]));
    of_networks
        .or_else(|| parse(&docker["IPAddress"]))
        .or(of_embedded)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_is_found_in_either_engine_s_words() {
        for (settings, expected) in [
            (
                json!({"NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}}}),
                Some("172.17.0.2"),
            ),
            (
                json!({"NetworkSettings": {"IPAddress": "172.17.0.3", "Networks": {}}}),
                Some("172.17.0.3"),
            ),
            (
                json!({"endpoints": [{"network": "bridge", "address": ["10.88.0.2", 16]}]}),
                Some("10.88.0.2"),
            ),
            (json!({"NetworkSettings": {"IPAddress": ""}}), None),
            (json!({"endpoints": [{"address": null}]}), None),
            (json!(null), None),
        ] {
            let found = address(&settings).map(|ip| ip.to_string());
            assert_eq!(found.as_deref(), expected, "{settings}");
        }
    }
}
