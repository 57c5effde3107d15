//! Deploys and rollbacks, one after the other, under every kind of traffic: nothing is dropped and
//! nothing is closed early. A few of them with the other tests, hundreds with `make soak`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    dead_code,
    reason = "in tests a panic is the report; the long run tells its figures; the clients are shared \
              with the gateway's own tests"
)]

#[path = "../../invar-gateway/tests/rig/client.rs"]
mod client;
#[path = "../../invar-gateway/tests/rig/load.rs"]
mod load;
mod support;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::{Http, WebSocket};
use invar_testkit::{checked, eventually};
use load::Load;
use support::shop::Rig;

/// When the last request that a revision answered was sent, by the revision.
#[derive(Clone, Default)]
struct LastSent(Arc<Mutex<std::collections::BTreeMap<String, Instant>>>);

impl LastSent {
    fn note(&self, revision: &str, sent: Instant) {
        let mut all = self.0.lock().unwrap();
        let last = all.entry(revision.to_owned()).or_insert(sent);
        *last = sent.max(*last);
    }

    fn of(&self, revision: &str) -> Instant {
        self.0.lock().unwrap()[revision]
    }
}

/// The image `soak`: a server that answers with `ROUND` of its environment.
fn build_app(rig: &Rig) {
    let directory = rig.invar.root().join("app");
    fs_err::create_dir(&directory).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/socket_app.rs");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    checked(
        Command::new("rustc")
            .args(["--edition", "2024", "--target", &target])
            .args(["-C", "target-feature=+crt-static", "-C", "opt-level=1"])
            .arg("-o")
            .arg(directory.join("app"))
            .arg(source),
    );
    let archive = rig.invar.root().join("app.tar");
    let mut tar = Command::new("tar");
    checked(
        tar.arg("-C")
            .arg(&directory)
            .arg("-cf")
            .arg(&archive)
            .arg("app"),
    );
    rig.invar.import("soak", &archive);
}

fn service(round: u64) -> String {
    format!(
        "    image: soak\n    environment: {{ ROUND: r{round} }}\n    \
         x-invar: {{ rollout: {{ hold: 0s, keep: 10m, drain: 30s }} }}\n"
    )
}

/// One request on a kept connection, then a pause.
fn kept(
    load: &mut Load,
    address: SocketAddr,
    path: &'static str,
    pause: Duration,
    last: &LastSent,
) {
    let mut kept: Option<Http> = None;
    let last = last.clone();
    load.client(move || {
        std::thread::sleep(pause);
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Http::connect(address).map_err(|error| format!("connect: {error}"))?,
        };
        let sent = Instant::now();
        let reply = connection.get(path);
        let reply = reply.map_err(|error| format!("{path} on a kept connection: {error}"))?;
        if reply.status != 200 {
            return Err(format!("{path}: {} {}", reply.status, reply.text()));
        }
        last.note(&reply.text(), sent);
        if !reply.closes {
            kept = Some(connection);
        }
        Ok(())
    });
}

/// A connection for each request.
fn short(load: &mut Load, address: SocketAddr, pause: Duration) {
    load.client(move || {
        std::thread::sleep(pause);
        let reply = Http::connect(address).and_then(|mut connection| connection.get("/"));
        match reply {
            Ok(reply) if reply.status == 200 => Ok(()),
            Ok(reply) => Err(format!("short: {} {}", reply.status, reply.text())),
            Err(error) => Err(format!("short: {error}")),
        }
    });
}

/// A WebSocket that may end in one way only: with the Close frame of a lease that is over.
fn websocket(load: &mut Load, address: SocketAddr, pause: Duration) {
    let open = move || Http::connect(address).and_then(|connection| connection.websocket("/ws"));
    let mut socket: Option<WebSocket> = None;
    load.client(move || {
        std::thread::sleep(pause);
        let mut talk = || -> io::Result<()> {
            let mut talking = match socket.take() {
                Some(socket) => socket,
                None => open()?,
            };
            talking.send(1, b"hello")?;
            match talking.receive()? {
                (1, text) if text == b"hello" => socket = Some(talking),
                (8, code) if code == 1012_u16.to_be_bytes() => {}
                other => return Err(io::Error::other(format!("{other:?}"))),
            }
            Ok(())
        };
        talk().map_err(|error| format!("websocket: {error}"))
    });
}

/// What was measured.
#[derive(Default)]
struct Figures {
    /// From starting the command to the last request sent that the old revision answered.
    rollbacks: Vec<Duration>,
    /// As the gateway tells them.
    switches_us: Vec<u64>,
    deploys: Vec<Duration>,
}

impl Figures {
    fn tell(&mut self, done: u64, took: Duration) -> String {
        self.rollbacks.sort();
        self.switches_us.sort_unstable();
        self.deploys.sort();
        format!(
            "{done} requests in {:.0} s ({:.0}/s), {} deploys (median {:?}), {} rollbacks: last request on the old \
             revision after median {:?}, p99 {:?}, at most {:?}; pointer swaps median {} µs, p99 {} µs, \
             at most {} µs",
            took.as_secs_f64(),
            f64::from(u32::try_from(done).unwrap_or(u32::MAX)) / took.as_secs_f64(),
            self.deploys.len(),
            median(&self.deploys),
            self.rollbacks.len(),
            median(&self.rollbacks),
            p99(&self.rollbacks),
            self.rollbacks.last().unwrap(),
            median(&self.switches_us),
            p99(&self.switches_us),
            self.switches_us.last().unwrap(),
        )
    }
}

fn median<T: Copy>(sorted: &[T]) -> T {
    sorted[sorted.len() / 2]
}

/// The 99th of a hundred; of fewer the last.
fn p99<T: Copy>(sorted: &[T]) -> T {
    sorted[(sorted.len() * 99).div_ceil(100) - 1]
}

/// The microseconds of the swaps that a history tells of.
fn swaps(told: &str) -> impl Iterator<Item = u64> {
    let words: Vec<&str> = told.split_whitespace().collect();
    let found: Vec<u64> = words
        .windows(2)
        .filter(|pair| pair[1].starts_with("µs"))
        .filter_map(|pair| pair[0].parse().ok())
        .collect();
    found.into_iter()
}

/// Deploys and rolls back until `enough` says so.
fn run(pause: Duration, enough: impl Fn(u64) -> bool) -> Figures {
    let rig = Rig::bare();
    build_app(&rig);
    rig.must_deploy(&service(0));
    let address = SocketAddr::from(([127, 0, 0, 1], rig.port));
    let (mut load, last) = (Load::new(), LastSent::default());
    for _ in 0..6 {
        kept(&mut load, address, "/", pause, &last);
    }
    for _ in 0..2 {
        kept(&mut load, address, "/slow", pause, &LastSent::default());
        short(&mut load, address, pause);
        websocket(&mut load, address, pause);
    }
    let begun = Instant::now();
    let mut figures = Figures::default();
    let mut round = 0;
    while !enough(round) {
        round += 1;
        let (new, deploying) = (format!("r{round}"), Instant::now());
        let (code, out, err) = rig.deploy(&service(round));
        assert_eq!(code, Some(0), "round {round}: {out}\n{err}");
        figures.deploys.push(deploying.elapsed());
        eventually("the new revision answers", || {
            last.0.lock().unwrap().contains_key(&new).then_some(())
        });

        let command = Instant::now();
        checked(&mut rig.command(&["rollback", "web"]));
        // What was sent before the switch has been answered by then.
        std::thread::sleep(pause * 2 + Duration::from_millis(100));
        let until_last = last.of(&new).saturating_duration_since(command);
        figures.rollbacks.push(until_last);
        assert_eq!(rig.ask(), "r0", "round {round}");
    }
    let history = rig.invar.run(&["history", "shop.web"]);
    figures.switches_us.extend(swaps(&history));
    let (done, failures) = load.finish();
    eprintln!("{}", figures.tell(done, begun.elapsed()));
    assert_eq!(failures, [] as [String; 0], "of {done} requests");
    figures
}

#[test]
fn deploys_and_rollbacks_under_load_drop_nothing_and_close_nothing_early() {
    let figures = run(Duration::from_millis(5), |rounds| rounds >= 6);
    // The figure itself is of `make soak`; this is only not a boot of a container.
    let slowest = figures.rollbacks.last().unwrap();
    assert!(*slowest < Duration::from_secs(1), "{slowest:?}");
}

/// For `SOAK_MINUTES`, and at least a hundred times.
#[test]
#[ignore = "takes an hour: run by make soak"]
fn a_hundred_deploys_and_rollbacks_drop_nothing_and_take_ten_milliseconds() {
    let minutes = std::env::var("SOAK_MINUTES").ok();
    let minutes = minutes.map_or(60, |text| text.parse().unwrap());
    let until = Instant::now() + Duration::from_mins(minutes);
    let figures = run(Duration::from_millis(1), |rounds| {
        rounds >= 100 && Instant::now() >= until
    });
    let usual = median(&figures.rollbacks);
    assert!(usual <= Duration::from_millis(10), "{usual:?}");
    let slowest_swap = figures.switches_us.last().unwrap();
    assert!(*slowest_swap <= 10_000, "{slowest_swap} µs");
}
