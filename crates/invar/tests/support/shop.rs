//! A shop to deploy into: the example's images, a gateway, and clients of one service.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fs_err as fs;
use invar_testkit::invar::Invar;
use invar_testkit::{checked, eventually};

use super::{empty, outcome_of};

/// A state root with the example's images, a gateway, and a compose file to be written.
pub(crate) struct Rig {
    gateway: Child,
    pub(crate) invar: Invar,
    pub(crate) port: u16,
}

impl Rig {
    /// With the images of the example.
    pub(crate) fn new() -> Self {
        let rig = Self::bare();
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/canary/build");
        checked(
            Command::new(build)
                .arg(env!("CARGO_BIN_EXE_invar"))
                .env("INVAR_ROOT", rig.invar.root()),
        );
        rig
    }

    /// With no image.
    pub(crate) fn bare() -> Self {
        let invar = empty();
        let control = invar.root().join("gateway.sock");
        let gateway = invar
            .command(&["gateway", "--control"])
            .arg(&control)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the gateway", || control.exists().then_some(()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            gateway,
            invar,
            port,
        }
    }

    pub(crate) fn file(&self, service: &str) -> PathBuf {
        let path = self.invar.root().join("compose.yaml");
        let port = self.port;
        let text = format!(
            "name: shop\nservices:\n  web:\n    command: [/app]\n    init: true\n    \
             ports: ['127.0.0.1:{port}:80']\n{service}"
        );
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.invar.command(args);
        command
            .arg("--control")
            .arg(self.invar.root().join("gateway.sock"));
        command
    }

    /// `invar deploy` of this service: exit code and both outputs.
    pub(crate) fn deploy(&self, service: &str) -> (Option<i32>, String, String) {
        let file = self.file(service);
        let mut command = self.command(&["deploy", "-f", file.to_str().unwrap()]);
        outcome_of(&command.output().unwrap())
    }

    pub(crate) fn must_deploy(&self, service: &str) {
        let (code, out, err) = self.deploy(service);
        assert_eq!(code, Some(0), "{out}\n{err}");
    }

    /// What one new connection is answered.
    pub(crate) fn ask(&self) -> String {
        Client::new(self.port).ask().unwrap().1
    }

    pub(crate) fn containers(&self) -> Vec<String> {
        let listed = self
            .invar
            .run(&["ps", "--all", "--engine", "embedded", "--format", "json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let names = listed.as_array().unwrap().iter();
        names.map(ToString::to_string).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.gateway.kill());
        drop(self.gateway.wait());
    }
}

/// A kept connection.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn new(port: u16) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self(BufReader::new(TcpStream::connect(address).unwrap()))
    }

    /// The status and the body of one answer.
    pub(crate) fn ask(&mut self) -> std::io::Result<(u16, String)> {
        self.0
            .get_mut()
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body).unwrap().trim().to_owned()))
    }
}

/// Requests on kept and on short connections until it is told to end.
pub(crate) struct Load {
    end: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Load {
    pub(crate) fn start(port: u16) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Mutex::new(BTreeMap::new()));
        let threads = (0..4)
            .map(|number| {
                let (end, counts) = (Arc::clone(&end), Arc::clone(&counts));
                std::thread::spawn(move || {
                    let mut client = Client::new(port);
                    while !end.load(Ordering::Relaxed) {
                        if number % 2 == 0 {
                            client = Client::new(port);
                        }
                        let seen = match client.ask() {
                            Ok((status, body)) => format!("{status} {body}"),
                            Err(error) => {
                                client = Client::new(port);
                                format!("failed: {error}")
                            }
                        };
                        *counts.lock().unwrap().entry(seen).or_insert(0) += 1;
                        // A steady rate, not a flood: two processors are shared.
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                })
            })
            .collect();
        Self {
            end,
            threads,
            counts,
        }
    }

    pub(crate) fn end(self) -> BTreeMap<String, u64> {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.counts.lock().unwrap().clone()
    }
}
