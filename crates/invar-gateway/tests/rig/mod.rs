//! A running gateway, containers that are hyper servers of this process, and plain clients.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

pub(crate) mod client;
pub(crate) mod load;
pub(crate) mod raw;
pub(crate) mod upstream;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use invar_gateway::Options;
use invar_gateway::config::Config;
use invar_gateway::control::client::Client;
use invar_gateway::control::protocol::{Request, Status};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A gateway in a thread of this process, ended when dropped.
pub(crate) struct Gateway {
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Serves `services` at one HTTP address, the first of them for every host and path.
    pub(crate) fn start(services: Value) -> Self {
        let first = services[0]["name"].clone();
        Self::with(json!({
            "services": services,
            "routes": [{"host": "*", "service": first}],
        }))
    }

    /// Serves a configuration, to which a plain HTTP listener is added when it has none.
    pub(crate) fn with(mut config: Value) -> Self {
        let address = free_address();
        if config.get("listeners").is_none() {
            config["listeners"] = json!([{"address": address}]);
        }
        let config: Config = serde_json::from_value(config).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let address = config.listeners[0].address;
        let options = Options {
            state: directory.path().join("state"),
            control: directory.path().join("control"),
            workers: Some(2),
            access_log: Some(directory.path().join("access.log")),
            config: Some(config),
            drain: Duration::from_secs(5),
            ..Options::default()
        };
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            invar_gateway::run(options, |refused| ready.send(refused.to_vec()).unwrap()).unwrap();
        });
        let refused = is_ready.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(refused, [], "the configuration of the test is wrong");
        Self {
            directory,
            address,
            thread: Some(thread),
        }
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.control()).unwrap()
    }

    /// Sends a request that must succeed.
    pub(crate) fn ask(&self, request: Value) -> Value {
        let request: Request = serde_json::from_value(request).unwrap();
        self.client().ask(&request).unwrap()
    }

    pub(crate) fn status(&self) -> Status {
        self.client().status().unwrap()
    }

    /// Ends it and gives the lines of its access log.
    pub(crate) fn end(mut self) -> Vec<Value> {
        self.stop();
        let log = fs_err::read_to_string(self.directory.path().join("access.log")).unwrap();
        log.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let shutdown = Request::Shutdown { drain_ms: 2_000 };
            if let Ok(mut client) = Client::connect(&self.control()) {
                drop(client.ask::<String>(&shutdown));
            }
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the gateway panicked"
            );
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A loopback address nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Waits for something that must come to be.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A service with these revisions, the first stable.
pub(crate) fn service(name: &str, revisions: &[(&str, &[SocketAddr])]) -> Value {
    let list: Vec<Value> = revisions
        .iter()
        .map(|(name, endpoints)| json!({"name": name, "endpoints": endpoints}))
        .collect();
    json!({"name": name, "revisions": list, "stable": revisions[0].0})
}
