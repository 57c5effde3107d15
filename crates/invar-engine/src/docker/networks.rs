//! Networks and ports as Docker tells them.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::models::{ContainerInspectResponse, EndpointSettings, HostConfig, PortBinding};

use crate::config::{Networking, Protocol, PublishedPort};
use crate::container::Endpoint;

pub(super) type Ports = HashMap<String, Option<Vec<PortBinding>>>;

/// What was asked for when the container was made.
pub(super) fn asked(host: &HostConfig) -> Networking {
    let servers = host.dns.iter().flatten();
    Networking {
        ports: ports(host.port_bindings.as_ref()),
        dns: servers.filter_map(|server| server.parse().ok()).collect(),
        dns_search: host.dns_search.clone().unwrap_or_default(),
        ..Networking::default()
    }
}

/// Where the container is reached. Published ports are of all its networks; they are told with
/// the first.
pub(super) fn endpoints(answer: &ContainerInspectResponse) -> Vec<Endpoint> {
    let Some(settings) = &answer.network_settings else {
        return Vec::new();
    };
    let mut endpoints: Vec<Endpoint> = settings
        .networks
        .iter()
        .flatten()
        .map(|(name, settings)| endpoint(name, settings))
        .filter(|endpoint| endpoint.address.is_some() || endpoint.address6.is_some())
        .collect();
    endpoints.sort_by(|a, b| a.network.cmp(&b.network));
    if let Some(first) = endpoints.first_mut() {
        first.ports = ports(settings.ports.as_ref());
    }
    endpoints
}

/// Published ports as the daemon is asked for them.
pub(super) fn bindings(networking: &Networking) -> Ports {
    let mut bindings = Ports::new();
    for port in &networking.ports {
        let inside = format!("{}/{}", port.container, port.protocol.as_str());
        let binding = PortBinding {
            host_ip: port.address.map(|address| address.to_string()),
            host_port: (port.host != 0).then(|| port.host.to_string()),
        };
        bindings
            .entry(inside)
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    bindings
}

/// Lines for `/etc/hosts` as the daemon is asked for them.
pub(super) fn extra_hosts(networking: &Networking) -> Vec<String> {
    let hosts = networking.hosts.iter();
    hosts
        .map(|entry| match entry.address {
            Some(address) => format!("{}:{address}", entry.name),
            None => format!("{}:host-gateway", entry.name),
        })
        .collect()
}

fn endpoint(name: &str, settings: &EndpointSettings) -> Endpoint {
    let prefix = |length: Option<i64>| length.and_then(|length| u8::try_from(length).ok());
    let read = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
    Endpoint {
        network: name.to_owned(),
        address: read(&settings.ip_address)
            .parse()
            .ok()
            .zip(prefix(settings.ip_prefix_len)),
        gateway: read(&settings.gateway).parse().ok(),
        address6: read(&settings.global_ipv6_address)
            .parse()
            .ok()
            .zip(prefix(settings.global_ipv6_prefix_len)),
        gateway6: read(&settings.ipv6_gateway).parse().ok(),
        mac: read(&settings.mac_address),
        aliases: settings.aliases.clone().unwrap_or_default(),
        ports: Vec::new(),
    }
}

/// Bindings written as Docker writes them: `80/tcp` to an address and a port. What cannot be read
/// is left out.
fn ports(bindings: Option<&Ports>) -> Vec<PublishedPort> {
    let mut ports = Vec::new();
    for (inside, bindings) in bindings.into_iter().flatten() {
        let (number, protocol) = inside.split_once('/').unwrap_or((inside, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => continue,
        };
        let Ok(container) = number.parse() else {
            continue;
        };
        ports.extend(bindings.iter().flatten().map(|binding| {
            PublishedPort {
                container,
                protocol,
                address: read_address(binding.host_ip.as_deref()),
                host: binding
                    .host_port
                    .as_deref()
                    .and_then(|port| port.parse().ok())
                    .unwrap_or(0),
            }
        }));
    }
    ports.sort();
    ports
}

fn read_address(text: Option<&str>) -> Option<IpAddr> {
    text.and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_of_docker_become_ports_and_unknown_ones_are_left_out() {
        let binding = |address: &str, port: &str| PortBinding {
            host_ip: Some(address.to_owned()),
            host_port: Some(port.to_owned()),
        };
        let bindings: Ports = [
            ("80/tcp", Some(vec![binding("127.0.0.1", "8080")])),
            ("53/udp", Some(vec![binding("", "53")])),
            ("9/sctp", Some(vec![binding("", "9")])),
            ("x/tcp", Some(vec![binding("", "9")])),
            ("443/tcp", None),
        ]
        .map(|(inside, bindings)| (inside.to_owned(), bindings))
        .into();
        let port = |container, protocol, address, host| PublishedPort {
            container,
            protocol,
            address,
            host,
        };
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(
            ports(Some(&bindings)),
            [
                port(53, Protocol::Udp, None, 53),
                port(80, Protocol::Tcp, Some(loopback), 8080),
            ]
        );
        let networking = Networking {
            ports: ports(Some(&bindings)),
            ..Networking::default()
        };
        let asked = super::bindings(&networking);
        assert_eq!(ports(Some(&asked)), networking.ports, "as they are told");
    }
}
