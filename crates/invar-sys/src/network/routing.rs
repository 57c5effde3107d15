//! Links, addresses and routes of one network namespace (`rtnetlink(7)`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::message::{Answer, Message, Socket, attributes, flag};

/// `VETH_INFO_PEER` of `linux/veth.h`.
const VETH_PEER: u16 = 1;
/// `IFLA_BRPORT_MODE` of `linux/if_link.h`.
const BRIDGE_PORT_MODE: u16 = 4;
/// `NLA_F_NESTED`, without which the bridge reads its attribute in an older form.
const NESTED: u16 = 1 << 15;
/// `IF_OPER_UP` of RFC 2863.
const OPERATIONAL: u8 = 6;
/// Bytes of `struct ifinfomsg` and `struct rtmsg`.
const LINK_PART: usize = 16;
const ROUTE_PART: usize = 12;

/// A virtual cable: one end here on a bridge, the other in another namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    /// The end here.
    pub name: &'a str,
    /// Index of the bridge it is plugged into.
    pub bridge: u32,
    /// The end there.
    pub peer: &'a str,
    /// Its hardware address.
    pub peer_mac: [u8; 6],
    /// The other namespace.
    pub peer_namespace: BorrowedFd<'a>,
}

/// A connection to the network namespace it was opened in.
#[derive(Debug)]
pub struct Routing(Socket);

impl Routing {
    /// Connects to the namespace this thread is in.
    pub fn open() -> io::Result<Self> {
        Socket::open(None).map(Self)
    }

    /// The index of the link with this name.
    pub fn link(&self, name: &str) -> io::Result<Option<u32>> {
        let answer = self.ask_link(name)?;
        Ok(answer.and_then(|answer| number_at(&answer.body, 4)))
    }

    /// Whether the link is up at both ends and can carry packets.
    pub fn is_operational(&self, name: &str) -> io::Result<bool> {
        let answer = self.ask_link(name)?;
        Ok(answer.is_some_and(|answer| {
            attributes(&answer.body, LINK_PART)
                .any(|(kind, value)| kind == libc::IFLA_OPERSTATE && value == [OPERATIONAL])
        }))
    }

    fn ask_link(&self, name: &str) -> io::Result<Option<Answer>> {
        let message = Message::new(libc::RTM_GETLINK, 0)
            .fixed(&link_part(0, false))
            .text(libc::IFLA_IFNAME, name);
        match self.0.ask(message) {
            Ok(answers) => Ok(answers
                .into_iter()
                .find(|answer| answer.kind == libc::RTM_NEWLINK)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge and brings it up.
    pub fn add_bridge(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let message = Message::new(libc::RTM_NEWLINK, create())
            .fixed(&link_part(0, true))
            .text(libc::IFLA_IFNAME, name)
            .attribute(libc::IFLA_ADDRESS, &mac)
            .nested(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_KIND, "bridge")
            });
        self.0.tell(message)
    }

    /// Makes a cable and plugs one end in; the other has to be brought up where it is.
    pub fn add_veth(&self, veth: &Veth<'_>) -> io::Result<()> {
        let namespace = u32::try_from(veth.peer_namespace.as_raw_fd())
            .map_err(|_negative| io::Error::other("not a handle"))?;
        let peer = |message: Message| {
            message
                .fixed(&link_part(0, false))
                .text(libc::IFLA_IFNAME, veth.peer)
                .attribute(libc::IFLA_ADDRESS, &veth.peer_mac)
                .number(libc::IFLA_NET_NS_FD, namespace)
        };
        let message = Message::new(libc::RTM_NEWLINK, create())
            .fixed(&link_part(0, true))
            .text(libc::IFLA_IFNAME, veth.name)
            .number(libc::IFLA_MASTER, veth.bridge)
            .nested(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_KIND, "veth")
                    .nested(libc::IFLA_INFO_DATA, |data| data.nested(VETH_PEER, peer))
            });
        self.0.tell(message)
    }

    /// Lets a port of a bridge send back where a packet came from: a container then reaches itself
    /// by its published port.
    pub fn allow_hairpin(&self, link: u32) -> io::Result<()> {
        let mut part = link_part(link, false);
        part[0] = u8::try_from(libc::AF_BRIDGE).expect("families are small numbers");
        let message = Message::new(libc::RTM_SETLINK, 0)
            .fixed(&part)
            .nested(libc::IFLA_PROTINFO | NESTED, |info| {
                info.attribute(BRIDGE_PORT_MODE, &[1])
            });
        self.0.tell(message)
    }

    /// Brings a link up.
    pub fn bring_up(&self, link: u32) -> io::Result<()> {
        let message = Message::new(libc::RTM_NEWLINK, 0).fixed(&link_part(link, true));
        self.0.tell(message)
    }

    /// Takes a link down.
    pub(super) fn bring_down(&self, link: u32) -> io::Result<()> {
        let mut part = link_part(link, true);
        // The flag stays among those that change and goes from those that are set.
        part[8..12].fill(0);
        self.0.tell(Message::new(libc::RTM_NEWLINK, 0).fixed(&part))
    }

    /// Links that are one end of something: their index, and that of the other end.
    pub(super) fn cables(&self) -> io::Result<Vec<(u32, u32)>> {
        let dump = flag(libc::NLM_F_DUMP);
        let message = Message::new(libc::RTM_GETLINK, dump).fixed(&link_part(0, false));
        let links = self.0.ask(message)?;
        let cables = links.iter().filter_map(|link| {
            let index = number_at(&link.body, 4)?;
            let mut attributes = attributes(&link.body, LINK_PART);
            let (_, peer) = attributes.find(|(kind, _)| *kind == libc::IFLA_LINK)?;
            let peer = number_at(peer, 0)?;
            (peer != index && peer != 0).then_some((index, peer))
        });
        Ok(cables.collect())
    }

    /// Removes a link; `false` when there is none.
    pub fn remove_link(&self, name: &str) -> io::Result<bool> {
        let message = Message::new(libc::RTM_DELLINK, 0)
            .fixed(&link_part(0, false))
            .text(libc::IFLA_IFNAME, name);
        match self.0.tell(message) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a link an address. One that it has already is no error.
    pub fn add_address(&self, link: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut part = vec![family(address), prefix, 0, 0];
        part.extend(link.to_ne_bytes());
        let octets = octets(address);
        let message = Message::new(libc::RTM_NEWADDR, create())
            .fixed(&part)
            .attribute(libc::IFA_LOCAL, &octets)
            .attribute(libc::IFA_ADDRESS, &octets)
            // Whoever assigns it knows that it is unique: it is usable at once.
            .number(libc::IFA_FLAGS, libc::IFA_F_NODAD);
        match self.0.tell(message) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Sends everything without a closer route to a gateway, unless it goes to another already.
    pub fn add_default_route(&self, gateway: IpAddr) -> io::Result<()> {
        let part = [
            family(gateway),
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let message = Message::new(libc::RTM_NEWROUTE, create())
            .fixed(&part)
            .attribute(libc::RTA_GATEWAY, &octets(gateway));
        match self.0.tell(message) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Where packets go from here: every destination and the bits of it that count.
    pub fn destinations(&self) -> io::Result<Vec<(IpAddr, u8)>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = u8::try_from(family).expect("families are small numbers");
            let mut part = [0; ROUTE_PART];
            part[0] = family;
            let message = Message::new(libc::RTM_GETROUTE, flag(libc::NLM_F_DUMP)).fixed(&part);
            let answers = self.0.ask(message)?;
            found.extend(answers.iter().filter_map(destination));
        }
        Ok(found)
    }
}

fn destination(answer: &Answer) -> Option<(IpAddr, u8)> {
    let prefix = *answer.body.get(1)?;
    let (_, value) =
        attributes(&answer.body, ROUTE_PART).find(|(kind, _)| *kind == libc::RTA_DST)?;
    let address = match value.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
        _ => return None,
    };
    Some((address, prefix))
}

fn create() -> u16 {
    flag(libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// `struct ifinfomsg`.
fn link_part(index: u32, up: bool) -> [u8; LINK_PART] {
    let mut part = [0; LINK_PART];
    part[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        let flags = u32::try_from(libc::IFF_UP).expect("a flag").to_ne_bytes();
        part[8..12].copy_from_slice(&flags);
        part[12..16].copy_from_slice(&flags);
    }
    part
}

fn family(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    u8::try_from(family).expect("families are small numbers")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => Ipv4Addr::octets(&address).to_vec(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address).to_vec(),
    }
}

fn number_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let four = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}
