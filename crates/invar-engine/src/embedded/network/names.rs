//! The files in `/etc` that tell a container who it is and whom to ask for names.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use fs_err as fs;

use crate::config::Networking;

/// Where a host says whom it asks; the first file that names a server outside the host counts.
/// The second is what `systemd-resolved` itself asks.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// More servers than that are ignored by every resolver (`resolv.conf(5)`).
const MOST_SERVERS: usize = 3;
/// Bytes of a host's file; it is somebody's text.
const MOST_TEXT: usize = 64 << 10;

/// What a host's `resolv.conf` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostResolver {
    pub(super) servers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
}

impl HostResolver {
    /// The servers a container can reach too.
    pub(super) fn read() -> Self {
        let texts = RESOLVERS.map(|path| fs::read_to_string(Path::new(path)).unwrap_or_default());
        let mut read = texts.iter().map(|text| Self::parse(text));
        let first = read.next().unwrap_or_default();
        let mut chosen = if first.reachable().next().is_none() {
            read.find(|other| other.reachable().next().is_some())
                .unwrap_or(first)
        } else {
            first
        };
        chosen.servers = chosen.reachable().collect();
        chosen
    }

    /// Every server, also those only the host itself can ask.
    pub(super) fn of_host() -> Self {
        Self::parse(&fs::read_to_string(Path::new(RESOLVERS[0])).unwrap_or_default())
    }

    fn reachable(&self) -> impl Iterator<Item = IpAddr> {
        let servers = self.servers.iter().copied();
        servers.filter(|server| !server.is_loopback() && !server.is_unspecified())
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let text = text.get(..MOST_TEXT).unwrap_or(text);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default();
            let words = words.map(str::to_owned);
            match keyword {
                "nameserver" => {
                    // A zone after `%` names a link of the host: no container has it.
                    found
                        .servers
                        .extend(words.filter_map(|word| word.parse::<IpAddr>().ok()));
                }
                "search" | "domain" => found.search = words.collect(),
                "options" => found.options.extend(words),
                _ => {}
            }
        }
        found.servers.truncate(MOST_SERVERS);
        found
    }
}

/// `resolv.conf` of a container that asks these servers.
pub(super) fn resolver_file(
    servers: &[IpAddr],
    networking: &Networking,
    host: &HostResolver,
) -> String {
    let mut text = String::new();
    for server in servers.iter().take(MOST_SERVERS) {
        line(&mut text, "nameserver", &server.to_string());
    }
    let search = if networking.dns_search.is_empty() {
        &host.search
    } else {
        &networking.dns_search
    };
    // A lone dot is how Docker's users say "none".
    if !search.is_empty() && search != &["."] {
        line(&mut text, "search", &search.join(" "));
    }
    if !host.options.is_empty() {
        line(&mut text, "options", &host.options.join(" "));
    }
    text
}

/// `hosts` of a container with these addresses.
pub(super) fn hosts_file(
    name: &str,
    addresses: &[IpAddr],
    gateway: Option<IpAddr>,
    networking: &Networking,
) -> String {
    let own = if addresses.is_empty() { name } else { "" };
    let mut text = String::new();
    line(
        &mut text,
        "127.0.0.1",
        format!("localhost {own}").trim_end(),
    );
    line(&mut text, "::1", "localhost ip6-localhost ip6-loopback");
    for address in addresses {
        line(&mut text, &address.to_string(), name);
    }
    text + &host_lines(gateway, networking)
}

/// The lines of `hosts` that were asked for; `gateway` is where the host is.
pub(super) fn host_lines(gateway: Option<IpAddr>, networking: &Networking) -> String {
    let mut text = String::new();
    for entry in &networking.hosts {
        if let Some(address) = entry.address.or(gateway) {
            line(&mut text, &address.to_string(), &entry.name);
        }
    }
    text
}

fn line(text: &mut String, first: &str, rest: &str) {
    let separator = if first.parse::<IpAddr>().is_ok() {
        '\t'
    } else {
        ' '
    };
    writeln!(text, "{first}{separator}{rest}").expect("writing to a String succeeds");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostEntry;

    #[test]
    fn a_host_file_is_read_as_resolvers_read_it() {
        let text = "# comment\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver ::1\n\
                    search a.test b.test\noptions ndots:2\nnonsense\nnameserver\n";
        let found = HostResolver::parse(text);
        let servers: Vec<IpAddr> = ["192.0.2.1", "::1"].map(|s| s.parse().unwrap()).into();
        assert_eq!(found.servers, servers);
        let reachable: Vec<_> = found.reachable().collect();
        assert_eq!(reachable, servers[..1]);
        let file = resolver_file(&reachable, &Networking::default(), &found);
        assert_eq!(
            file,
            "nameserver 192.0.2.1\nsearch a.test b.test\noptions ndots:2\n"
        );
        let own = Networking {
            dns_search: vec![".".to_owned()],
            ..Networking::default()
        };
        assert!(!resolver_file(&reachable, &own, &found).contains("search"));
    }

    #[test]
    fn a_container_finds_itself_and_whom_it_was_told_of() {
        let networking = Networking {
            hosts: vec![
                HostEntry {
                    name: "db".to_owned(),
                    address: Some("192.0.2.7".parse().unwrap()),
                },
                HostEntry {
                    name: "host".to_owned(),
                    address: None,
                },
            ],
            ..Networking::default()
        };
        let addresses = ["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let gateway = "10.1.0.1".parse().ok();
        let text = hosts_file("web", &addresses, gateway, &networking);
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.0.2\tweb\n\
             fd00::2\tweb\n192.0.2.7\tdb\n10.1.0.1\thost\n"
        );
        let alone = hosts_file("web", &[], None, &Networking::default());
        assert!(alone.starts_with("127.0.0.1\tlocalhost web\n"), "{alone}");
    }
}
