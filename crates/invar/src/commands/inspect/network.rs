//! A container's network in the form of `docker inspect`.

use invar_engine::{Container, Endpoint, Networking, PublishedPort};
use serde_json::{Map, Value, json};

/// `NetworkSettings`: where the container is reached while it runs.
pub(super) fn settings(container: &Container) -> Value {
    let none = Endpoint::default();
    let first = container.endpoints.first().unwrap_or(&none);
    let mut value = endpoint(first);
    value["Ports"] = ports(&first.ports);
    let networks = container.endpoints.iter().map(|place| {
        let mut value = endpoint(place);
        value["Aliases"] = json!(place.aliases);
        let networking = &container.config.networking;
        let mut further = networking.further.iter();
        let address = further
            .find(|other| other.network == place.network)
            .map_or(networking.address, |other| other.address);
        value["IPAMConfig"] =
            address.map_or(Value::Null, |address| json!({ "IPv4Address": address }));
        (place.network.clone(), value)
    });
    value["Networks"] = Value::Object(networks.collect());
    value
}

/// Docker writes an empty text for an address there is not.
fn endpoint(place: &Endpoint) -> Value {
    let text = |address: Option<String>| address.unwrap_or_default();
    json!({
        "IPAddress": text(place.address.map(|(address, _)| address.to_string())),
        "IPPrefixLen": place.address.map_or(0, |(_, prefix)| prefix),
        "Gateway": text(place.gateway.map(|address| address.to_string())),
        "GlobalIPv6Address": text(place.address6.map(|(address, _)| address.to_string())),
        "GlobalIPv6PrefixLen": place.address6.map_or(0, |(_, prefix)| prefix),
        "IPv6Gateway": text(place.gateway6.map(|address| address.to_string())),
        "MacAddress": place.mac,
    })
}

/// `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`
pub(super) fn ports(ports: &[PublishedPort]) -> Value {
    let mut bindings: Map<String, Value> = Map::new();
    for port in ports {
        let name = format!("{}/{}", port.container, port.protocol.as_str());
        let address = port.address.map(|address| address.to_string());
        let host = if port.host == 0 {
            String::new()
        } else {
            port.host.to_string()
        };
        let binding = json!({ "HostIp": address.unwrap_or_default(), "HostPort": host });
        match bindings.entry(name).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(binding),
            other => *other = binding,
        }
    }
    Value::Object(bindings)
}

/// `NAME:ADDRESS`, as they were asked for.
pub(super) fn extra_hosts(networking: &Networking) -> Vec<String> {
    let address = |entry: &invar_engine::HostEntry| match entry.address {
        Some(address) => address.to_string(),
        None => "host-gateway".to_owned(),
    };
    let hosts = networking.hosts.iter();
    hosts
        .map(|entry| format!("{}:{}", entry.name, address(entry)))
        .collect()
}
