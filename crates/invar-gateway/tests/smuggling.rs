//! Requests that a container could read otherwise than the gateway: refused, and none gets through.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::time::Duration;

use rig::client::Http;
use rig::raw::{BASE, Raw};
use rig::upstream::Upstream;
use rig::{Gateway, service};
use serde_json::json;

/// The request that is smuggled behind each of the others.
const SECOND: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const EMPTY_CHUNKS: &str = "0\r\n\r\n";

/// What it tries, the head, and what stands before the second request.
const HEADS: &[(&str, &str, &str)] = &[
    (
        "length, then coding",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "coding, then length",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n",
        "",
    ),
    (
        "the same length twice",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "",
    ),
    (
        "a list of lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 0\r\n\r\n",
        "",
    ),
    (
        "a signed length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
        "",
    ),
    (
        "a length too large",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "",
    ),
    (
        "a folded length",
        "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Content-Length: 40\r\n\r\n",
        "",
    ),
    (
        "a folded coding",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "bare line feeds",
        "POST / HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
        "",
    ),
    (
        "one bare line feed",
        "POST / HTTP/1.1\r\nHost: a\nContent-Length: 40\r\n\r\n",
        "",
    ),
    (
        "a bare return",
        "POST / HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 40\r\n\r\n",
        "",
    ),
    (
        "space before the colon",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 40\r\n\r\n",
        "",
    ),
    (
        "tab before the colon",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "a field of space",
        "POST / HTTP/1.1\r\n Host: a\r\nContent-Length: 0\r\n\r\n",
        "",
    ),
    (
        "an unknown coding",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "a coding behind another",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "two codings",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "a vertical tab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "a quoted coding",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "a coding in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        EMPTY_CHUNKS,
    ),
    (
        "another absolute host",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "",
    ),
    (
        "a user in the target",
        "GET http://a@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "",
    ),
    (
        "two hosts",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "",
    ),
    ("no host", "GET / HTTP/1.1\r\nX: a\r\n\r\n", ""),
    (
        "a null byte",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "",
    ),
    (
        "a tunnel",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "",
    ),
    (
        "a version that is none",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "",
    ),
    (
        "a target with a space",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "",
    ),
    ("a fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", ""),
];

const CHUNKS: &[(&str, &str)] = &[
    ("a size with a prefix", "0x1\r\na\r\n0\r\n\r\n"),
    ("a size with a sign", "+1\r\na\r\n0\r\n\r\n"),
    ("a bare line feed after the size", "1\na\r\n0\r\n\r\n"),
    (
        "a bare line feed in an extension",
        "1;x\ny\r\na\r\n0\r\n\r\n",
    ),
    ("a bare return in an extension", "1;\rx\r\na\r\n0\r\n\r\n"),
    ("a chunk longer than it says", "1\r\nab\r\n0\r\n\r\n"),
    ("a bare line feed after the data", "1\r\na\n0\r\n\r\n"),
    (
        "a size of too many digits",
        "00000000000000001\r\na\r\n0\r\n\r\n",
    ),
    (
        "a bare line feed in the trailers",
        "1\r\na\r\n0\r\nX: y\n\r\n",
    ),
    ("a folded trailer", "1\r\na\r\n0\r\nX: y\r\n z\r\n\r\n"),
];

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::start(json!([service("web", &[("r1", &[upstream.address])])]))
}

#[test]
fn ambiguous_heads_are_refused_and_end_the_connection() {
    let upstream = Upstream::start("r1");
    let gateway = gateway(&upstream);
    for (what, head, before) in HEADS {
        let mut connection = Http::connect(gateway.address).unwrap();
        connection
            .send(format!("{head}{before}{SECOND}").as_bytes())
            .unwrap();
        let reply = connection.reply().unwrap();
        assert!(
            (400..=501).contains(&reply.status),
            "{what}: {}",
            reply.status
        );
        assert!(reply.closes, "{what}: the connection is kept");
        let limit = Duration::from_secs(5);
        assert!(
            connection.is_closed_within(limit),
            "{what}: the second request is answered"
        );
    }
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn ambiguous_chunks_break_the_request_off() {
    let upstream = Upstream::start("r1");
    let gateway = gateway(&upstream);
    for (what, body) in CHUNKS {
        let mut connection = Http::connect(gateway.address).unwrap();
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection
            .send(format!("{head}{body}{SECOND}").as_bytes())
            .unwrap();
        assert_eq!(connection.reply().unwrap().status, 400, "{what}");
        let limit = Duration::from_secs(5);
        assert!(
            connection.is_closed_within(limit),
            "{what}: the second request is answered"
        );
    }
}

#[test]
fn an_absolute_target_that_agrees_with_the_host_is_served() {
    let upstream = Upstream::start("r1");
    let gateway = gateway(&upstream);
    let mut connection = Http::connect(gateway.address).unwrap();
    connection
        .send(b"GET http://A:80/head HTTP/1.1\r\nHost: a:80\r\n\r\n")
        .unwrap();
    let seen = connection.reply().unwrap().text();
    assert!(seen.starts_with("GET /head\n"), "{seen}");
}

#[test]
fn nothing_is_smuggled_through_a_downgrade_from_http2() {
    let upstream = Upstream::start("r1");
    let gateway = gateway(&upstream);
    for (what, field) in [
        ("a coding", ("transfer-encoding", "chunked")),
        ("a connection field", ("connection", "x")),
        ("an upgrade", ("upgrade", "h2c")),
        ("a line break in a value", ("x", "a\r\nContent-Length: 40")),
        ("a line feed in a value", ("x", "a\nb: c")),
        ("a null byte in a value", ("x", "a\0b")),
        ("a line break in a name", ("x: y\r\nz", "a")),
        ("a colon in a name", ("x:y", "a")),
        ("a space in a name", ("x y", "a")),
        ("a capital letter in a name", ("X", "a")),
        ("another host", ("host", "b")),
        ("a length that is none", ("content-length", "+4")),
        ("a second path", (":path", "/other")),
        ("an unknown pseudo field", (":x", "a")),
    ] {
        let mut raw = Raw::connect(&gateway);
        let fields = [BASE.as_slice(), &[field]].concat();
        raw.headers(1, true, &fields);
        assert!(raw.is_refused(), "{what} is accepted");
    }
    for (what, path) in [
        ("a space", "/a b"),
        ("a line break", "/a\r\nx: y"),
        ("no slash", "a"),
    ] {
        let mut raw = Raw::connect(&gateway);
        let mut fields = BASE;
        fields[3].1 = path;
        raw.headers(1, true, &fields);
        assert!(raw.is_refused(), "a path with {what} is accepted");
    }
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn an_http2_body_that_disagrees_with_its_length_is_refused() {
    let upstream = Upstream::start("r1");
    let gateway = gateway(&upstream);
    for (length, data) in [("4", "12345"), ("4", "123"), ("0", "1")] {
        let mut raw = Raw::connect(&gateway);
        let fields = [BASE.as_slice(), &[("content-length", length)]].concat();
        raw.headers(1, false, &fields);
        raw.frame(0, 1, 1, data.as_bytes());
        assert!(raw.is_refused(), "{data:?} is accepted as {length} bytes");
    }
}
