//! `--network`, `--publish` and what else connects a container, by Docker's rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, bail};
use invar_engine::embedded::DEFAULT_NETWORK;
use invar_engine::{ContainerName, HostEntry, Network, Networking, Protocol, PublishedPort};
use oci_spec::image::Config;

use super::{Host, Options};
use crate::exit::failure;

/// The most ports one flag may name; the engine limits them all together.
const LONGEST_RANGE: u16 = 512;

/// Reads the value of `--network`.
pub(super) fn network(text: &str) -> Result<Network, String> {
    match text {
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        "default" => Ok(Network::Named(DEFAULT_NETWORK.to_owned())),
        _ => match text.split_once(':') {
            Some(("container", "")) => Err("name the container: container:NAME".to_owned()),
            Some(("container", other)) => Ok(Network::Container(other.to_owned())),
            _ => ContainerName::parse(text)
                .map(|name| Network::Named(name.as_str().to_owned()))
                .map_err(|error| error.to_string()),
        },
    }
}

/// The network of a container: the one asked for; otherwise the bridge where this host can have
/// one, or when something is asked for that needs it.
pub(super) fn chosen(options: &Options, host: &Host<'_>) -> Network {
    match &options.network {
        Some(network) => network.clone(),
        None if host.has_bridges || wants_ports(options) => {
            Network::Named(DEFAULT_NETWORK.to_owned())
        }
        None => Network::None,
    }
}

fn wants_ports(options: &Options) -> bool {
    options.publish_all || !options.publish.is_empty()
}

/// Everything else about a container's place in `network`.
pub(super) fn resolve(
    options: &Options,
    image: &Config,
    network: &Network,
) -> anyhow::Result<Networking> {
    let is_user_defined = matches!(network, Network::Named(name) if name != DEFAULT_NETWORK);
    if !options.network_alias.is_empty() && !is_user_defined {
        return Err(failure(
            "--network-alias needs a network in which names are looked up",
            "make one with: invar network create NAME, and use it with --network NAME",
        ));
    }
    if options.ip.is_some() && !matches!(network, Network::Named(_)) {
        bail!("--ip needs a network of containers: --network bridge, or one you made");
    }
    if wants_ports(options) && matches!(network, Network::None | Network::Container(_)) {
        return Err(failure(
            "ports can be published only by a container with a place in a network of its own",
            "leave --network out, or publish them with the container whose network it shares",
        ));
    }
    Ok(Networking {
        // Docker's rule: all of them are the host's already.
        ports: match network {
            Network::Host => Vec::new(),
            _ => ports(options, image)?,
        },
        aliases: options
            .network_alias
            .iter()
            .map(|alias| super::host_name(alias))
            .collect::<anyhow::Result<_>>()?,
        address: options.ip,
        dns: options.dns.clone(),
        dns_search: options
            .dns_search
            .iter()
            .map(|domain| match domain.as_str() {
                "." => Ok(".".to_owned()),
                domain => super::host_name(domain),
            })
            .collect::<anyhow::Result<_>>()?,
        hosts: options
            .add_host
            .iter()
            .map(|text| host_entry(text).with_context(|| format!("--add-host {text:?}")))
            .collect::<anyhow::Result<_>>()?,
        further: Vec::new(),
    })
}

fn ports(options: &Options, image: &Config) -> anyhow::Result<Vec<PublishedPort>> {
    let mut ports = Vec::new();
    for text in &options.publish {
        ports.extend(published(text).with_context(|| format!("--publish {text:?}"))?);
    }
    if options.publish_all {
        let exposed = image
            .exposed_ports()
            .iter()
            .flatten()
            .chain(&options.expose);
        for text in exposed {
            let exposed = exposed_ports(text).with_context(|| format!("exposed port {text:?}"))?;
            let is_published = |port: &PublishedPort| {
                ports.iter().any(|other: &PublishedPort| {
                    (other.container, other.protocol) == (port.container, port.protocol)
                })
            };
            let new: Vec<_> = exposed.filter(|port| !is_published(port)).collect();
            ports.extend(new);
        }
    }
    ports.sort();
    ports.dedup();
    Ok(ports)
}

/// `[ADDRESS:][HOST:]CONTAINER[/PROTOCOL]`, where ports may be ranges of one length.
fn published(text: &str) -> anyhow::Result<Vec<PublishedPort>> {
    let (rest, protocol) = protocol(text)?;
    let (rest, inside) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((rest, inside)) => (Some(rest), inside),
    };
    let inside = range(inside)?;
    let (address, outside) = match rest {
        None => (None, ""),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, outside)) => (Some(host_address(address)?), outside),
        },
    };
    let outside = match outside {
        "" => None,
        text => Some(range(text)?),
    };
    if let Some(outside) = &outside
        && outside.clone().count() != inside.clone().count()
    {
        bail!("both ranges must have the same number of ports");
    }
    let first = outside.map(|range| *range.start());
    Ok((0..)
        .zip(inside)
        .map(|(index, container)| PublishedPort {
            container,
            protocol,
            address,
            host: first.map_or(0, |first| first + index),
        })
        .collect())
}

/// `CONTAINER[/PROTOCOL]`, each on any port of the host.
fn exposed_ports(text: &str) -> anyhow::Result<impl Iterator<Item = PublishedPort> + use<>> {
    let (rest, protocol) = protocol(text)?;
    Ok(range(rest)?.map(move |container| PublishedPort {
        container,
        protocol,
        address: None,
        host: 0,
    }))
}

fn protocol(text: &str) -> anyhow::Result<(&str, Protocol)> {
    match text.rsplit_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((rest, "tcp")) => Ok((rest, Protocol::Tcp)),
        Some((rest, "udp")) => Ok((rest, Protocol::Udp)),
        Some((_, other)) => bail!("{other:?} is not tcp or udp"),
    }
}

fn range(text: &str) -> anyhow::Result<std::ops::RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| match text.parse::<u16>() {
        Ok(0) | Err(_) => bail!("{text:?} is not a port: it must be between 1 and 65535"),
        Ok(port) => Ok(port),
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        bail!("the range {text} ends before it begins");
    }
    if last - first >= LONGEST_RANGE {
        bail!("at most {LONGEST_RANGE} ports at once; --network host has them all");
    }
    Ok(first..=last)
}

fn host_address(text: &str) -> anyhow::Result<IpAddr> {
    match without_brackets(text) {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().map(IpAddr::V4),
    }
    .with_context(|| {
        format!("{text:?} is not an address of this host (version 6 goes in brackets)")
    })
}

fn without_brackets(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

fn host_entry(text: &str) -> anyhow::Result<HostEntry> {
    let separator = if text.contains('=') { '=' } else { ':' };
    let Some((name, address)) = text.split_once(separator) else {
        bail!("it must be NAME:ADDRESS");
    };
    Ok(HostEntry {
        name: super::host_name(name)?,
        address: match address {
            "host-gateway" => None,
            text => {
                let address = without_brackets(text).unwrap_or(text).parse();
                Some(address.with_context(|| format!("{text:?} is not an address"))?)
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `invar port` and people write it: `address host>container/protocol`.
    fn shown(port: &PublishedPort) -> String {
        let address = port.address.map_or("*".to_owned(), |a| a.to_string());
        let protocol = port.protocol.as_str();
        format!("{address} {}>{}/{protocol}", port.host, port.container)
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let table: &[(&str, &[&str])] = &[
            ("80", &["* 0>80/tcp"]),
            ("8080:80", &["* 8080>80/tcp"]),
            ("53:53/udp", &["* 53>53/udp"]),
            ("127.0.0.1:8080:80", &["127.0.0.1 8080>80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1 0>80/tcp"]),
            ("[::1]:8080:80/tcp", &["::1 8080>80/tcp"]),
            ("0.0.0.0:80:80", &["0.0.0.0 80>80/tcp"]),
            (
                "8000-8002:80-82",
                &["* 8000>80/tcp", "* 8001>81/tcp", "* 8002>82/tcp"],
            ),
            ("80-81", &["* 0>80/tcp", "* 0>81/tcp"]),
        ];
        for (text, expected) in table {
            let read: Vec<String> = published(text).unwrap().iter().map(shown).collect();
            assert_eq!(read, *expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused_by_name() {
        let table = [
            ("", "is not a port"),
            ("0", "is not a port"),
            ("65536", "is not a port"),
            ("http", "is not a port"),
            ("80/sctp", "is not tcp or udp"),
            ("8000-8001:80", "same number of ports"),
            ("82-80", "ends before it begins"),
            ("1-65535", "at most 512"),
            ("localhost:80:80", "is not an address"),
            ("::1:80:80", "version 6 goes in brackets"),
            ("1.2.3:80:80", "is not an address"),
            ("-80", "is not a port"),
            ("80:", "is not a port"),
        ];
        for (text, expected) in table {
            let error = format!("{:#}", published(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn networks_are_named_as_docker_names_them() {
        let named = |name: &str| Ok(Network::Named(name.to_owned()));
        assert_eq!(network("bridge"), named("bridge"));
        assert_eq!(network("default"), named("bridge"));
        assert_eq!(network("front"), named("front"));
        assert_eq!(network("none"), Ok(Network::None));
        assert_eq!(network("host"), Ok(Network::Host));
        let other = Network::Container("web".to_owned());
        assert_eq!(network("container:web"), Ok(other));
        for wrong in ["", "a b", "container:", "a/b", "../x"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_for_the_hosts_file_are_read_in_both_forms() {
        for (text, name, address) in [
            ("db:192.0.2.7", "db", Some("192.0.2.7")),
            ("db=192.0.2.7", "db", Some("192.0.2.7")),
            ("db:::1", "db", Some("::1")),
            ("db:[::1]", "db", Some("::1")),
            (
                "host.docker.internal:host-gateway",
                "host.docker.internal",
                None,
            ),
        ] {
            let entry = host_entry(text).unwrap();
            assert_eq!(entry.name, name, "{text}");
            assert_eq!(entry.address, address.map(|a| a.parse().unwrap()), "{text}");
        }
        for wrong in [
            "db",
            "db:",
            ":192.0.2.7",
            "a b:192.0.2.7",
            "db:x\n192.0.2.1 evil",
        ] {
            assert!(host_entry(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_that_need_a_network_of_their_own_are_refused_without_one() {
        let image = Config::default();
        let refused = |options: &Options, network: &Network| {
            resolve(options, &image, network).unwrap_err().to_string()
        };
        let options = Options {
            publish: vec!["80".to_owned()],
            ..Options::default()
        };
        for network in [Network::None, Network::Container("web".to_owned())] {
            assert!(refused(&options, &network).contains("published only"));
        }
        let on_host = resolve(&options, &image, &Network::Host).unwrap();
        assert_eq!(on_host.ports, [], "all of them are there already");
        let options = Options {
            network_alias: vec!["www".to_owned()],
            ..Options::default()
        };
        let default = Network::Named(DEFAULT_NETWORK.to_owned());
        assert!(refused(&options, &default).contains("names are looked up"));
        let options = Options {
            ip: "10.0.0.2".parse().ok(),
            ..Options::default()
        };
        assert!(refused(&options, &Network::Host).contains("--ip"));
    }

    #[test]
    fn every_exposed_port_is_published_once() {
        let image: Config = serde_json::from_value(
            serde_json::json!({ "ExposedPorts": { "80/tcp": {}, "53/udp": {} } }),
        )
        .unwrap();
        let options = Options {
            publish_all: true,
            publish: vec!["8080:80".to_owned()],
            expose: vec!["90-91".to_owned()],
            ..Options::default()
        };
        let ports = ports(&options, &image).unwrap();
        let shown: Vec<String> = ports.iter().map(shown).collect();
        let expected = ["* 0>53/udp", "* 8080>80/tcp", "* 0>90/tcp", "* 0>91/tcp"];
        assert_eq!(shown, expected);
    }
}
