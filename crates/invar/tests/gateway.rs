//! The gateway as a process: killed, restarted, replaced by itself under load, ended with grace.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "in tests a panic is the report; the clients are shared with the gateway's own tests"
)]

#[path = "../../invar-gateway/tests/rig/client.rs"]
mod client;
#[path = "../../invar-gateway/tests/rig/load.rs"]
mod load;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{Http, get};
use fs_err as fs;
use invar_testkit::checked;
use load::Load;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A container: answers every request with its name, `/slow…` after 50 ms.
fn container(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer_all(name, stream.unwrap()));
        }
    });
    address
}

fn answer_all(name: &str, stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push(line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        if head[0].contains("/slow") {
            std::thread::sleep(Duration::from_millis(50));
        }
        if !head[0].contains("/echo") {
            body = name.as_bytes().to_vec();
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = [answer.as_bytes(), &body].concat();
        if reader.get_mut().write_all(&answer).is_err() {
            return;
        }
    }
}

struct Rig {
    directory: TempDir,
    address: SocketAddr,
    process: Child,
}

impl Rig {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let config = json!({
            "listeners": [{"address": address}],
            "services": [{
                "name": "web",
                "revisions": [
                    {"name": "r1", "endpoints": [container("r1")]},
                    {"name": "r2", "endpoints": [container("r2")]},
                ],
                "stable": "r1",
            }],
            "routes": [{"host": "*", "service": "web"}],
        });
        fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        let process = spawn(&directory, &["--config", "config.json"]);
        let rig = Self {
            directory,
            address,
            process,
        };
        rig.eventually("it serves", || rig.connects());
        rig
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    fn connects(&self) -> bool {
        Http::connect(self.address).is_ok_and(|mut connection| connection.get("/").is_ok())
    }

    /// Waits for something that must come to be.
    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds() {
            let log = fs::read_to_string(self.directory.path().join("log"));
            assert!(
                Instant::now() < deadline,
                "not within 30 s: {what}\n{log:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `invar gateway ARGS`, which must succeed.
    fn ask(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_invar"));
        command
            .arg("gateway")
            .args(arguments)
            .arg("--control")
            .arg(self.control());
        String::from_utf8(checked(command.current_dir(self.directory.path())).stdout).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ask(&["status"])).unwrap()
    }
}

fn spawn(directory: &TempDir, arguments: &[&str]) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.path().join("log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_invar"))
        .arg("--root")
        .arg(directory.path().join("root"))
        .args(["gateway", "--workers", "2", "--drain", "3", "--control"])
        .arg(directory.path().join("control"))
        .args(arguments)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stderr(log.into_parts().0)
        .spawn()
        .unwrap()
}

fn end(process: &mut Child) {
    drop(process.kill());
    drop(process.wait());
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The process that serves may be a successor of the one that was started.
        if let Ok(mut control) = UnixStream::connect(self.control()) {
            drop(control.write_all(b"{\"op\":\"shutdown\",\"drain_ms\":0}\n"));
            drop(BufReader::new(control).read_line(&mut String::new()));
        }
        end(&mut self.process);
    }
}

#[test]
fn a_killed_gateway_serves_again_what_was_saved() {
    let mut rig = Rig::start();
    assert_eq!(get(rig.address, "/").text(), "r1");
    let said = rig.ask(&["switch", "web", "r2"]);
    assert!(said.starts_with("web: r1 → r2 in "), "{said}");
    end(&mut rig.process);
    assert!(!rig.connects());
    rig.process = spawn(&rig.directory, &[]);
    rig.eventually("it serves again", || rig.connects());
    assert_eq!(get(rig.address, "/").text(), "r2");
    // A file half written at the next kill changes nothing.
    end(&mut rig.process);
    fs::write(
        rig.directory.path().join("root/gateway/gateway.json.new"),
        "{\"for",
    )
    .unwrap();
    rig.process = spawn(&rig.directory, &[]);
    rig.eventually("it serves again", || rig.connects());
    assert_eq!(get(rig.address, "/").text(), "r2");
}

#[test]
fn a_second_gateway_of_the_same_state_is_refused() {
    let rig = Rig::start();
    let mut second = spawn(&rig.directory, &[]);
    assert_eq!(second.wait().unwrap().code(), Some(1));
    let log = fs::read_to_string(rig.directory.path().join("log")).unwrap();
    assert!(
        log.contains("another gateway runs with the state directory"),
        "{log}"
    );
    assert_eq!(get(rig.address, "/").text(), "r1");
}

#[test]
fn the_gateway_replaces_itself_under_load_and_loses_nothing() {
    let rig = Rig::start();
    let mut load = Load::new();
    load.keep_alive(4, rig.address, "/");
    load.keep_alive(2, rig.address, "/slow");
    load.short(2, rig.address, "/");
    load.posting(2, rig.address);
    let mut idle = Http::connect(rig.address).unwrap();
    idle.get("/").unwrap();
    let mut pid = rig.status()["pid"].clone();
    for _ in 0..5 {
        rig.ask(&["upgrade"]);
        rig.eventually("another process answers", || rig.status()["pid"] != pid);
        pid = rig.status()["pid"].clone();
        rig.ask(&["switch", "web", "r2"]);
        rig.ask(&["switch", "web", "r1"]);
    }
    // The first process still has this connection, and answers on it once more.
    assert_eq!(idle.get("/").unwrap().text(), "r1");
    let (done, failures) = load.finish();
    assert_eq!(failures, [] as [String; 0], "of {done} requests");
    assert!(done > 500, "only {done} requests");
}

#[test]
fn a_successor_that_dies_half_way_leaves_the_old_one_as_it_was() {
    let rig = Rig::start();
    let mut control = UnixStream::connect(rig.control()).unwrap();
    control
        .write_all(b"{\"op\":\"handover\",\"drain_ms\":1000}\n")
        .unwrap();
    let mut answer = String::new();
    BufReader::new(control.try_clone().unwrap())
        .read_line(&mut answer)
        .unwrap();
    assert!(answer.contains(&rig.address.to_string()), "{answer}");
    let mut other = UnixStream::connect(rig.control()).unwrap();
    other
        .write_all(b"{\"op\":\"switch\",\"service\":\"web\",\"to\":\"r2\"}\n")
        .unwrap();
    let mut refused = String::new();
    BufReader::new(other).read_line(&mut refused).unwrap();
    assert!(
        refused.contains("another process is taking over"),
        "{refused}"
    );
    drop(control);
    rig.eventually("it takes changes again", || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_invar"));
        command
            .args(["gateway", "switch", "web", "r2", "--control"])
            .arg(rig.control());
        command.output().unwrap().status.success()
    });
    assert_eq!(get(rig.address, "/").text(), "r2");
}

#[test]
fn a_terminated_gateway_finishes_its_requests() {
    let mut rig = Rig::start();
    let mut slow = Http::connect(rig.address).unwrap();
    slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    rig.eventually("it is in flight", || {
        rig.status()["services"]["web"]["revisions"]["r1"]["drain"]["in_flight"] == 1
            || rig.status()["services"]["web"]["revisions"]["r1"]["counts"]["codes"]["200"] == 2
    });
    checked(Command::new("kill").arg(rig.process.id().to_string()));
    let reply = slow.reply().unwrap();
    assert_eq!(reply.text(), "r1");
    assert_eq!(rig.process.wait().unwrap().code(), Some(0));
    assert!(!rig.control().exists());
}

#[test]
fn wrong_items_of_a_configuration_are_named_on_standard_error() {
    let rig = Rig::start();
    let mut config: Value =
        serde_json::from_slice(&fs::read(rig.directory.path().join("config.json")).unwrap())
            .unwrap();
    config["routes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"host": "x", "service": "nowhere"}));
    fs::write(rig.directory.path().join("new.json"), config.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_invar"))
        .args(["gateway", "apply", "new.json", "--control"])
        .arg(rig.control())
        .current_dir(rig.directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "route x/ is not in force: no service named \"nowhere\"\n"
    );
    assert_eq!(get(rig.address, "/").text(), "r1");
}
