//! Containers that serve, and what is seen of their networks.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use invar_testkit::eventually;
use invar_testkit::invar::Invar;
use invar_testkit::machine::{self, nft};
use serde_json::Value;

use super::{busybox, inspect};

/// A web server on port 80 of its container that answers with the container's name.
const SERVE: &str = "mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w";

/// An engine on a machine (a network namespace) of its own.
pub(crate) fn alone() -> Invar {
    machine::alone();
    busybox()
}

/// Starts a container that serves.
pub(crate) fn serve(invar: &Invar, name: &str, flags: &[&str]) {
    let named = ["run", "-d", "--name", name, "--hostname", name];
    let program = ["busybox", "sh", "-c", SERVE];
    invar.run(&[&named, flags, &program].concat());
    eventually("the server listens", || {
        let listens = ["exec", name, "sh", "-c", "nc -w 1 127.0.0.1 80 </dev/null"];
        invar.output(&listens).status.success().then_some(())
    });
}

/// What the web server at an address says; `None` when there is no answer.
pub(crate) fn get(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    connection
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    Some(answer.lines().last()?.to_owned())
}

/// A script that prints what the web server at `host` says.
pub(crate) fn fetch(host: &str) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {host} 80 | tail -1")
}

/// Where a container is reached.
pub(crate) fn address(invar: &Invar, name: &str) -> Ipv4Addr {
    let address = &inspect(invar, name)["NetworkSettings"]["IPAddress"];
    address.as_str().unwrap().parse().unwrap()
}

/// `network ls`.
pub(crate) fn networks(invar: &Invar) -> Vec<Value> {
    serde_json::from_str(&invar.run(&["network", "ls", "--format", "json"])).unwrap()
}

/// The text of all tables of Invar.
pub(crate) fn rules() -> String {
    nft(&["list", "ruleset"])
}
