//! A network's bridge on the host: one link, the host's addresses on it, and the kernel's settings
//! that packets need to pass.
//!
//! Everything here is done again before each start and changes nothing that is right already: a
//! bridge is gone after the machine was started anew, and comes back with the first container.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use fs_err as fs;
use invar_sys::network::Routing;

use super::subnet::PREFIX6;
use super::table::{NetworkRow, mac};
use crate::error::{EngineError, Result};

/// Makes what is missing of a network's bridge.
pub(super) fn ensure(network: &NetworkRow) -> Result<()> {
    let gateway = network.subnet.gateway();
    let plug = || -> io::Result<()> {
        let routing = Routing::open()?;
        let mut index = routing.link(&network.bridge)?;
        if index.is_none() {
            routing.add_bridge(&network.bridge, mac(gateway))?;
            index = routing.link(&network.bridge)?;
        }
        let index = index.ok_or_else(|| io::Error::other("it vanished"))?;
        routing.add_address(index, gateway.into(), network.subnet.prefix())?;
        if let Some(gateway6) = network.gateway6() {
            // Before the address, which a link with version 6 off refuses.
            set(&setting6(&network.bridge, "disable_ipv6"), "0")?;
            set(&setting6(&network.bridge, "accept_ra"), "0")?;
            // Until its own address is known to be unique, a link asks for nobody else's.
            set(&setting6(&network.bridge, "accept_dad"), "0")?;
            routing.add_address(index, IpAddr::V6(gateway6), PREFIX6)?;
        }
        Ok(())
    };
    plug().map_err(|error| EngineError::Runtime {
        action: "set up the bridge of the network",
        reason: format!("{}: {error}", network.bridge),
    })?;
    let settings = settings(network);
    for (path, value) in settings {
        set(&path, value).map_err(|source| EngineError::io("write", &path, source))?;
    }
    Ok(())
}

/// Removes the bridge of a network, if it is there.
pub(super) fn remove(bridge: &str) -> Result<()> {
    Routing::open()
        .and_then(|routing| routing.remove_link(bridge))
        .map(drop)
        .map_err(|error| EngineError::Runtime {
            action: "remove the bridge of the network",
            reason: format!("{bridge}: {error}"),
        })
}

/// Whether this kernel speaks version 6 of IP.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf").is_dir()
}

/// What the kernel must be told for packets to pass.
fn settings(network: &NetworkRow) -> Vec<(PathBuf, &'static str)> {
    if network.internal {
        return Vec::new();
    }
    let own = format!("net/ipv4/conf/{}/route_localnet", network.bridge);
    let mut settings = vec![
        (proc_sys("net/ipv4/ip_forward"), "1"),
        // So that 127.0.0.1 reaches published ports; the rules keep containers from using it.
        (proc_sys(&own), "1"),
    ];
    if network.subnet6.is_some() {
        let forwarding = setting6("all", "forwarding");
        if !is(&forwarding, "1") {
            // A host that forwards no longer listens to its router, unless it is told to.
            settings.extend(listening_to_a_router().into_iter().map(|path| (path, "2")));
        }
        settings.push((forwarding, "1"));
    }
    settings
}

/// The links that take their addresses and routes from a router.
fn listening_to_a_router() -> Vec<PathBuf> {
    let Ok(links) = fs::read_dir("/proc/sys/net/ipv6/conf") else {
        return Vec::new();
    };
    links
        .flatten()
        .map(|link| link.path().join("accept_ra"))
        .filter(|path| is(path, "1"))
        .collect()
}

/// A setting of one link in version 6.
pub(super) fn setting6(link: &str, name: &str) -> PathBuf {
    proc_sys(&format!("net/ipv6/conf/{link}/{name}"))
}

fn proc_sys(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Whether a setting has this value.
pub(super) fn is(path: &Path, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim_end() == value)
}

/// Gives a setting a value it does not have.
pub(super) fn set(path: &Path, value: &str) -> io::Result<()> {
    if is(path, value) {
        return Ok(());
    }
    fs::write(path, value)
}
