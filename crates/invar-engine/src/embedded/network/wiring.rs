//! The cable between a container and its bridge, laid by the shim: it alone is in the container's
//! namespace before anything of the container runs. The cable goes with the namespace, whatever
//! ends it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use invar_sys::network::{Routing, Veth, own_namespace};
use serde::{Deserialize, Serialize};

use super::bridge::{self, setting6};
use super::subnet::PREFIX6;
use super::table::{EndpointRow, NetworkRow, mac};

/// How long the bridge may take to notice the cable; a few milliseconds are usual.
const PATIENCE: Duration = Duration::from_millis(300);

/// What a container calls its end of the cable.
pub(super) fn interface(endpoint: &EndpointRow) -> String {
    format!("eth{}", endpoint.position)
}

/// Where everything is that has no closer route; nowhere from a network of its own.
pub(super) fn gateways(network: &NetworkRow) -> Vec<IpAddr> {
    if network.internal {
        return Vec::new();
    }
    let gateway = IpAddr::V4(network.subnet.gateway());
    let gateway6 = network.gateway6().map(IpAddr::V6);
    std::iter::once(gateway).chain(gateway6).collect()
}

/// What the shim needs to know of a container's place in a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::embedded) struct Wiring {
    bridge: String,
    /// The host's end of the cable.
    cable: String,
    /// The container's end.
    inside: String,
    mac: [u8; 6],
    address: (Ipv4Addr, u8),
    address6: Option<Ipv6Addr>,
    /// Where everything else is; none in a network of its own.
    gateways: Vec<IpAddr>,
}

impl Wiring {
    pub(super) fn new(network: &NetworkRow, endpoint: &EndpointRow) -> Self {
        let seen = network.endpoint(endpoint);
        let address = seen
            .address
            .unwrap_or((Ipv4Addr::UNSPECIFIED, network.subnet.prefix()));
        Self {
            bridge: network.bridge.clone(),
            // Random: the one of an earlier run may still be on its way out.
            cable: format!("veth{:08x}", rand::random::<u32>()),
            inside: interface(endpoint),
            mac: mac(address.0),
            address,
            address6: seen.address6.map(|(address, _)| address),
            gateways: gateways(network),
        }
    }

    /// Connects this thread's namespace to the bridge of the namespace `host` was opened in.
    pub(in crate::embedded) fn connect(&self, host: &Routing) -> io::Result<()> {
        let bridge = host.link(&self.bridge)?.ok_or_else(|| {
            io::Error::other(format!("the bridge {} was removed meanwhile", self.bridge))
        })?;
        let namespace = own_namespace()?;
        host.add_veth(&Veth {
            name: &self.cable,
            bridge,
            peer: &self.inside,
            peer_mac: self.mac,
            peer_namespace: namespace.as_fd(),
        })?;
        if let Some(port) = host.link(&self.cable)? {
            host.allow_hairpin(port)?;
        }
        let inside = Routing::open()?;
        let link = inside
            .link(&self.inside)?
            .ok_or_else(|| io::Error::other("the cable has only one end"))?;
        self.prepare_version6()?;
        inside.bring_up(link)?;
        let (address, prefix) = self.address;
        inside.add_address(link, address.into(), prefix)?;
        if let Some(address) = self.address6 {
            inside.add_address(link, address.into(), PREFIX6)?;
        }
        for gateway in &self.gateways {
            inside.add_default_route(*gateway)?;
        }
        self.wait_until_usable(host)
    }

    fn prepare_version6(&self) -> io::Result<()> {
        if !bridge::has_ipv6() {
            return Ok(());
        }
        let is_off = if self.address6.is_some() { "0" } else { "1" };
        bridge::set(&setting6(&self.inside, "disable_ipv6"), is_off)?;
        // Whoever else is in the network must not choose addresses or routes for it.
        bridge::set(&setting6(&self.inside, "accept_ra"), "0")?;
        // Its addresses follow from its own hardware address: nobody has to be asked for a second.
        bridge::set(&setting6(&self.inside, "accept_dad"), "0")
    }

    /// What a program sends before the bridge has noticed the cable would be lost.
    fn wait_until_usable(&self, host: &Routing) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !host.is_operational(&self.cable)? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
