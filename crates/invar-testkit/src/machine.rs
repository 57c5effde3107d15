//! Machines that are network namespaces: a test's own, and a neighbour of it. No packet of theirs
//! leaves this computer.

use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

use invar_sys::network;

use crate::tool::{checked, require, require_root};

/// Addresses of the test's own machine on the cable to its neighbour, and the neighbour's.
pub const HERE: &str = "192.0.2.1";
/// The neighbour's address.
pub const THERE: &str = "192.0.2.2";
/// The same in version 6.
pub const HERE6: &str = "2001:db8::1";
/// The neighbour's version 6 address.
pub const THERE6: &str = "2001:db8::2";

/// Moves this thread, and what it starts from here on, to a machine with nothing but loopback.
pub fn alone() {
    require_root();
    network::unshare().unwrap();
}

/// Another machine, connected with the one this thread is on.
#[derive(Debug)]
pub struct Neighbour {
    /// Keeps the namespace.
    holder: Child,
}

impl Neighbour {
    /// Sets one up: [`HERE`] and [`THERE`] on one cable.
    pub fn connect() -> Self {
        let holder = Command::new(require("unshare", "util-linux"))
            .args(["--net", "sh", "-c", "echo ready; exec sleep infinity"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut neighbour = Self { holder };
        let mut ready = [0; 5];
        let output = neighbour.holder.stdout.as_mut().unwrap();
        std::io::Read::read_exact(output, &mut ready).unwrap();
        let pid = neighbour.holder.id().to_string();
        ip(&[
            "link", "add", "cable0", "type", "veth", "peer", "name", "cable0", "netns", &pid,
        ]);
        set_up(HERE, HERE6);
        neighbour.inside(|| {
            ip(&["link", "set", "lo", "up"]);
            set_up(THERE, THERE6);
        });
        neighbour
    }

    /// Does something on that machine.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = network::namespace_of(self.holder.id()).unwrap();
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                network::enter(namespace.as_fd()).unwrap();
                work()
            });
            there
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Runs `ip ARGS`, which must succeed; what it printed.
pub fn ip(args: &[&str]) -> String {
    let output = checked(Command::new(require("ip", "iproute2")).args(args));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `nft ARGS`, which must succeed; what it printed.
pub fn nft(args: &[&str]) -> String {
    let output = checked(Command::new(require("nft", "nftables")).args(args));
    String::from_utf8(output.stdout).unwrap()
}

fn set_up(address: &str, address6: &str) {
    ip(&["address", "add", &format!("{address}/24"), "dev", "cable0"]);
    let address6 = format!("{address6}/64");
    ip(&["address", "add", &address6, "dev", "cable0", "nodad"]);
    ip(&["link", "set", "cable0", "up"]);
}
