//! Flows of datagrams that the kernel remembers (`nf_conntrack`). A flow keeps the way it had when
//! it began, for as long as its sender goes on: also after rules and addresses have changed.

use std::io;

use rustix::net::netlink::NETFILTER;

use super::message::{Answer, Message, Socket, attributes, flag};

/// `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1;
const DELETE: u16 = 2;
/// Bytes of `struct nfgenmsg`.
const FIXED: usize = 4;
/// Attributes of a flow: `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_STATUS`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
/// Parts of a tuple: `CTA_TUPLE_IP`, `CTA_TUPLE_PROTO`, and in them `CTA_IP_V4_SRC`,
/// `CTA_IP_V6_SRC`, `CTA_PROTO_NUM`, `CTA_PROTO_DST_PORT`.
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
const SOURCE4: u16 = 1;
const SOURCE6: u16 = 3;
const NUMBER: u16 = 1;
const PORT: u16 = 3;
/// `IPPROTO_UDP`
const UDP: u8 = 17;
/// `NLA_F_NESTED`
const NESTED: u16 = 1 << 15;
/// `IPS_SEEN_REPLY`
const ANSWERED: u32 = 1 << 1;

/// Forgets the flows to these ports that nobody answers, and those that one of these addresses
/// answered: the next datagram finds its way anew.
pub fn forget_datagrams(ports: &[u16], addresses: &[std::net::IpAddr]) -> io::Result<()> {
    let socket = Socket::open(Some(NETFILTER))?;
    let addresses: Vec<Vec<u8>> = addresses
        .iter()
        .map(|address| match address {
            std::net::IpAddr::V4(address) => address.octets().to_vec(),
            std::net::IpAddr::V6(address) => address.octets().to_vec(),
        })
        .collect();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).expect("families are small numbers");
        let all = message(GET, flag(libc::NLM_F_DUMP), family);
        for flow in socket.ask(all)? {
            let Some(tuple) = stale(&flow, ports, &addresses) else {
                continue;
            };
            let delete = message(DELETE, 0, family).attribute(ORIGINAL | NESTED, tuple);
            match socket.tell(delete) {
                // It ended by itself.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn message(kind: u16, flags: u16, family: u8) -> Message {
    let system = u16::try_from(libc::NFNL_SUBSYS_CTNETLINK).expect("a small number");
    Message::new((system << 8) | kind, flags).fixed(&[family, 0, 0, 0])
}

/// The first tuple of a flow that has to go.
fn stale<'a>(flow: &'a Answer, ports: &[u16], addresses: &[Vec<u8>]) -> Option<&'a [u8]> {
    let of_flow = |kind| find(attributes(&flow.body, FIXED), kind);
    let original = of_flow(ORIGINAL)?;
    let protocol = find(attributes(original, 0), PROTOCOL)?;
    let port = find(attributes(protocol, 0), PORT)?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    let is_udp = find(attributes(protocol, 0), NUMBER)? == [UDP];
    if !is_udp || !ports.contains(&port) {
        return None;
    }
    let status = u32::from_be_bytes(of_flow(STATUS)?.try_into().ok()?);
    let reply = find(attributes(of_flow(REPLY)?, 0), ADDRESSES)?;
    let source =
        find(attributes(reply, 0), SOURCE4).or_else(|| find(attributes(reply, 0), SOURCE6))?;
    let is_theirs = addresses.iter().any(|address| address == source);
    (status & ANSWERED == 0 || is_theirs).then_some(original)
}

fn find<'a>(mut all: impl Iterator<Item = (u16, &'a [u8])>, kind: u16) -> Option<&'a [u8]> {
    all.find(|(other, _)| *other == kind)
        .map(|(_, value)| value)
}
