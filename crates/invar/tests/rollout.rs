//! Services under real traffic: the example of the README, bad revisions, and a driver that is
//! killed wherever it stands.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fs_err as fs;
use invar_testkit::docker::PrivateDocker;
use invar_testkit::invar::Invar;
use invar_testkit::{checked, eventually};
use support::{empty, outcome};

/// A state root with the example's images, a gateway, and a compose file to be written.
struct Rig {
    gateway: Child,
    invar: Invar,
    port: u16,
}

impl Rig {
    fn new() -> Self {
        let invar = empty();
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/canary/build");
        checked(
            Command::new(build)
                .arg(env!("CARGO_BIN_EXE_invar"))
                .env("INVAR_ROOT", invar.root()),
        );
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

    fn file(&self, service: &str) -> PathBuf {
        let path = self.invar.root().join("compose.yaml");
        let port = self.port;
        let text = format!(
            "name: shop\nservices:\n  web:\n    command: [/app]\n    init: true\n    \
             ports: ['127.0.0.1:{port}:80']\n{service}"
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.invar.command(args);
        command
            .arg("--control")
            .arg(self.invar.root().join("gateway.sock"));
        command
    }

    /// `invar deploy` of this service: exit code and both outputs.
    fn deploy(&self, service: &str) -> (Option<i32>, String, String) {
        let file = self.file(service);
        let mut command = self.command(&["deploy", "-f", file.to_str().unwrap()]);
        support::outcome_of(&command.output().unwrap())
    }

    fn must_deploy(&self, service: &str) {
        let (code, out, err) = self.deploy(service);
        assert_eq!(code, Some(0), "{out}\n{err}");
    }

    /// What one new connection is answered.
    fn ask(&self) -> String {
        Client::new(self.port).ask().unwrap().1
    }

    fn containers(&self) -> Vec<String> {
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
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(port: u16) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self(BufReader::new(TcpStream::connect(address).unwrap()))
    }

    /// The status and the body of one answer.
    fn ask(&mut self) -> std::io::Result<(u16, String)> {
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
struct Load {
    end: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Load {
    fn start(port: u16) -> Self {
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

    fn end(self) -> BTreeMap<String, u64> {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.counts.lock().unwrap().clone()
    }
}

const CANARY: &str =
    "    deploy: { replicas: 2 }\n    x-invar: { rollout: { steps: [10%, 50%], hold: 2s } }\n";
const AT_ONCE: &str = "    x-invar: { rollout: { hold: 1s, healthy_within: 5s } }\n";

const BRIEF: &str =
    "    x-invar: { rollout: { steps: [50%], hold: 500ms, keep: 0, margin: 3% } }\n";

fn version(version: &str, rest: &str) -> String {
    format!("    image: app:{version}\n{rest}")
}

#[test]
fn a_canary_that_fails_three_in_a_hundred_is_rolled_back_and_a_good_one_is_not() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", CANARY));
    assert_eq!(rig.ask(), "v1");
    let load = Load::start(rig.port);

    let (code, out, err) = rig.deploy(&version("v2", CANARY));
    assert_eq!(code, Some(1), "{out}\n{err}");
    assert!(
        out.contains("was rolled back") && out.contains("it failed "),
        "{out}"
    );
    assert_eq!(rig.ask(), "v1");
    assert_eq!(rig.containers().len(), 2, "only the old ones are left");

    rig.must_deploy(&version("v3", CANARY));
    assert_eq!(rig.ask(), "v3");
    let seen = load.end();
    let failed: u64 = seen
        .iter()
        .filter(|(answer, _)| !answer.starts_with("200 ") && *answer != "500 v2")
        .map(|(_, count)| count)
        .sum();
    assert_eq!(failed, 0, "{seen:?}");
    assert!(seen["500 v2"] < 40, "the trial was short: {seen:?}");

    // Warm: back at once, as a whole.
    let told = checked(&mut rig.command(&["rollback", "web"]));
    assert!(support::text(&told.stdout).contains("serves"));
    assert_eq!(rig.ask(), "v1");
    let history = rig.invar.run(&["history", "shop.web"]);
    for wanted in ["rollout 4", "reverting", "evidence errors", "µs, with"] {
        assert!(history.contains(wanted), "{wanted}: {history}");
    }
    let page = rig.invar.root().join("history.html");
    checked(
        &mut rig
            .invar
            .command(&["history", "web", "--html", page.to_str().unwrap()]),
    );
    assert!(fs::read_to_string(page).unwrap().contains("<polyline"));
}

#[test]
fn a_revision_that_does_not_work_leaves_the_old_one_and_says_why() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", AT_ONCE));
    let load = Load::start(rig.port);
    for (service, expected) in [
        (version("gone", AT_ONCE), "gone"),
        (
            version(
                "v3",
                "    entrypoint: [/missing]\n    x-invar: { rollout: { hold: 1s } }\n",
            ),
            "its container 1 ",
        ),
        (
            version(
                "v3",
                &format!("    healthcheck: {{ test: [CMD, /missing] }}\n{AT_ONCE}"),
            ),
            "became well within 5 s",
        ),
        (
            version("v3", "    ports: ['1:80']\n"),
            "stands here a second time",
        ),
    ] {
        let (code, out, err) = rig.deploy(&service);
        assert_eq!(code, Some(1), "{service}: {out}\n{err}");
        assert!(
            (out.clone() + &err).contains(expected),
            "{service}: {out}\n{err}"
        );
        assert_eq!(rig.ask(), "v1");
    }
    let seen = load.end();
    assert!(seen.keys().all(|answer| answer == "200 v1"), "{seen:?}");
    assert_eq!(rig.containers().len(), 1);
}

#[test]
fn a_deploy_that_is_killed_anywhere_is_finished_by_the_next_one() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", BRIEF));
    let load = Load::start(rig.port);
    let mut kills = 0;
    for (round, dies_at) in [0, 1, 3, 5, 7, 9, 12, 16].into_iter().enumerate() {
        let wanted = if round % 2 == 0 { "v3" } else { "v1" };
        let file = rig.file(&version(wanted, BRIEF));
        let killed = rig
            .command(&["deploy", "-f", file.to_str().unwrap()])
            .env("INVAR_ROLLOUT_DIES_AT", dies_at.to_string())
            .output()
            .unwrap();
        assert_ne!(killed.status.code(), Some(1), "{dies_at}: {killed:?}");
        kills += u32::from(killed.status.signal() == Some(9));
        rig.must_deploy(&version(wanted, BRIEF));
        assert_eq!(rig.ask(), wanted, "killed at {dies_at}");
    }
    let seen = load.end();
    assert!(kills >= 6, "only {kills} were killed");
    let is_good = |answer: &String| answer == "200 v1" || answer == "200 v3";
    assert!(seen.keys().all(is_good), "{seen:?}");
}

#[test]
fn a_dry_run_says_what_is_replaced_and_why_and_changes_nothing() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", "    environment: { COLOR: red }\n"));
    let before = rig.containers();
    let file = rig.file(&version(
        "v3",
        "    environment: { COLOR: blue }\n    deploy: { replicas: 2 }\n",
    ));
    let args = ["deploy", "--dry-run", "-f", file.to_str().unwrap()];
    let plan = support::text(&checked(&mut rig.command(&args)).stdout);
    for wanted in [
        "shop.web is replaced",
        "image: app:v1",
        "environment COLOR: a value → another value",
    ] {
        assert!(plan.contains(wanted), "{wanted}: {plan}");
    }
    assert_eq!(rig.containers(), before);
    let (code, _, err) = outcome(&rig.invar, &["rollback", "nothing"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("no service named \"nothing\""), "{err}");
}

/// A bridge for one daemon, gone at the end.
struct Bridge(String);

impl Bridge {
    fn new() -> Self {
        let number = std::process::id() % 200;
        let bridge = Self(format!("inv-t{number}"));
        for args in [
            format!("link add {} type bridge", bridge.0),
            format!("addr add 10.213.{number}.1/24 dev {}", bridge.0),
            format!("link set {} up", bridge.0),
        ] {
            checked(Command::new("ip").args(args.split(' ')));
        }
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["link", "del", &self.0]).status());
    }
}

#[test]
fn containers_of_docker_are_deployed_and_reached_on_their_bridge() {
    let rig = Rig::new();
    let bridge = Bridge::new();
    // The later one of two equal flags counts.
    let docker = PrivateDocker::start_with(&[&format!("--bridge={}", bridge.0)]);
    for version in ["v1", "v3"] {
        let archive = rig.invar.root().join("image.tar");
        let archive = archive.to_str().unwrap();
        rig.invar
            .run(&["save", "-o", archive, &format!("app:{version}")]);
        docker.run(&["load", "-i", archive]);
        fs::remove_file(archive).unwrap();
    }
    let deploy = |name: &str| {
        let file = rig.file(&version(name, CANARY));
        let args = ["deploy", "--engine", "docker", "-f", file.to_str().unwrap()];
        let output = rig
            .command(&args)
            .env("DOCKER_HOST", docker.host())
            .output();
        let (code, out, err) = support::outcome_of(&output.unwrap());
        assert_eq!(code, Some(0), "{out}\n{err}");
    };
    deploy("v1");
    assert_eq!(rig.ask(), "v1");
    let load = Load::start(rig.port);
    deploy("v3");
    let seen = load.end();
    assert_eq!(rig.ask(), "v3");
    assert!(
        seen.keys().all(|answer| answer.starts_with("200 ")),
        "{seen:?}"
    );
    checked(
        rig.command(&["rollback", "web"])
            .env("DOCKER_HOST", docker.host()),
    );
    assert_eq!(rig.ask(), "v1");
    docker.run(&["ps", "--quiet"]).lines().for_each(|id| {
        docker.run(&["rm", "--force", id]);
    });
}

/// What stays of a service's container when it is replaced: its name.
fn first_container(rig: &Rig) -> (String, String) {
    let listed = rig.invar.run(&["ps", "--format", "jsonl"]);
    let first: serde_json::Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    let text = |name: &str| first[name].as_str().unwrap().to_owned();
    (text("name"), text("id"))
}

#[test]
fn a_container_of_a_service_is_replaced_without_dropping_a_request() {
    for network in ["bridge", "host"] {
        let rig = Rig::new();
        let rest = format!("    network_mode: {network}\n    read_only: false\n{AT_ONCE}");
        rig.must_deploy(&version("v1", &rest));
        assert_eq!(rig.ask(), "v1");
        let load = Load::start(rig.port);
        for _ in 0..3 {
            let (name, id) = first_container(&rig);
            let mut replace = rig.command(&["replace", "--format", "json", &name]);
            let done = support::text(&checked(&mut replace).stdout);
            let done: serde_json::Value = serde_json::from_str(&done).unwrap();
            assert_eq!(done["old"], serde_json::json!(id), "{network}");
            // The name is the same, so the service knows the fresh one as its own.
            assert_eq!(first_container(&rig).0, name, "{network}");
            assert_ne!(first_container(&rig).1, id, "{network}");
        }
        let seen = load.end();
        assert!(
            seen.keys().all(|answer| answer == "200 v1"),
            "{network}: {seen:?}"
        );
        assert!(seen["200 v1"] > 20, "{network}: {seen:?}");
        assert_eq!(rig.containers().len(), 1, "{network}");
        // And goes on being deployed.
        rig.must_deploy(&version("v3", &rest));
        assert_eq!(rig.ask(), "v3");
    }
}

#[test]
fn an_attacked_container_of_a_service_is_healed_by_the_agent_without_dropping_a_request() {
    let rig = Rig::new();
    let rest = format!("    network_mode: bridge\n    read_only: false\n{AT_ONCE}");
    rig.must_deploy(&version("v1", &rest));
    let policy = rig.invar.root().join("agent.toml");
    fs::write(
        &policy,
        "version = 1\n[default]\nmode = \"block\"\nrespond = \"replace\"\n",
    )
    .unwrap();
    let gateway = rig.invar.root().join("gateway.sock");
    let mut agent = rig
        .invar
        .command(&["agent", "--policy"])
        .arg(&policy)
        .arg("--gateway")
        .arg(&gateway)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (name, id) = first_container(&rig);
    eventually("it is watched", || {
        let status = rig.invar.output(&["agent", "status", "--format", "json"]);
        support::text(&status.stdout).contains(&id).then_some(())
    });
    let load = Load::start(rig.port);
    // The image has one program; a copy of it at another place is not of the image.
    let upper = rig.invar.root().join("containers").join(&id).join("upper");
    fs::copy("/bin/busybox", upper.join("evil")).unwrap();
    rig.invar.output(&["exec", &name, "/evil", "true"]);
    eventually("it is healed", || {
        let incidents = rig.invar.run(&["agent", "incidents", "--format", "json"]);
        let incidents: serde_json::Value = serde_json::from_str(&incidents).unwrap();
        let outcome = incidents[0]["outcome"].as_str()?.to_owned();
        assert!(outcome.contains("replaced by"), "{outcome}");
        Some(())
    });
    let seen = load.end();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_ne!(first_container(&rig).1, id);
    assert!(seen.keys().all(|answer| answer == "200 v1"), "{seen:?}");
}

#[test]
fn a_service_that_is_not_in_the_file_any_more_is_named_and_taken_away_when_asked() {
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap().port();
    drop(listener);
    let two = format!(
        "{}  api:\n    image: app:v3\n    command: [/app]\n    ports: ['127.0.0.1:{other}:80']\n",
        version("v1", "")
    );
    rig.must_deploy(&two);
    assert_eq!(Client::new(other).ask().unwrap().1, "v3");
    let one = version("v1", "");
    let (code, out, err) = rig.deploy(&one);
    assert_eq!(code, Some(0), "{out}\n{err}");
    assert!(
        err.contains("shop.api is not in the file any more"),
        "{err}"
    );
    assert!(err.contains("invar undeploy shop.api"), "{err}");
    assert_eq!(Client::new(other).ask().unwrap().1, "v3");

    let load = Load::start(rig.port);
    let file = rig.file(&one);
    let args = ["deploy", "--remove-orphans", "-f", file.to_str().unwrap()];
    let said = support::text(&checked(&mut rig.command(&args)).stdout);
    assert!(said.contains("shop.api: is not served any more"), "{said}");
    let seen = load.end();
    assert!(seen.keys().all(|answer| answer == "200 v1"), "{seen:?}");
    assert!(TcpStream::connect(("127.0.0.1", other)).is_err());
    assert_eq!(rig.containers().len(), 1);

    checked(&mut rig.command(&["undeploy", "web"]));
    assert!(TcpStream::connect(("127.0.0.1", rig.port)).is_err());
    assert_eq!(rig.containers().len(), 0);
    let (code, _, err) = support::outcome_of(&rig.command(&["rollback", "web"]).output().unwrap());
    assert_eq!(code, Some(1), "{err}");
    // And can come back.
    rig.must_deploy(&one);
    assert_eq!(rig.ask(), "v1");
}

#[test]
fn a_warm_revision_whose_time_is_over_goes_with_the_next_deploy_of_anything() {
    let rig = Rig::new();
    let keep = "    x-invar: { rollout: { hold: 200ms, keep: 1s } }\n";
    rig.must_deploy(&version("v1", keep));
    rig.must_deploy(&version("v3", keep));
    assert_eq!(rig.containers().len(), 2, "the one before is warm");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    rig.must_deploy(&version("v3", keep));
    assert_eq!(rig.containers().len(), 1);
}

#[test]
fn a_canary_that_tries_to_run_a_foreign_program_is_rolled_back() {
    let rig = Rig::new();
    // Files may change in it: only what the agent refuses counts.
    let rest = "    network_mode: bridge\n    read_only: false\n    x-invar: { allow: [/evil], rollout: \
                { steps: [50%], hold: 60s } }\n";
    rig.must_deploy(&version("v1", rest));
    let policy = rig.invar.root().join("agent.toml");
    fs::write(&policy, "version = 1\n[default]\nmode = \"block\"\n").unwrap();
    let mut agent = rig.invar.command(&["agent", "--policy"]);
    let mut agent = agent.arg(&policy).stdout(Stdio::null()).spawn().unwrap();
    let file = rig.file(&version("v3", rest));
    let mut deploy = rig.command(&["deploy", "-f", file.to_str().unwrap()]);
    let deploy = deploy.stdout(Stdio::piped()).stderr(Stdio::piped());
    let deploy = deploy.spawn().unwrap();
    let (name, id) = eventually("the new one is watched", || {
        let status = rig.invar.output(&["agent", "status", "--format", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        let listed = rig.invar.run(&["ps", "--format", "jsonl"]);
        let mut all = listed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let newest: serde_json::Value =
            all.find(|one: &serde_json::Value| one["image"].to_string().contains("app:v3"))?;
        let id = newest["id"].as_str()?.to_owned();
        let watched = status["containers"]
            .as_array()?
            .iter()
            .any(|one| one["id"] == id.as_str());
        watched.then(|| (newest["name"].as_str().unwrap().to_owned(), id))
    });
    let upper = rig.invar.root().join("containers").join(id).join("upper");
    fs::copy("/bin/busybox", upper.join("evil")).unwrap();
    rig.invar.output(&["exec", &name, "/evil", "true"]);
    let ended = deploy.wait_with_output().unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    let said = support::text(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("tried to run what is not of the image: exec-blocked /evil"),
        "{said}"
    );
    assert_eq!(rig.ask(), "v1");
}
