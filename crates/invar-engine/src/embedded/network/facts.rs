//! What networks of containers need of this host and what may stand in their way, as `doctor`
//! shows it. Nothing is changed by asking.

use std::process::{Command, Stdio};

use serde::Serialize;
use serde_json::Value;

use super::bridge::{self, setting6};
use super::rules;
use super::{Networks, table};
use crate::config::PublishedPort;
use crate::container::ContainerId;
use crate::error::Result;

/// Bytes of a listing of chains.
const MOST_TEXT: usize = 4 << 20;
/// How the name of every bridge begins.
const BRIDGES: &str = "invar";

/// The state of this host as far as networks depend on it.
#[derive(Debug, Clone, Serialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one independent fact of the host"
)]
pub struct NetworkFacts {
    /// The program that writes rules; without it there is no network but `none` and `host`.
    pub nft: Option<&'static str>,
    /// Whether the kernel's packet filter answers.
    pub has_packet_filter: bool,
    /// Whether the kernel speaks version 6 of IP.
    pub has_ipv6: bool,
    /// Whether packets pass from one link to another; the first container that needs it switches
    /// it on.
    pub forwards: bool,
    /// The same in version 6.
    pub forwards6: bool,
    /// Chains of others that decide about forwarded packets. One with the policy `drop` keeps
    /// published ports and the way out closed unless a rule in it lets them pass: that is its
    /// owner's choice, and Invar does not go around it.
    pub others: Vec<ForeignChain>,
    /// What the host passes on to containers at this moment. A firewall that filters only what is
    /// for the host itself (hook `input`) never sees these packets.
    pub published: Vec<(ContainerId, PublishedPort)>,
}

/// A chain of another program on the way that forwarded packets take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForeignChain {
    /// Family of the table: `ip`, `ip6` or `inet`.
    pub family: String,
    /// Name of the table.
    pub table: String,
    /// Name of the chain.
    pub chain: String,
    /// Whether what no rule of it accepts is dropped.
    pub drops: bool,
    /// Whether its table speaks of Invar's bridges, so that somebody has thought of them.
    pub knows_bridges: bool,
}

impl ForeignChain {
    /// Whether it keeps published ports and the way out of containers closed, as far as can be
    /// told without following every rule.
    pub fn is_in_the_way(&self) -> bool {
        self.drops && !self.knows_bridges
    }
}

impl Networks {
    /// Looks at this host.
    pub(in crate::embedded) fn facts(&self) -> Result<NetworkFacts> {
        let own = self.rules_table();
        let endpoints = self.with(table::endpoints)?;
        let forward = std::path::Path::new("/proc/sys/net/ipv4/ip_forward");
        Ok(NetworkFacts {
            nft: rules::program(),
            has_packet_filter: invar_sys::network::has_chain(&own, "guard").is_ok(),
            has_ipv6: bridge::has_ipv6(),
            forwards: bridge::is(forward, "1"),
            forwards6: bridge::is(&setting6("all", "forwarding"), "1"),
            others: foreign_chains(&own),
            published: endpoints
                .into_iter()
                .flat_map(|row| {
                    let id = row.container;
                    row.ports.into_iter().map(move |port| (id.clone(), port))
                })
                .collect(),
        })
    }
}

/// None when they cannot be listed, which the missing program says already.
fn foreign_chains(own: &str) -> Vec<ForeignChain> {
    let listing = ask(&["--json", "list", "chains"]).unwrap_or_default();
    let mut chains = parse(&listing, own);
    for chain in chains.iter_mut().filter(|chain| chain.drops) {
        let rules = ask(&["list", "table", &chain.family, &chain.table]).unwrap_or_default();
        chain.knows_bridges = String::from_utf8_lossy(&rules).contains(BRIDGES);
    }
    chains
}

/// What the program says to these arguments.
fn ask(arguments: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new(rules::program()?)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .ok()?;
    (output.stdout.len() <= MOST_TEXT).then_some(output.stdout)
}

fn parse(listing: &[u8], own: &str) -> Vec<ForeignChain> {
    let listing: Value = serde_json::from_slice(listing).unwrap_or_default();
    let items = listing["nftables"].as_array();
    let chains = items.into_iter().flatten().map(|item| &item["chain"]);
    chains
        .filter(|chain| chain["hook"] == "forward")
        .map(|chain| {
            let text = |name: &str| chain[name].as_str().unwrap_or_default().to_owned();
            ForeignChain {
                family: text("family"),
                table: text("table"),
                chain: text("name"),
                drops: chain["policy"] == "drop",
                knows_bridges: false,
            }
        })
        .filter(|chain| chain.family != "inet" || chain.table != own)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_others_are_told_with_what_they_do() {
        let listing = br#"{"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1,
                       "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 2,
                       "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "invar", "name": "forward", "handle": 3,
                       "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}},
            {"chain": {"family": "inet", "table": "invar", "name": "published", "handle": 4}}
        ]}"#;
        let chain = ForeignChain {
            family: "ip".to_owned(),
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            drops: true,
            knows_bridges: false,
        };
        assert!(chain.is_in_the_way());
        assert_eq!(parse(listing, "invar"), [chain]);
        assert!(parse(b"not json", "invar").is_empty());
    }
}
