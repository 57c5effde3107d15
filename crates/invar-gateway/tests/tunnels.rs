//! Connections that last: WebSocket and TCP.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rig::client::{Http, WebSocket, get};
use rig::upstream::Upstream;
use rig::{Gateway, eventually, service};
use serde_json::{Value, json};

fn websocket(address: SocketAddr) -> WebSocket {
    Http::connect(address).unwrap().websocket("/ws").unwrap()
}

fn with_lease(one: &Upstream, two: &Upstream, policy: Value) -> Gateway {
    let mut web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    web["policy"] = policy;
    Gateway::start(json!([web]))
}

#[test]
fn websockets_stay_on_their_revision_until_the_lease_ends_with_a_close_frame() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let gateway = with_lease(
        &one,
        &two,
        json!({"lease_ms": 1500, "lease_spread_ms": 1000}),
    );
    let mut sockets: Vec<WebSocket> = (0..20).map(|_| websocket(gateway.address)).collect();
    let begun = Instant::now();
    gateway
        .client()
        .switch("web", "r2", Duration::from_secs(9))
        .unwrap();
    assert_eq!(websocket(gateway.address).revision, "r2");
    for socket in &mut sockets {
        assert_eq!(socket.revision, "r1");
        assert_eq!(socket.echo(b"still here").unwrap(), b"still here");
    }
    let ends: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            std::thread::spawn(move || {
                let (opcode, payload) = socket.receive().unwrap();
                let end = Instant::now();
                assert_eq!((opcode, payload), (8, 1012_u16.to_be_bytes().to_vec()));
                socket.send(8, &1012_u16.to_be_bytes()).unwrap();
                assert_eq!(
                    socket.stream.read(&mut [0]).unwrap(),
                    0,
                    "bytes after Close"
                );
                end
            })
        })
        .collect();
    let mut ends: Vec<Duration> = ends
        .into_iter()
        .map(|end| end.join().unwrap() - begun)
        .collect();
    ends.sort();
    assert!(
        ends[0] >= Duration::from_millis(450),
        "the first ended after {:?}",
        ends[0]
    );
    assert!(
        ends[19] <= Duration::from_millis(1900),
        "the last ended after {:?}",
        ends[19]
    );
    assert!(
        ends[19] > ends[0] + Duration::from_millis(300),
        "all ended at once"
    );
    eventually("the container heard every Close", || {
        one.seen.websocket_closes.load(SeqCst) == 20
    });
    let drained = gateway
        .client()
        .drain("web", "r1", Duration::from_secs(9))
        .unwrap();
    assert_eq!((drained.state.as_str(), drained.tunnels), ("drained", 0));
}

#[test]
fn a_rollback_within_the_lease_leaves_websockets_alone() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let gateway = with_lease(&one, &two, json!({"lease_ms": 300, "lease_spread_ms": 0}));
    let mut socket = websocket(gateway.address);
    let mut client = gateway.client();
    client.switch("web", "r2", Duration::ZERO).unwrap();
    client.switch("web", "r1", Duration::ZERO).unwrap();
    let until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < until {
        assert_eq!(socket.echo(b"x").unwrap(), b"x");
    }
}

#[test]
fn a_close_never_lands_inside_a_frame() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let gateway = with_lease(&one, &two, json!({"lease_ms": 200, "lease_spread_ms": 0}));
    let mut socket = websocket(gateway.address);
    gateway
        .client()
        .switch("web", "r2", Duration::ZERO)
        .unwrap();
    let mut echoed = 0;
    // Frames go on through the end of the lease; each that comes back is whole.
    loop {
        let sent = socket.send(2, &[b'y'; 120]);
        assert!(sent.is_ok(), "the connection broke after {echoed} frames");
        match socket.receive().unwrap() {
            (2, payload) => assert_eq!(payload, [b'y'; 120]),
            (8, payload) => {
                assert_eq!(payload, 1012_u16.to_be_bytes());
                break;
            }
            other => panic!("{other:?}"),
        }
        echoed += 1;
    }
    assert!(echoed > 10);
}

#[test]
fn a_websocket_that_is_refused_is_a_plain_answer() {
    let upstream = Upstream::start("r1");
    let gateway = Gateway::start(json!([service("web", &[("r1", &[upstream.address])])]));
    let mut connection = Http::connect(gateway.address).unwrap();
    let fields = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a";
    assert_eq!(
        connection.get_with("/status/403", fields).unwrap().status,
        403
    );
    assert_eq!(
        connection.get("/").unwrap().text(),
        "r1",
        "the connection is lost"
    );
}

#[test]
fn broken_frames_pass_and_endless_ones_do_not() {
    let upstream = Upstream::start("r1");
    let gateway = Gateway::start(json!([service("web", &[("r1", &[upstream.address])])]));
    let mut socket = websocket(gateway.address);
    // A reserved opcode: the container decides what it thinks of it.
    socket.send(0x0b, b"odd").unwrap();
    assert_eq!(socket.receive().unwrap(), (0x0b, b"odd".to_vec()));
    let endless = [[0x82, 0xff].as_slice(), &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    socket.stream.get_mut().write_all(&endless).unwrap();
    assert_eq!(
        socket.receive().unwrap(),
        (8, 1009_u16.to_be_bytes().to_vec())
    );
}

/// A server that says its name and sends everything back.
fn tcp_echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                stream.write_all(name.as_bytes()).unwrap();
                let mut reader = stream.try_clone().unwrap();
                drop(std::io::copy(&mut reader, &mut stream));
                drop(stream.shutdown(std::net::Shutdown::Write));
            });
        }
    });
    address
}

fn tcp_gateway(revisions: &[(&str, &[SocketAddr])], policy: Value) -> Gateway {
    let mut db = service("db", revisions);
    db["protocol"] = json!("tcp");
    db["policy"] = policy;
    Gateway::with(json!({
        "listeners": [{"address": rig::free_address(), "protocol": "tcp", "service": "db"}],
        "services": [db],
    }))
}

fn named(stream: &mut TcpStream) -> String {
    let mut name = [0; 2];
    stream.read_exact(&mut name).unwrap();
    String::from_utf8(name.to_vec()).unwrap()
}

#[test]
fn tcp_connections_stay_until_their_lease_ends_and_new_ones_go_to_the_new_revision() {
    let (one, two) = (tcp_echo("t1"), tcp_echo("t2"));
    let policy = json!({"lease_ms": 400, "lease_spread_ms": 0});
    let gateway = tcp_gateway(&[("r1", &[one]), ("r2", &[two])], policy);
    let mut old = TcpStream::connect(gateway.address).unwrap();
    assert_eq!(named(&mut old), "t1");
    gateway
        .client()
        .switch("db", "r2", Duration::from_secs(5))
        .unwrap();
    let mut new = TcpStream::connect(gateway.address).unwrap();
    assert_eq!(named(&mut new), "t2");
    old.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    old.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    assert_eq!(old.read(&mut back).unwrap_or(0), 0, "the lease did not end");
    new.write_all(b"hello").unwrap();
    new.read_exact(&mut back).unwrap();
}

#[test]
fn tcp_passes_megabytes_and_half_closed_connections() {
    let gateway = tcp_gateway(&[("r1", &[rig::free_address(), tcp_echo("t1")])], json!({}));
    for _ in 0..5 {
        let mut stream = TcpStream::connect(gateway.address).unwrap();
        assert_eq!(named(&mut stream), "t1");
        let bytes: Vec<u8> = (0..3_000_000_u32)
            .map(|index| index.to_le_bytes()[0])
            .collect();
        let mut writer = stream.try_clone().unwrap();
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        assert!(
            back == bytes,
            "{} of {} bytes came back",
            back.len(),
            bytes.len()
        );
    }
}

#[test]
fn idle_tunnels_are_ended() {
    let policy = json!({"tunnel_idle_ms": 200});
    let gateway = tcp_gateway(&[("r1", &[tcp_echo("t1")])], policy);
    let mut stream = TcpStream::connect(gateway.address).unwrap();
    named(&mut stream);
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_tcp_service_is_not_reached_over_http() {
    let mut db = service("db", &[("r1", &[tcp_echo("t1")])]);
    db["protocol"] = json!("tcp");
    let gateway = Gateway::start(json!([db]));
    assert_eq!(get(gateway.address, "/").status, 502);
}
