//! Clients that mean harm: floods, bombs, and those that never finish or never read.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::time::{Duration, Instant};

use rig::client::{Http, get};
use rig::raw::{BASE, Raw};
use rig::upstream::Upstream;
use rig::{Gateway, eventually, service};
use serde_json::{Value, json};

/// What all attacks of one test together may cost.
const MOST_MEMORY: usize = 128 * 1024 * 1024;

fn gateway(upstream: &Upstream, limits: Value) -> Gateway {
    Gateway::with(json!({
        "services": [service("web", &[("r1", &[upstream.address])])],
        "routes": [{"host": "*", "service": "web"}],
        "limits": limits,
    }))
}

/// Others are served, nothing is left behind, and this process, of which the gateway is a part, has
/// not grown.
fn assert_unharmed(gateway: &Gateway, memory_before: usize) {
    assert_eq!(get(gateway.address, "/").text(), "r1");
    eventually("nothing is left in flight", || in_flight(gateway) == 0);
    let grown = memory().saturating_sub(memory_before);
    assert!(grown < MOST_MEMORY, "it grew by {grown} bytes");
}

fn in_flight(gateway: &Gateway) -> u64 {
    gateway.status().services["web"].revisions["r1"]
        .drain
        .in_flight
}

/// Resident bytes of this process.
fn memory() -> usize {
    let text = fs_err::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn rapid_reset(raw: &mut Raw) {
    for turn in 0..2_000_u32 {
        let stream = 2 * turn + 1;
        let mut fields = BASE;
        fields[3].1 = "/slow/1000";
        raw.headers(stream, true, &fields);
        raw.frame(3, 0, stream, &8_u32.to_be_bytes());
    }
}

fn endless_headers(raw: &mut Raw) {
    let field = [[0, 1, b'x', 100].as_slice(), &[b'y'; 100]].concat();
    raw.frame(1, 0, 1, &[]);
    for _ in 0..10_000 {
        raw.frame(9, 0, 1, &field);
    }
}

/// Three kilobytes that are sent once and meant two thousand times (RFC 7541, 6.1).
fn compression_bomb(raw: &mut Raw) {
    let large = [[0x40, 1, b'x', 0x7f, 0xb9, 0x16].as_slice(), &[b'y'; 3000]].concat();
    let mut block = Vec::new();
    for (name, value) in BASE {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block.extend(large);
    block.extend([0xbe; 2000]);
    raw.frame(1, 5, 1, &block);
}

#[test]
fn floods_and_bombs_over_http2_end_the_connection() {
    let upstream = Upstream::start("r1");
    let gateway = gateway(&upstream, json!({}));
    let before = memory();
    for (what, flood) in [
        ("rapid reset", &rapid_reset as &dyn Fn(&mut Raw)),
        ("endless headers", &endless_headers),
        ("a compression bomb", &compression_bomb),
    ] {
        let mut raw = Raw::connect(&gateway);
        flood(&mut raw);
        assert!(raw.is_refused(), "{what}");
    }
    assert_unharmed(&gateway, before);
}

/// Frames that each ask for an answer or for work, from a client that reads nothing.
#[test]
fn floods_of_cheap_frames_cost_little() {
    let upstream = Upstream::start("r1");
    let gateway = gateway(&upstream, json!({}));
    let before = memory();
    let settings = [0, 4, 0, 1, 0, 0].repeat(100);
    for (what, kind, stream, payload) in [
        ("pings", 6, 0, &[0; 8][..]),
        ("empty settings", 4, 0, &[]),
        ("long settings", 4, 0, &settings),
        ("window updates", 8, 0, &[0, 0, 0, 1]),
        ("priorities", 2, 1, &[0, 0, 0, 0, 16]),
        ("resets of streams that never were", 3, 1, &[0, 0, 0, 8]),
        ("empty data", 0, 1, &[]),
        ("unknown frames", 0xee, 0, &[0; 100]),
    ] {
        let mut raw = Raw::connect(&gateway);
        let limit = Duration::from_millis(200);
        raw.0.set_write_timeout(Some(limit)).unwrap();
        if kind == 0 {
            raw.headers(1, false, &BASE);
        }
        let begun = Instant::now();
        for _ in 0..20_000 {
            // A full buffer has shown what there is to see.
            if begun.elapsed() > Duration::from_secs(2) {
                break;
            }
            raw.frame(kind, 0, stream, payload);
        }
        assert_eq!(get(gateway.address, "/").text(), "r1", "{what}");
    }
    assert_unharmed(&gateway, before);
}

#[test]
fn an_http2_client_that_never_finishes_its_head_is_ended() {
    let upstream = Upstream::start("r1");
    let gateway = gateway(&upstream, json!({"keep_alive_ms": 300}));
    for unfinished in [false, true] {
        let mut raw = Raw::connect(&gateway);
        if unfinished {
            raw.frame(1, 0, 1, &[0x82]);
        }
        assert!(raw.is_refused(), "unfinished head: {unfinished}");
    }
    eventually("both are closed", || {
        let metrics = gateway.ask(json!({"op": "metrics"}));
        metrics.as_str().unwrap().contains("connections_open 0")
    });
}

#[test]
fn a_client_that_never_reads_does_not_hold_its_container() {
    let upstream = Upstream::start("r1");
    let gateway = gateway(&upstream, json!({"write_idle_ms": 300}));
    let mut deaf = Http::connect(gateway.address).unwrap();
    deaf.send(b"GET /bytes/50000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    eventually("it is asked for", || upstream.requests() == 1);
    eventually("its container is free", || in_flight(&gateway) == 0);

    // Over HTTP/2 it need not even leave its buffer full: it gives no window.
    let mut raw = Raw::connect(&gateway);
    raw.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut fields = BASE;
    (fields[0].1, fields[3].1) = ("GET", "/bytes/50000000");
    raw.headers(1, true, &fields);
    eventually("it is asked for", || upstream.requests() == 2);
    eventually("its container is free", || in_flight(&gateway) == 0);
}
