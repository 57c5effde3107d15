//! Trials: weights, cookies, rules, mirrors, leases, health.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use rig::client::{Http, get};
use rig::upstream::Upstream;
use rig::{Gateway, eventually, free_address, service};
use serde_json::{Value, json};

struct Pair {
    one: Upstream,
    two: Upstream,
    gateway: Gateway,
}

fn pair(change: impl FnOnce(&mut Value)) -> Pair {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let mut web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    change(&mut web);
    let gateway = Gateway::start(json!([web]));
    Pair { one, two, gateway }
}

impl Pair {
    fn canary(&self, canary: Value) {
        self.gateway
            .ask(json!({"op": "canary", "service": "web", "canary": canary}));
    }
}

#[test]
fn weights_are_kept_even_over_few_requests() {
    let pair = pair(|_| {});
    let mut connection = Http::connect(pair.gateway.address).unwrap();
    for (weight, expected) in [(100, 1), (1_000, 10), (5_000, 50), (10_000, 100), (0, 0)] {
        pair.canary(json!({"weights": {"r2": weight}}));
        let before = pair.two.requests();
        for _ in 0..100 {
            assert_eq!(connection.get("/").unwrap().status, 200);
        }
        let hits = pair.two.requests() - before;
        assert!(hits.abs_diff(expected) <= 1, "{hits} of 100 for {weight}");
    }
}

#[test]
fn a_visitor_stays_on_one_side_until_a_rollback() {
    let pair = pair(|web| web["sticky_cookie"] = json!("side"));
    pair.canary(json!({"weights": {"r2": 5_000}}));
    let mut connection = Http::connect(pair.gateway.address).unwrap();
    let cookie = loop {
        let reply = connection.get("/").unwrap();
        let cookie = reply.header("set-cookie").unwrap();
        assert!(cookie.contains("HttpOnly"), "{cookie}");
        if reply.text() == "r2" {
            break format!("Cookie: {}", cookie.split(';').next().unwrap());
        }
    };
    for _ in 0..50 {
        let reply = connection.get_with("/", &cookie).unwrap();
        assert_eq!(
            (reply.text().as_str(), reply.header("set-cookie")),
            ("r2", None)
        );
    }
    pair.gateway
        .client()
        .switch("web", "r1", Duration::ZERO)
        .unwrap();
    for _ in 0..50 {
        assert_eq!(connection.get_with("/", &cookie).unwrap().text(), "r1");
    }
    // The next trial does not find the visitors of the last one.
    pair.canary(json!({"weights": {"r2": 1}}));
    let sides: Vec<String> = (0..20)
        .map(|_| connection.get_with("/", &cookie).unwrap().text())
        .collect();
    assert!(sides.iter().filter(|side| *side == "r2").count() < 5);
}

#[test]
fn testers_are_led_to_a_revision_by_header_or_cookie() {
    let pair = pair(|_| {});
    pair.canary(json!({"rules": [
        {"header": "X-Preview", "value": "yes", "revision": "r2"},
        {"cookie": "beta", "value": "on", "revision": "r2"},
    ]}));
    let epoch = pair.gateway.status().services["web"].epoch;
    let mut connection = Http::connect(pair.gateway.address).unwrap();
    for (field, expected) in [
        ("X-Preview: yes".to_owned(), "r2"),
        ("X-Preview: no".to_owned(), "r1"),
        (format!("Cookie: a=b; beta=on.{epoch}"), "r2"),
        (format!("Cookie: beta=on.{}", epoch - 1), "r1"),
        ("X-Other: 1".to_owned(), "r1"),
    ] {
        assert_eq!(
            connection.get_with("/", &field).unwrap().text(),
            expected,
            "{field}"
        );
    }
}

#[test]
fn a_canary_nobody_renews_goes_back_to_nothing() {
    let pair = pair(|_| {});
    pair.canary(json!({"weights": {"r2": 10_000}, "lease_ms": 400}));
    let mut client = pair.gateway.client();
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(150));
        client.renew("web").unwrap();
        assert_eq!(get(pair.gateway.address, "/").text(), "r2");
    }
    eventually("the lease is over", || {
        get(pair.gateway.address, "/").text() == "r1"
    });
    let status = pair.gateway.status();
    assert_eq!(status.services["web"].canary, None);
    assert!(
        client
            .renew("web")
            .unwrap_err()
            .to_string()
            .contains("lease")
    );
    let metrics: String = client
        .ask(&serde_json::from_value(json!({"op": "metrics"})).unwrap())
        .unwrap();
    assert!(metrics.contains("invar_gateway_leases_expired_total 1"));
}

#[test]
fn a_mirror_gets_copies_and_clients_never_notice() {
    let pair = pair(|_| {});
    pair.canary(json!({"mirror": {"revision": "r2", "share": 10_000, "unsafe_methods": true}}));
    let mut connection = Http::connect(pair.gateway.address).unwrap();
    for _ in 0..10 {
        assert_eq!(connection.get("/").unwrap().text(), "r1");
        assert_eq!(connection.post("/echo", b"body").unwrap().text(), "body");
    }
    eventually("all copies came", || {
        pair.two.seen.mirrored.load(SeqCst) == 20
    });
    // Longer than a copy may be: answered, not copied.
    assert_eq!(
        connection
            .post("/echo", &vec![0; 100_000])
            .unwrap()
            .body
            .len(),
        100_000
    );
    let counts = pair.gateway.status().services["web"].revisions["r2"]
        .counts
        .clone();
    assert_eq!(
        (counts.mirrored, counts.mirror_skipped),
        (20, 1),
        "{counts:?}"
    );
    assert!(counts.codes.is_empty(), "copies are counted as answers");
    pair.two.seen.is_ill.store(true, SeqCst);
    assert_eq!(connection.get("/").unwrap().text(), "r1");
    eventually("its failure is counted", || {
        pair.gateway.status().services["web"].revisions["r2"]
            .counts
            .mirror_failed
            == 1
    });
    assert_eq!(pair.one.requests(), 22);
}

#[test]
fn a_mirror_that_hangs_holds_nobody_up() {
    let pair = pair(|_| {});
    pair.canary(json!({"mirror": {"revision": "r2", "share": 10_000}}));
    let mut connection = Http::connect(pair.gateway.address).unwrap();
    for _ in 0..200 {
        assert_eq!(connection.get("/slow/1").unwrap().text(), "r1");
    }
}

#[test]
fn a_pause_lets_requests_wait_and_ends_by_command() {
    let pair = pair(|_| {});
    pair.gateway
        .ask(json!({"op": "pause", "service": "web", "limit_ms": 20_000}));
    let address = pair.gateway.address;
    let waiting = std::thread::spawn(move || get(address, "/").text());
    eventually("a request waits", || {
        pair.gateway.status().services["web"].waiting == 1
    });
    assert_eq!(pair.one.requests(), 0);
    pair.gateway.ask(json!({"op": "resume", "service": "web"}));
    assert_eq!(waiting.join().unwrap(), "r1");
}

#[test]
fn a_container_that_falls_ill_is_left_and_comes_back() {
    let (one, two) = (Upstream::start("a"), Upstream::start("b"));
    let mut web = service("web", &[("r1", &[one.address, two.address])]);
    web["health"] = json!({"path": "/health", "interval_ms": 30, "timeout_ms": 500, "unhealthy": 2, "healthy": 2});
    let gateway = Gateway::start(json!([web]));
    let up = |number: usize| gateway.status().services["web"].revisions["r1"].endpoints[number].up;
    let hits = || {
        let before = one.requests();
        let mut connection = Http::connect(gateway.address).unwrap();
        for _ in 0..40 {
            assert_eq!(connection.get("/").unwrap().status, 200);
        }
        one.requests() - before
    };
    assert!(hits() > 0);
    one.seen.is_ill.store(true, SeqCst);
    eventually("it is left", || !up(0));
    assert_eq!(hits(), 0);
    one.seen.is_ill.store(false, SeqCst);
    eventually("it is back", || up(0));
    assert!(hits() > 0);
}

#[test]
fn a_container_that_fails_real_requests_is_left_alone_for_a_while() {
    let good = Upstream::start("good");
    let mut web = service("web", &[("r1", &[free_address(), good.address])]);
    web["policy"] = json!({"eject_after": 2, "eject_ms": 300});
    let gateway = Gateway::start(json!([web]));
    let ejected = || gateway.status().services["web"].revisions["r1"].endpoints[0].ejected;
    eventually("it is ejected", || {
        assert_eq!(get(gateway.address, "/").text(), "good");
        ejected()
    });
    let errors = || {
        gateway.status().services["web"].revisions["r1"]
            .counts
            .upstream_errors
    };
    let before = errors();
    for _ in 0..20 {
        get(gateway.address, "/");
    }
    assert!(errors() - before <= 1, "an ejected container was asked");
    eventually("it is tried again", || {
        assert_eq!(get(gateway.address, "/").text(), "good");
        errors() > before + 1
    });
}

#[test]
fn a_dead_canary_costs_no_answer() {
    let one = Upstream::start("r1");
    let mut web = service("web", &[("r1", &[one.address]), ("r2", &[free_address()])]);
    web["policy"] = json!({"eject_after": 1, "retries": 0});
    web["canary"] = json!({"weights": {"r2": 5_000}});
    let gateway = Gateway::start(json!([web]));
    let mut connection = Http::connect(gateway.address).unwrap();
    let failed = (0..100)
        .filter(|_| connection.get("/").unwrap().status != 200)
        .count();
    assert!(failed <= 1, "{failed} of 100 failed: only the first may");
}

#[test]
fn a_service_without_any_container_says_so() {
    let gateway = Gateway::start(json!([service("web", &[("r1", &[free_address()])])]));
    let reply = get(gateway.address, "/");
    assert_eq!(reply.status, 502);
    assert!(
        reply.text().contains("takes no connections"),
        "{}",
        reply.text()
    );
}
