//! Ports of the host, held for a container as long as it runs.
//!
//! A held port is bound and never listens: whoever reaches it past the rules is refused at once,
//! and no other program can take it. The shim inherits the handles, so they end with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with,
    sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
};

use super::bridge;
use crate::config::{Protocol, PublishedPort};
use crate::error::{EngineError, Result};

/// Each port is an open file of the shim.
pub(super) const MOST: usize = 512;

/// Ports that are ours until the handles are closed.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// As asked for, with the host's port chosen where none was.
    pub(super) ports: Vec<PublishedPort>,
    pub(super) handles: Vec<OwnedFd>,
}

/// Takes the ports of the host that a container asks for.
pub(super) fn hold(asked: &[PublishedPort]) -> Result<Held> {
    if asked.len() > MOST {
        return Err(EngineError::InvalidConfig {
            what: format!("{} published ports", asked.len()),
            reason: format!(
                "at most {MOST} are possible; --network host has them all without publishing"
            ),
        });
    }
    let mut held = Held::default();
    for port in asked {
        let (handle, host) = hold_one(port)?;
        held.ports.push(PublishedPort { host, ..*port });
        held.handles.push(handle);
    }
    Ok(held)
}

fn hold_one(port: &PublishedPort) -> Result<(OwnedFd, u16)> {
    let everywhere = if bridge::has_ipv6() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let address = SocketAddr::new(port.address.unwrap_or(everywhere), port.host);
    let both = port.address.is_none();
    let taken = bound(address, port.protocol, both, false).or_else(|errno| {
        // Only connections of a program that has ended may be left on it.
        match (errno, port.protocol) {
            (Errno::ADDRINUSE, Protocol::Tcp) => bound(address, port.protocol, both, true),
            _ => Err(errno),
        }
    });
    match taken {
        Ok(taken) => Ok(taken),
        Err(Errno::ADDRINUSE) => Err(EngineError::PortTaken {
            port: describe(port),
        }),
        Err(errno) => Err(EngineError::InvalidConfig {
            what: format!("published port {}", describe(port)),
            reason: match errno {
                Errno::ADDRNOTAVAIL => "this host does not have that address".to_owned(),
                other => other.to_string(),
            },
        }),
    }
}

fn bound(
    address: SocketAddr,
    protocol: Protocol,
    both: bool,
    reuse: bool,
) -> rustix::io::Result<(OwnedFd, u16)> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, !both)?;
    }
    if reuse {
        set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    let port = SocketAddr::try_from(getsockname(&socket)?)?.port();
    Ok((socket, port))
}

/// Whether both cannot be passed on, because some packet would be for either.
pub(super) fn collide(one: &PublishedPort, other: &PublishedPort) -> bool {
    let covers = |a: Option<IpAddr>, b: Option<IpAddr>| match (a, b) {
        (None, _) => true,
        (Some(a), Some(b)) => a == b || (a.is_unspecified() && a.is_ipv4() == b.is_ipv4()),
        (Some(_), None) => false,
    };
    one.protocol == other.protocol
        && one.host == other.host
        && (covers(one.address, other.address) || covers(other.address, one.address))
}

/// A port of the host as people write it: `127.0.0.1:8080/tcp`.
pub(super) fn describe(port: &PublishedPort) -> String {
    let PublishedPort { host, protocol, .. } = port;
    let protocol = protocol.as_str();
    match port.address {
        None => format!("{host}/{protocol}"),
        Some(address) => format!("{}/{protocol}", SocketAddr::new(address, *host)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn port(address: Option<&str>, host: u16, protocol: Protocol) -> PublishedPort {
        PublishedPort {
            container: 80,
            protocol,
            address: address.map(|text| text.parse().unwrap()),
            host,
        }
    }

    #[test]
    fn a_held_port_is_refused_to_others_and_free_again_afterwards() {
        let asked = [
            port(Some("127.0.0.1"), 0, Protocol::Tcp),
            port(Some("127.0.0.1"), 0, Protocol::Udp),
        ];
        let held = hold(&asked).unwrap();
        let [tcp, udp] = held.ports[..] else { panic!() };
        assert!(tcp.host != 0 && udp.host != 0);
        assert!(TcpListener::bind(("127.0.0.1", tcp.host)).is_err());
        assert!(UdpSocket::bind(("127.0.0.1", udp.host)).is_err());
        let refused = TcpStream::connect(("127.0.0.1", tcp.host)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        for taken in [tcp, udp] {
            let error = hold(&[taken]).unwrap_err();
            assert!(error.to_string().contains(&describe(&taken)), "{error}");
        }
        drop(held);
        assert_eq!(hold(&[tcp, udp]).unwrap().ports, [tcp, udp]);
    }

    #[test]
    fn a_port_that_a_program_listens_on_is_taken_everywhere() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        for address in [None, Some("0.0.0.0"), Some("127.0.0.1")] {
            let asked = port(address, number, Protocol::Tcp);
            let error = hold(&[asked]).unwrap_err();
            assert!(matches!(error, EngineError::PortTaken { .. }), "{error}");
        }
        let foreign = port(Some("192.0.2.1"), number, Protocol::Tcp);
        let said = hold(&[foreign]).unwrap_err().to_string();
        assert!(said.contains("does not have that address"), "{said}");
    }

    #[test]
    fn ports_collide_where_their_addresses_meet() {
        let table = [
            (None, Some("127.0.0.1"), true),
            (None, None, true),
            (Some("0.0.0.0"), Some("10.0.0.1"), true),
            (Some("0.0.0.0"), Some("::1"), false),
            (Some("127.0.0.1"), Some("127.0.0.2"), false),
        ];
        for (one, other, expected) in table {
            let (one, other) = (port(one, 80, Protocol::Tcp), port(other, 80, Protocol::Tcp));
            assert_eq!(collide(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(collide(&other, &one), expected, "{other:?} {one:?}");
        }
        let udp = port(None, 80, Protocol::Udp);
        assert!(!collide(&udp, &port(None, 80, Protocol::Tcp)));
        assert!(!collide(&udp, &port(None, 81, Protocol::Udp)));
    }
}
