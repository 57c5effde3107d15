//! A million requests through thousands of switches: `make soak`.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rig::load::Load;
use rig::upstream::Upstream;
use rig::{Gateway, service};
use serde_json::json;

const REQUESTS: u64 = 1_000_000;
const MOST_TIME: Duration = Duration::from_mins(20);

#[test]
#[ignore = "takes minutes: run by make soak"]
fn of_a_million_requests_none_is_lost_to_switches() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    let gateway = Gateway::start(json!([web]));
    let mut load = Load::new();
    load.keep_alive(8, gateway.address, "/");
    load.short(1, gateway.address, "/");
    load.keep_alive(4, gateway.address, "/slow/20");
    load.posting(2, gateway.address);
    let mut client = gateway.client();
    let begun = Instant::now();
    let mut switches = 0;
    while load.done.load(SeqCst) < REQUESTS {
        assert!(
            begun.elapsed() < MOST_TIME,
            "only {} requests",
            load.done.load(SeqCst)
        );
        let to = ["r2", "r1"][switches % 2];
        client.switch("web", to, Duration::from_secs(5)).unwrap();
        switches += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let (done, failures) = load.finish();
    assert_eq!(
        failures,
        [] as [String; 0],
        "of {done} requests, {switches} switches"
    );
}
