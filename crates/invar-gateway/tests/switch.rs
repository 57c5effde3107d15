//! Traffic moves between revisions, and no request is lost.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rig::client::{Http, get};
use rig::load::Load;
use rig::upstream::Upstream;
use rig::{Gateway, service};
use serde_json::json;

#[test]
fn a_switch_moves_all_requests_at_once_and_says_when() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    let gateway = Gateway::start(json!([web]));
    let mut connection = Http::connect(gateway.address).unwrap();
    assert_eq!(connection.get("/").unwrap().text(), "r1");
    let switched = gateway
        .client()
        .switch("web", "r2", Duration::from_secs(1))
        .unwrap();
    assert_eq!(switched.from, "r1");
    assert_eq!(switched.not_saved, None);
    let last = switched.last_request_unix_us.unwrap();
    assert!(
        last <= switched.at_unix_us && switched.took_us < 10_000,
        "{switched:?}"
    );
    // The same connection, kept alive, asks the other revision from its next request on.
    assert_eq!(connection.get("/").unwrap().text(), "r2");
    let back = gateway
        .client()
        .switch("web", "r1", Duration::from_secs(1))
        .unwrap();
    assert!(back.epoch > switched.epoch);
    assert_eq!(connection.get("/").unwrap().text(), "r1");
    assert_eq!((one.requests(), two.requests()), (2, 1));
}

/// Keep-alive, short, slow and posting clients and open sockets, through a hundred switches.
#[test]
fn a_hundred_switches_under_load_lose_nothing() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    let gateway = Gateway::start(json!([web]));
    let mut load = Load::new();
    load.keep_alive(4, gateway.address, "/");
    load.short(2, gateway.address, "/");
    load.keep_alive(4, gateway.address, "/slow/40");
    load.keep_alive(2, gateway.address, "/drip/5");
    load.posting(2, gateway.address);
    for _ in 0..4 {
        let mut socket = Http::connect(gateway.address)
            .unwrap()
            .websocket("/ws")
            .unwrap();
        load.client(move || match socket.echo(b"hello") {
            Ok(text) if text == b"hello" => Ok(()),
            other => Err(format!("websocket: {other:?}")),
        });
    }
    let mut client = gateway.client();
    let mut slowest = 0;
    for turn in 0..100 {
        let to = ["r2", "r1"][turn % 2];
        let before = load.done.load(SeqCst);
        let switched = client.switch("web", to, Duration::from_secs(5)).unwrap();
        slowest = slowest.max(switched.took_us);
        rig::eventually("the load goes on", || load.done.load(SeqCst) > before + 20);
    }
    let (done, failures) = load.finish();
    assert_eq!(failures, [] as [String; 0], "of {done} requests");
    assert!(slowest < 10_000, "a switch took {slowest} µs");
    assert!(one.requests() > 100 && two.requests() > 100);
    assert!(done > 2_000, "only {done} requests");
}

#[test]
fn a_revision_is_drained_when_its_last_request_is_done() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    let gateway = Gateway::start(json!([web]));
    let mut slow = Http::connect(gateway.address).unwrap();
    slow.send(b"GET /slow/600 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    rig::eventually("the request is in flight", || one.requests() == 1);
    let begun = Instant::now();
    let mut client = gateway.client();
    let active = client.drain("web", "r1", Duration::ZERO).unwrap();
    assert_eq!((active.state.as_str(), active.in_flight), ("active", 1));
    assert_eq!(
        client
            .switch("web", "r2", Duration::from_secs(9))
            .unwrap()
            .in_flight,
        1
    );
    let draining = client.drain("web", "r1", Duration::ZERO).unwrap();
    assert_eq!(draining.state, "draining");
    let drained = client.drain("web", "r1", Duration::from_secs(9)).unwrap();
    assert_eq!((drained.state.as_str(), drained.in_flight), ("drained", 0));
    assert!(begun.elapsed() > Duration::from_millis(400));
    assert_eq!(slow.reply().unwrap().text(), "r1");
}

#[test]
fn a_drain_that_takes_too_long_ends_at_its_limit() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    let gateway = Gateway::start(json!([web]));
    let mut slow = Http::connect(gateway.address).unwrap();
    slow.send(b"GET /slow/2000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    rig::eventually("the request is in flight", || one.requests() == 1);
    let mut client = gateway.client();
    client
        .switch("web", "r2", Duration::from_millis(100))
        .unwrap();
    let status = client.drain("web", "r1", Duration::from_secs(9)).unwrap();
    assert_eq!((status.state.as_str(), status.in_flight), ("limit", 1));
    assert_eq!(
        slow.reply().unwrap().text(),
        "r1",
        "the request was cut off"
    );
}

#[test]
fn a_switch_to_containers_that_do_not_answer_is_refused() {
    let one = Upstream::start("r1");
    let web = service(
        "web",
        &[("r1", &[one.address]), ("r2", &[rig::free_address()])],
    );
    let gateway = Gateway::start(json!([web]));
    let error = gateway
        .client()
        .switch("web", "r2", Duration::ZERO)
        .unwrap_err();
    assert!(
        error.to_string().contains("none of its containers answers"),
        "{error}"
    );
    assert_eq!(get(gateway.address, "/").text(), "r1");
    let unknown = gateway
        .client()
        .switch("web", "r3", Duration::ZERO)
        .unwrap_err();
    assert!(
        unknown.to_string().contains("no revision named \"r3\""),
        "{unknown}"
    );
}

#[test]
fn an_exclusive_switch_never_has_requests_on_both_revisions() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    let gateway = Gateway::start(json!([web]));
    let mut slow = Http::connect(gateway.address).unwrap();
    slow.send(b"GET /slow/400 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    rig::eventually("the request is in flight", || one.requests() == 1);
    let address = gateway.address;
    let control = gateway.control();
    let switching = std::thread::spawn(move || {
        let mut client = invar_gateway::control::client::Client::connect(&control).unwrap();
        let request = json!({"op": "switch", "service": "web", "to": "r2", "exclusive_ms": 5000});
        let request = serde_json::from_value(request).unwrap();
        client
            .ask::<invar_gateway::control::protocol::Switched>(&request)
            .unwrap()
    });
    rig::eventually("the service is paused", || {
        gateway.status().services["web"].paused
    });
    let waiting = std::thread::spawn(move || get(address, "/").text());
    rig::eventually("a request waits", || {
        gateway.status().services["web"].waiting == 1
    });
    assert_eq!(two.requests(), 0);
    assert_eq!(slow.reply().unwrap().text(), "r1");
    assert_eq!(switching.join().unwrap().in_flight, 0);
    assert_eq!(waiting.join().unwrap(), "r2");
    assert_eq!(one.requests(), 1);
}
