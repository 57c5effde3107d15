//! HTTP/1.1 as clients send it, well-meant or not.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use invar_testkit::{checked, require};
use rig::client::{Http, get};
use rig::upstream::Upstream;
use rig::{Gateway, service};
use serde_json::{Value, json};

fn one(upstream: &Upstream) -> Gateway {
    Gateway::start(json!([service("web", &[("r1", &[upstream.address])])]))
}

/// What the gateway answers to bytes, and whether it closes the connection.
fn raw(address: SocketAddr, bytes: &[u8]) -> (u16, bool) {
    let mut connection = Http::connect(address).unwrap();
    connection.send(bytes).unwrap();
    let reply = connection.reply().unwrap();
    (
        reply.status,
        reply.closes && connection.is_closed_within(Duration::from_secs(5)),
    )
}

#[test]
fn fields_of_one_connection_stay_there_and_the_client_is_named() {
    let upstream = Upstream::start("r1");
    let gateway = one(&upstream);
    let mut connection = Http::connect(gateway.address).unwrap();
    connection
        .send(
            b"GET /head?q=1 HTTP/1.1\r\nHost: Web.test:80\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\n\
              X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6\r\n\
              TE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nProxy-Authorization: x\r\nAccept: */*\r\n\r\n",
        )
        .unwrap();
    let seen = connection.reply().unwrap().text();
    assert!(seen.starts_with("GET /head?q=1\n"), "{seen}");
    for there in [
        r#""host": "Web.test:80""#,
        r#""x-forwarded-for": "127.0.0.1""#,
        r#""x-forwarded-proto": "http""#,
        r#""x-forwarded-host": "Web.test:80""#,
        r#""accept": "*/*""#,
    ] {
        assert!(seen.contains(there), "{there} is not in {seen}");
    }
    for gone in [
        "x-secret",
        "6.6.6.6",
        "forwarded\":",
        "\"te\"",
        "upgrade",
        "proxy-auth",
    ] {
        assert!(!seen.contains(gone), "{gone} is in {seen}");
    }
}

#[test]
fn a_trusted_proxy_is_believed() {
    let upstream = Upstream::start("r1");
    let address = rig::free_address();
    let gateway = Gateway::with(json!({
        "listeners": [{"address": address, "trusted_proxies": ["127.0.0.1"]}],
        "services": [service("web", &[("r1", &[upstream.address])])],
        "routes": [{"host": "*", "service": "web"}],
    }));
    let fields = "X-Forwarded-For: 10.0.0.9\r\nX-Forwarded-Proto: https";
    let seen = Http::connect(gateway.address)
        .unwrap()
        .get_with("/head", fields)
        .unwrap()
        .text();
    assert!(
        seen.contains(r#""x-forwarded-for": "10.0.0.9, 127.0.0.1""#),
        "{seen}"
    );
    assert!(seen.contains(r#""x-forwarded-proto": "https""#), "{seen}");
}

#[test]
fn bodies_of_every_framing_and_size_arrive_whole() {
    let upstream = Upstream::start("r1");
    let gateway = one(&upstream);
    let mut connection = Http::connect(gateway.address).unwrap();
    for size in [0, 1, 4095, 4096, 4097, 70_000, 1_000_000] {
        let body: Vec<u8> = (0..size)
            .map(|index| u8::try_from(index % 251).unwrap())
            .collect();
        assert!(
            connection.post("/echo", &body).unwrap().body == body,
            "{size} with a length"
        );
        let mut request =
            b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.chunks(7_000) {
            request.extend(format!("{:X};x=y\r\n", chunk.len()).bytes());
            request.extend_from_slice(chunk);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\nTail: 1\r\n\r\n");
        connection.send(&request).unwrap();
        assert!(connection.reply().unwrap().body == body, "{size} in chunks");
        let reply = connection.get(&format!("/bytes/{size}")).unwrap();
        assert_eq!(reply.body.len(), size);
    }
    let dripped = connection.get("/drip/5").unwrap();
    assert_eq!(dripped.text(), "drop".repeat(5));
    assert_eq!(dripped.header("transfer-encoding"), Some("chunked"));
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let upstream = Upstream::start("r1");
    let gateway = one(&upstream);
    let mut connection = Http::connect(gateway.address).unwrap();
    let all: Vec<String> = (1..=50)
        .map(|size| format!("GET /bytes/{size} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    let all = all.concat();
    connection.send(all.as_bytes()).unwrap();
    for size in 1..=50 {
        assert_eq!(connection.reply().unwrap().body.len(), size);
    }
}

#[test]
fn head_no_content_and_old_clients_are_served() {
    let upstream = Upstream::start("r1");
    let gateway = one(&upstream);
    let mut connection = Http::connect(gateway.address).unwrap();
    connection
        .send(b"HEAD /bytes/5 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let head = connection.head().unwrap();
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("5"))
    );
    assert_eq!(connection.get("/status/204").unwrap().status, 204);
    assert_eq!(connection.get("/status/304").unwrap().status, 304);
    assert_eq!(connection.get("/").unwrap().text(), "r1");

    let mut old = TcpStream::connect(gateway.address).unwrap();
    old.write_all(b"GET /drip/3 HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\ndropdropdrop"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    let mut kept = Http::connect(gateway.address).unwrap();
    for _ in 0..2 {
        kept.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .unwrap();
        let reply = kept.reply().unwrap();
        assert_eq!(
            (reply.text().as_str(), reply.header("connection")),
            ("r1", Some("keep-alive"))
        );
    }
}

#[test]
fn a_client_that_asks_first_is_told_to_send_its_body() {
    let upstream = Upstream::start("r1");
    let gateway = one(&upstream);
    let mut connection = Http::connect(gateway.address).unwrap();
    connection
        .send(
            b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
        )
        .unwrap();
    assert_eq!(connection.head().unwrap().status, 100);
    connection.send(b"body").unwrap();
    assert_eq!(connection.reply().unwrap().text(), "body");
}

#[test]
fn an_answer_that_comes_before_the_body_is_sent_is_not_lost() {
    let upstream = Upstream::start("r1");
    let mut web = service("web", &[("r1", &[upstream.address])]);
    web["policy"] = json!({"body_bytes": 4_000_000});
    let gateway = Gateway::start(json!([web]));
    for (size, expected) in [(1_000_000, 403), (3_000_000, 403), (5_000_000, 413)] {
        let body = vec![b'x'; size];
        let reply = Http::connect(gateway.address)
            .unwrap()
            .post("/status/403", &body);
        assert_eq!(reply.unwrap().status, expected, "{size}");
    }
}

#[test]
fn slow_heads_and_bodies_are_ended_by_a_deadline() {
    let upstream = Upstream::start("r1");
    let gateway = Gateway::with(json!({
        "services": [service("web", &[("r1", &[upstream.address])])],
        "routes": [{"host": "*", "service": "web"}],
        "limits": {"head_ms": 200, "body_idle_ms": 200, "keep_alive_ms": 400},
    }));
    let begun = Instant::now();
    let mut head = Http::connect(gateway.address).unwrap();
    for byte in "GET / HTTP/1.1\r\n".bytes() {
        // One byte after the other must not put the deadline off.
        if head.send(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(head.reply().unwrap().status, 408);
    let mut body = Http::connect(gateway.address).unwrap();
    body.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        .unwrap();
    assert_eq!(body.reply().unwrap().status, 408);
    let mut idle = Http::connect(gateway.address).unwrap();
    assert!(idle.is_closed_within(Duration::from_secs(5)));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_is_too_large_is_refused() {
    let upstream = Upstream::start("r1");
    let mut web = service("web", &[("r1", &[upstream.address])]);
    web["policy"] = json!({"body_bytes": 1000});
    let gateway = Gateway::with(json!({
        "services": [web],
        "routes": [{"host": "*", "service": "web"}],
        "limits": {"head_bytes": 2000, "headers": 10},
    }));
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(3000)
    );
    assert_eq!(raw(gateway.address, long.as_bytes()), (431, true));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(20));
    assert_eq!(raw(gateway.address, many.as_bytes()), (431, true));
    let announced = Http::connect(gateway.address)
        .unwrap()
        .post("/echo", &[0; 1001])
        .unwrap();
    assert_eq!(announced.status, 413);
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    let unannounced = format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    assert_eq!(raw(gateway.address, unannounced.as_bytes()).0, 413);
    assert_eq!(get(gateway.address, "/").text(), "r1");
}

/// A container that does with each connection what the test says, in order.
fn scripted(script: Vec<fn(&mut TcpStream)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for act in script {
            let (mut stream, _) = listener.accept().unwrap();
            act(&mut stream);
        }
    });
    address
}

fn read_request(stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut bytes).unwrap();
        assert!(length > 0);
        text.extend_from_slice(&bytes[..length]);
    }
}

fn answer_once(stream: &mut TcpStream) {
    read_request(stream);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .unwrap();
}

#[test]
fn a_connection_that_died_while_idle_costs_no_request_of_any_method() {
    // Each connection is closed right after its answer although it promised to stay.
    let address = scripted(vec![answer_once; 20]);
    let gateway = Gateway::start(json!([service("web", &[("r1", &[address])])]));
    let mut connection = Http::connect(gateway.address).unwrap();
    for _ in 0..10 {
        connection
            .send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        assert_eq!(connection.reply().unwrap().text(), "ok");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_request_that_was_sent_is_sent_again_only_if_policy_and_method_allow_it() {
    let break_off: fn(&mut TcpStream) = read_request;
    for (method, policy, expected) in [
        ("GET", json!({"retry_idempotent": true}), 200),
        ("GET", json!({}), 502),
        ("POST", json!({"retry_idempotent": true}), 502),
    ] {
        let address = scripted(vec![break_off, answer_once]);
        let mut web = service("web", &[("r1", &[address])]);
        web["policy"] = policy;
        let gateway = Gateway::start(json!([web]));
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let (status, _) = raw(gateway.address, request.as_bytes());
        assert_eq!(status, expected, "{method}");
    }
}

#[test]
fn a_dead_endpoint_is_passed_over_even_with_a_body() {
    let upstream = Upstream::start("r1");
    let endpoints = [rig::free_address(), upstream.address];
    let gateway = Gateway::start(json!([service("web", &[("r1", &endpoints)])]));
    for _ in 0..20 {
        let reply = Http::connect(gateway.address)
            .unwrap()
            .post("/echo", b"body")
            .unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "body"));
    }
    let counts = &gateway.status().services["web"].revisions["r1"].counts;
    assert!(counts.retries > 0, "{counts:?}");
}

#[test]
fn answers_a_container_may_not_give_become_502() {
    for (what, answer) in [
        (
            "a length and a coding",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ),
        ("a folded field", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"),
        ("another protocol", "SSH-2.0-x\r\n\r\n"),
        (
            "a switch nobody asked for",
            "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ),
        ("nothing", ""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_request(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let gateway = Gateway::start(json!([service("web", &[("r1", &[address])])]));
        assert_eq!(get(gateway.address, "/").status, 502, "{what}");
    }
}

#[test]
fn bytes_after_an_answer_are_never_taken_for_the_next_one() {
    fn with_poison(stream: &mut TcpStream) {
        read_request(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").unwrap();
    }
    let address = scripted(vec![with_poison; 6]);
    let gateway = Gateway::start(json!([service("web", &[("r1", &[address])])]));
    let mut connection = Http::connect(gateway.address).unwrap();
    for _ in 0..3 {
        assert_eq!(connection.get("/").unwrap().text(), "ok");
    }
}

#[test]
fn an_answer_that_breaks_off_is_seen_to_break_off() {
    fn half(stream: &mut TcpStream) {
        read_request(stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .unwrap();
    }
    let gateway = Gateway::start(json!([service("web", &[("r1", &[scripted(vec![half])])])]));
    let reply = Http::connect(gateway.address).unwrap().get("/");
    assert_eq!(reply.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    rig::eventually("it is counted", || {
        gateway.status().services["web"].revisions["r1"]
            .counts
            .broken
            == 1
    });
}

#[test]
fn a_client_that_leaves_frees_its_container_at_once() {
    let upstream = Upstream::start("r1");
    let gateway = one(&upstream);
    let mut connection = Http::connect(gateway.address).unwrap();
    connection
        .send(b"GET /slow/60000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    rig::eventually("it is in flight", || upstream.requests() == 1);
    drop(connection);
    rig::eventually("it is gone", || {
        let revision = &gateway.status().services["web"].revisions["r1"];
        revision.drain.in_flight == 0 && revision.counts.client_gone == 1
    });
}

#[test]
fn connections_to_containers_are_kept() {
    let upstream = Upstream::start("r1");
    let gateway = one(&upstream);
    let mut connection = Http::connect(gateway.address).unwrap();
    for _ in 0..100 {
        connection.get("/bytes/10000").unwrap();
    }
    assert_eq!(upstream.seen.connections.load(SeqCst), 1);
}

#[test]
fn hosts_and_paths_lead_to_their_services() {
    let (web, api) = (Upstream::start("web"), Upstream::start("api"));
    let gateway = Gateway::with(json!({
        "services": [
            service("web", &[("r1", &[web.address])]),
            service("api", &[("r1", &[api.address])]),
        ],
        "routes": [
            {"host": "web.test", "service": "web"},
            {"host": "*", "path": "/api", "service": "api"},
            {"host": "*.test", "path": "/api/", "service": "api"},
        ],
    }));
    let ask = |host: &str, path: &str| {
        let mut connection = Http::connect(gateway.address).unwrap();
        connection
            .send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
            .unwrap();
        let reply = connection.reply().unwrap();
        (reply.status, reply.text())
    };
    assert_eq!(ask("web.test:8080", "/"), (200, "web".into()));
    assert_eq!(ask("WEB.test", "/x"), (200, "web".into()));
    assert_eq!(ask("x.test", "/api/y"), (200, "api".into()));
    assert_eq!(ask("other", "/api"), (200, "api".into()));
    assert_eq!(ask("other", "/").0, 404);
}

#[test]
fn each_request_is_a_line_of_the_access_log() {
    let upstream = Upstream::start("r1");
    let gateway = one(&upstream);
    let mut connection = Http::connect(gateway.address).unwrap();
    connection.get("/bytes/100?secret=1").unwrap();
    connection.get("/status/500").unwrap();
    drop(connection);
    let lines = gateway.end();
    let expected: [Value; 2] = [
        json!(["GET", "web.test", "/bytes/100", "web", "r1", 200, 100, true]),
        json!(["GET", "web.test", "/status/500", "web", "r1", 500, 2, true]),
    ];
    let found: Vec<Value> = lines
        .iter()
        .map(|line| {
            let keys = [
                "method", "host", "path", "service", "revision", "status", "sent", "complete",
            ];
            keys.map(|key| line[key].clone()).to_vec().into()
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(lines[0]["endpoint"], upstream.address.to_string());
}

#[test]
fn metrics_are_served_and_counted_by_revision_and_code() {
    let upstream = Upstream::start("r1");
    let (http, metrics) = (rig::free_address(), rig::free_address());
    let gateway = Gateway::with(json!({
        "listeners": [{"address": http}, {"address": metrics, "protocol": "metrics"}],
        "services": [service("web", &[("r1", &[upstream.address])])],
        "routes": [{"host": "*", "service": "web"}],
    }));
    for path in ["/", "/", "/status/503"] {
        get(gateway.address, path);
    }
    let counted = "invar_gateway_request_seconds_count{service=\"web\",revision=\"r1\"} 3";
    rig::eventually("the last request is counted", || {
        get(metrics, "/metrics").text().contains(counted)
    });
    let text = get(metrics, "/metrics").text();
    for line in [
        "invar_gateway_requests_total{service=\"web\",revision=\"r1\",code=\"200\"} 2",
        "invar_gateway_requests_total{service=\"web\",revision=\"r1\",code=\"503\"} 1",
        "invar_gateway_request_seconds_count{service=\"web\",revision=\"r1\"} 3",
        "invar_gateway_request_seconds_bucket{service=\"web\",revision=\"r1\",le=\"+Inf\"} 3",
        "invar_gateway_in_flight{service=\"web\",revision=\"r1\"} 0",
    ] {
        assert!(
            text.lines().any(|other| other == line),
            "{line} is not in\n{text}"
        );
    }
    assert_eq!(get(metrics, "/").status, 404);
}

#[test]
fn curl_is_content() {
    let curl = require("curl", "curl");
    let upstream = Upstream::start("r1");
    let gateway = one(&upstream);
    let url = |path: &str| format!("http://{}{path}", gateway.address);
    let ask = |arguments: &[&str]| {
        let output = checked(
            Command::new(&curl)
                .args(["--silent", "--show-error", "--fail", "--max-time", "20"])
                .args(arguments),
        );
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask(&[&url("/")]), "r1");
    assert_eq!(ask(&["--http1.0", &url("/")]), "r1");
    assert_eq!(ask(&["--http2-prior-knowledge", &url("/")]), "r1");
    assert_eq!(ask(&["--http2", &url("/")]), "r1");
    assert_eq!(ask(&["--data", "hello", &url("/echo")]), "hello");
    let big = "x".repeat(100_000);
    assert_eq!(
        ask(&[
            "--data",
            &big,
            "--header",
            "Expect: 100-continue",
            &url("/echo")
        ]),
        big
    );
    assert_eq!(
        ask(&[
            "--data",
            &big,
            "--header",
            "Transfer-Encoding: chunked",
            &url("/echo")
        ]),
        big
    );
    assert_eq!(
        ask(&["--http2-prior-knowledge", "--data", &big, &url("/echo")]),
        big
    );
}
