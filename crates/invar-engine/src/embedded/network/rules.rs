//! The rules of all networks as one table of the packet filter. Nothing outside that table is
//! read or written.
//!
//! The table is written whole, in one transaction of the kernel, from what the state database
//! says. Its digest is the name of an empty chain in it: a start that changes nothing asks the
//! kernel for that chain and is done, without starting a program.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

use super::subnet::{PREFIX6, at6};
use super::table::{EndpointRow, NetworkRow};
use crate::config::PublishedPort;
use crate::container::hex;
use crate::error::{EngineError, Result};

/// Where distributions put the program.
const NFT: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/bin/nft",
    "/usr/local/sbin/nft",
];
/// The port of name servers.
const NAMES: u16 = 53;

/// Makes the table say what the networks and endpoints ask for.
pub(super) fn apply(table: &str, networks: &[NetworkRow], endpoints: &[EndpointRow]) -> Result<()> {
    let rules = render(networks, endpoints);
    let mark = format!("revision-{}", &hex(&Sha256::digest(&rules))[..16]);
    let has = |chain: &str| {
        invar_sys::network::has_chain(table, chain).map_err(|error| EngineError::Runtime {
            action: "ask the packet filter for its rules",
            reason: error.to_string(),
        })
    };
    if has(&mark)? {
        return Ok(());
    }
    // The first line makes the second right also when there is no table yet.
    let mut script = format!("add table inet {table}\ndelete table inet {table}\n");
    if !networks.is_empty() {
        writeln!(
            script,
            "table inet {table} {{\nchain {mark} {{}}\n{rules}}}"
        )
        .expect("writing to a String succeeds");
    }
    run(&script)
}

/// The program that writes rules.
pub(super) fn program() -> Option<&'static str> {
    NFT.into_iter().find(|path| Path::new(path).is_file())
}

fn run(script: &str) -> Result<()> {
    let Some(program) = program() else {
        return Err(EngineError::Unsupported {
            what: "a network for containers".to_owned(),
            reason: "the program nft is not installed; install the package nftables, or choose \
                     --network none or --network host"
                .to_owned(),
        });
    };
    let failed = |reason: String| EngineError::Runtime {
        action: "write the rules of the networks",
        reason,
    };
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("{program}: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // It may end before it has read everything; its own words say why.
        input.write_all(script.as_bytes()).ok();
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it said nothing");
    Err(failed(format!("{program}: {first}")))
}

fn render(networks: &[NetworkRow], endpoints: &[EndpointRow]) -> String {
    let mut text = Published::of(networks, endpoints).maps();
    let mut chain = |name: &str, hook: &str, rules: Vec<String>| {
        let rules = rules.join("\n");
        let hook = match hook {
            "" => String::new(),
            hook => format!("type {hook}; policy accept;\n"),
        };
        writeln!(text, "chain {name} {{\n{hook}{rules}\n}}").expect("writing to a String succeeds");
    };
    chain(
        "guard",
        "filter hook prerouting priority raw",
        guard(networks),
    );
    chain("published", "", published());
    chain(
        "arriving",
        "nat hook prerouting priority dstnat",
        arriving(networks),
    );
    chain(
        "from_host",
        "nat hook output priority -100",
        vec!["jump published".to_owned()],
    );
    chain(
        "to_host",
        "filter hook input priority filter",
        to_host(networks),
    );
    chain(
        "forward",
        "filter hook forward priority filter",
        forward(networks),
    );
    chain(
        "leaving",
        "nat hook postrouting priority srcnat",
        leaving(networks),
    );
    text
}

/// Nobody sends in another's name, and nobody reaches the host's loopback, which the bridges'
/// `route_localnet` would allow (CVE-2020-8558).
fn guard(networks: &[NetworkRow]) -> Vec<String> {
    let mut rules = Vec::new();
    for network in networks {
        let (bridge, subnet) = (&network.bridge, network.subnet);
        rules.push(format!("iifname {bridge:?} ip daddr 127.0.0.0/8 drop"));
        rules.push(format!("iifname {bridge:?} ip saddr != {subnet} drop"));
        if let Some(first) = network.subnet6 {
            rules.push(format!(
                "iifname {bridge:?} ip6 saddr != {{ ::, fe80::/10, {first}/{PREFIX6} }} drop"
            ));
        }
    }
    rules
}

/// To a container, by where on the host a packet was going.
fn published() -> Vec<String> {
    [
        "dnat ip to ip daddr . meta l4proto . th dport map @exact4",
        "dnat ip6 to ip6 daddr . meta l4proto . th dport map @exact6",
        "meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @any4",
        "ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @any6",
    ]
    .map(|rule| format!("meta l4proto {{ tcp, udp }} {rule}"))
    .into()
}

fn arriving(networks: &[NetworkRow]) -> Vec<String> {
    let mut rules = Vec::new();
    for network in networks {
        let Some(port) = network.resolver_port else {
            continue;
        };
        let (bridge, gateway) = (&network.bridge, network.subnet.gateway());
        for protocol in ["udp", "tcp"] {
            rules.push(format!(
                "iifname {bridge:?} ip daddr {gateway} {protocol} dport {NAMES} dnat ip to \
                 {gateway}:{port}"
            ));
        }
    }
    rules.push("jump published".to_owned());
    rules
}

/// What passes between networks: answers, and what was published; nothing else.
fn forward(networks: &[NetworkRow]) -> Vec<String> {
    let of = |wanted: fn(&&NetworkRow) -> bool| -> Vec<String> {
        let some = networks.iter().filter(wanted);
        some.map(|network| format!("{:?}", network.bridge))
            .collect()
    };
    let mut rules: Vec<String> = networks
        .iter()
        .map(|network| format!("iifname {0:?} oifname {0:?} accept", network.bridge))
        .collect();
    let internal = of(|network| network.internal).join(", ");
    if !internal.is_empty() {
        rules.push(format!("iifname {{ {internal} }} drop"));
        rules.push(format!("oifname {{ {internal} }} drop"));
    }
    let all = of(|_| true).join(", ");
    if !all.is_empty() {
        rules.push(format!(
            "oifname {{ {all} }} ct state established,related accept"
        ));
        rules.push(format!("oifname {{ {all} }} ct status dnat accept"));
        rules.push(format!("oifname {{ {all} }} drop"));
    }
    rules
}

/// What an internal network asks of the host itself: names, and nothing else.
fn to_host(networks: &[NetworkRow]) -> Vec<String> {
    let mut rules = Vec::new();
    for network in networks.iter().filter(|network| network.internal) {
        let (bridge, gateway) = (&network.bridge, network.subnet.gateway());
        rules.push(format!(
            "iifname {bridge:?} ct state established,related accept"
        ));
        rules.push(format!("iifname {bridge:?} meta l4proto ipv6-icmp accept"));
        if let Some(port) = network.resolver_port {
            rules.push(format!(
                "iifname {bridge:?} ip daddr {gateway} meta l4proto {{ tcp, udp }} \
                 th dport {port} accept"
            ));
        }
        rules.push(format!("iifname {bridge:?} drop"));
    }
    rules
}

/// In whose name packets leave: the host's, for what its neighbours could not answer.
fn leaving(networks: &[NetworkRow]) -> Vec<String> {
    let mut rules = Vec::new();
    for network in networks.iter().filter(|network| !network.internal) {
        let (bridge, subnet) = (&network.bridge, network.subnet);
        rules.push(format!(
            "ip saddr {subnet} oifname != {bridge:?} masquerade"
        ));
        rules.push(format!(
            "oifname {bridge:?} ip saddr {{ 127.0.0.0/8, {subnet} }} ct status dnat masquerade"
        ));
        if let Some(first) = network.subnet6 {
            let subnet6 = format!("{first}/{PREFIX6}");
            rules.push(format!(
                "ip6 saddr {subnet6} oifname != {bridge:?} masquerade"
            ));
            rules.push(format!(
                "oifname {bridge:?} ip6 saddr {subnet6} ct status dnat masquerade"
            ));
        }
    }
    rules
}

/// The elements of the four maps.
#[derive(Default)]
struct Published {
    any4: Vec<String>,
    any6: Vec<String>,
    exact4: Vec<String>,
    exact6: Vec<String>,
}

impl Published {
    fn of(networks: &[NetworkRow], endpoints: &[EndpointRow]) -> Self {
        let mut published = Self::default();
        for endpoint in endpoints {
            let network = networks.iter().find(|other| other.id == endpoint.network);
            let Some(network) = network else { continue };
            for port in &endpoint.ports {
                published.add(network, endpoint.offset, port);
            }
        }
        published
    }

    fn add(&mut self, network: &NetworkRow, offset: u32, port: &PublishedPort) {
        let PublishedPort {
            container, host, ..
        } = port;
        let outside = format!("{} . {host}", port.protocol.as_str());
        let inside4 = network.subnet.container(offset);
        let inside6 = network.subnet6.map(|first| at6(first, offset));
        let inside4 = inside4.map(|address| format!("{address} . {container}"));
        let inside6 = inside6.map(|address| format!("{address} . {container}"));
        let mut add =
            |map: fn(&mut Self) -> &mut Vec<String>, key: String, inside: &Option<String>| {
                if let Some(inside) = inside {
                    map(self).push(format!("{key} : {inside}"));
                }
            };
        match port.address {
            None => {
                add(|maps| &mut maps.any4, outside.clone(), &inside4);
                add(|maps| &mut maps.any6, outside, &inside6);
            }
            Some(IpAddr::V4(address)) if address.is_unspecified() => {
                add(|maps| &mut maps.any4, outside, &inside4);
            }
            Some(IpAddr::V6(address)) if address.is_unspecified() => {
                add(|maps| &mut maps.any6, outside, &inside6);
            }
            Some(IpAddr::V4(address)) => {
                add(
                    |maps| &mut maps.exact4,
                    format!("{address} . {outside}"),
                    &inside4,
                );
            }
            Some(IpAddr::V6(address)) => {
                add(
                    |maps| &mut maps.exact6,
                    format!("{address} . {outside}"),
                    &inside6,
                );
            }
        }
    }

    fn maps(&self) -> String {
        let maps = [
            ("any4", "", "ipv4_addr", &self.any4),
            ("any6", "", "ipv6_addr", &self.any6),
            ("exact4", "ipv4_addr . ", "ipv4_addr", &self.exact4),
            ("exact6", "ipv6_addr . ", "ipv6_addr", &self.exact6),
        ];
        let mut text = String::new();
        for (name, key, value, elements) in maps {
            let elements = match elements.as_slice() {
                [] => String::new(),
                some => format!(" elements = {{ {} }};", some.join(", ")),
            };
            writeln!(
                text,
                "map {name} {{ type {key}inet_proto . inet_service : {value} . inet_service;\
                 {elements} }}"
            )
            .expect("writing to a String succeeds");
        }
        text
    }
}
