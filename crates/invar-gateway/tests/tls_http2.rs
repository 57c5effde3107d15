//! TLS, HTTP/2 and gRPC with real clients.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use fs_err as fs;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use invar_testkit::{checked, require};
use rig::upstream::Upstream;
use rig::{Gateway, eventually, free_address, service};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Writes a self-signed certificate and its key.
fn certificate(directory: &Path, name: &str, host: &str) -> (PathBuf, PathBuf) {
    let openssl = require("openssl", "openssl");
    let (certificate, key) = (
        directory.join(format!("{name}.pem")),
        directory.join(format!("{name}.key")),
    );
    let subject = format!("/CN={host}");
    let names = format!("subjectAltName=DNS:{host}");
    checked(
        Command::new(openssl)
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", &subject, "-addext", &names])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    (certificate, key)
}

struct Secure {
    gateway: Gateway,
    directory: TempDir,
    address: SocketAddr,
    config: Value,
    _upstream: Upstream,
}

/// A TLS listener with a certificate for `one.test` and one for everything else.
fn secure() -> Secure {
    let upstream = Upstream::start("r1");
    let directory = tempfile::tempdir().unwrap();
    let (one, one_key) = certificate(directory.path(), "one", "one.test");
    let (other, other_key) = certificate(directory.path(), "other", "other.test");
    let address = free_address();
    let config = json!({
        "listeners": [{"address": address, "tls": true}],
        "certificates": [
            {"name": "one", "hosts": ["one.test"], "certificate": one, "key": one_key},
            {"name": "other", "certificate": other, "key": other_key},
        ],
        "services": [service("web", &[("r1", &[upstream.address])])],
        "routes": [{"host": "*", "service": "web"}],
    });
    Secure {
        gateway: Gateway::with(config.clone()),
        directory,
        address,
        config,
        _upstream: upstream,
    }
}

impl Secure {
    /// What curl gets from `https://HOST/`, trusting one certificate.
    fn curl(&self, host: &str, trusted: &str, arguments: &[&str]) -> Result<String, i32> {
        let port = self.address.port();
        let output = Command::new(require("curl", "curl"))
            .args(["--silent", "--max-time", "20", "--cacert"])
            .arg(self.directory.path().join(trusted))
            .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
            .args(arguments)
            .arg(format!("https://{host}:{port}/"))
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(output.status.code().unwrap())
        }
    }
}

#[test]
fn each_host_gets_its_certificate_and_the_protocol_it_asks_for() {
    let secure = secure();
    let show = ["--write-out", " %{http_version}"];
    assert_eq!(secure.curl("one.test", "one.pem", &show).unwrap(), "r1 2");
    assert_eq!(
        secure.curl("other.test", "other.pem", &show).unwrap(),
        "r1 2"
    );
    let old = [&show[..], &["--http1.1"]].concat();
    assert_eq!(secure.curl("one.test", "one.pem", &old).unwrap(), "r1 1.1");
    let tls12 = [&show[..], &["--tls-max", "1.2"]].concat();
    assert_eq!(secure.curl("one.test", "one.pem", &tls12).unwrap(), "r1 2");
    assert_eq!(secure.curl("one.test", "other.pem", &[]), Err(60));
}

#[test]
fn a_new_certificate_is_shown_without_a_word_and_a_broken_one_never() {
    let secure = secure();
    assert_eq!(secure.curl("one.test", "one.pem", &[]).unwrap(), "r1");
    let (new, new_key) = certificate(secure.directory.path(), "new", "one.test");
    fs::rename(new_key, secure.directory.path().join("one.key")).unwrap();
    fs::rename(&new, secure.directory.path().join("one.pem")).unwrap();
    eventually("the new certificate is shown", || {
        secure.curl("one.test", "one.pem", &[]).is_ok()
    });

    fs::write(
        secure.directory.path().join("other.pem"),
        "not a certificate",
    )
    .unwrap();
    let reloaded = secure.gateway.ask(json!({"op": "reload"}));
    assert_eq!(reloaded["refused"][0]["name"], "other");
    assert_eq!(reloaded["refused"][0]["kept_last_good"], true);
    assert_eq!(secure.gateway.status().refused.len(), 1);
    assert_eq!(secure.curl("one.test", "one.pem", &[]).unwrap(), "r1");
    assert_eq!(
        secure
            .curl("other.test", "one.pem", &["--insecure"])
            .unwrap(),
        "r1"
    );
}

#[test]
fn a_certificate_that_cannot_be_read_takes_nothing_down() {
    let secure = secure();
    let mut config = secure.config.clone();
    config["certificates"].as_array_mut().unwrap().extend([
        json!({"name": "missing", "hosts": ["m.test"], "certificate": "/nonexistent", "key": "/nonexistent"}),
        json!({"name": "mixed", "hosts": ["x.test"], "certificate": secure.directory.path().join("one.pem"),
               "key": secure.directory.path().join("other.key")}),
    ]);
    let applied = secure.gateway.ask(json!({"op": "apply", "config": config}));
    let refused: Vec<&str> = applied["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refusal| refusal["name"].as_str().unwrap())
        .collect();
    assert_eq!(refused, ["missing", "mixed"], "{applied}");
    assert_eq!(secure.curl("one.test", "one.pem", &[]).unwrap(), "r1");
}

#[test]
fn a_handshake_that_stalls_is_ended() {
    let upstream = Upstream::start("r1");
    let address = free_address();
    let gateway = Gateway::with(json!({
        "listeners": [{"address": address, "tls": true}],
        "services": [service("web", &[("r1", &[upstream.address])])],
        "limits": {"tls_handshake_ms": 200},
    }));
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0);
    let metrics = gateway.ask(json!({"op": "metrics"}));
    assert!(
        metrics
            .as_str()
            .unwrap()
            .contains("invar_gateway_tls_failures_total 1")
    );
}

type Sender<B> = hyper::client::conn::http2::SendRequest<B>;

async fn http2<B>(address: SocketAddr) -> Sender<B>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

fn grpc_gateway(upstream: &Upstream) -> Gateway {
    let mut rpc = service("rpc", &[("r1", &[upstream.address])]);
    rpc["protocol"] = json!("h2c");
    Gateway::start(json!([rpc]))
}

fn request<B>(path: &str, body: B) -> Request<B> {
    Request::builder()
        .method("POST")
        .uri(format!("http://rpc.test{path}"))
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_trailers_and_te_pass_both_ways() {
    let upstream = Upstream::http2("r1");
    let gateway = grpc_gateway(&upstream);
    let mut sender = http2(gateway.address).await;
    let response = sender
        .send_request(request("/trailers", Full::new(Bytes::new())))
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "data");
    let response = sender
        .send_request(request("/head", Full::new(Bytes::new())))
        .await
        .unwrap();
    let seen = response.into_body().collect().await.unwrap().to_bytes();
    let seen = String::from_utf8(seen.to_vec()).unwrap();
    assert!(seen.contains(r#""te": "trailers""#), "{seen}");
    assert!(seen.contains("http://rpc.test/head"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_http1_serve_http2_clients() {
    let upstream = Upstream::start("r1");
    let gateway = Gateway::start(json!([service("web", &[("r1", &[upstream.address])])]));
    let mut sender = http2(gateway.address).await;
    for path in ["/drip/3", "/bytes/200000"] {
        let response = sender
            .send_request(request(path, Full::new(Bytes::new())))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_both_ways_at_once() {
    let upstream = Upstream::http2("r1");
    let gateway = grpc_gateway(&upstream);
    let (feed, receiver) = tokio::sync::mpsc::channel(1);
    let body = StreamBody::new(rig::upstream::Receiver(receiver));
    let mut sender = http2(gateway.address).await;
    let answer = sender.send_request(request("/reflect", body));
    feed.send(Ok(Frame::data(Bytes::from_static(b"first"))))
        .await
        .unwrap();
    let mut answer = answer.await.unwrap().into_body();
    for word in ["first", "second", "third"] {
        if word != "first" {
            feed.send(Ok(Frame::data(Bytes::from(word)))).await.unwrap();
        }
        let frame = answer.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    feed.send(Ok(Frame::trailers(HeaderMap::new())))
        .await
        .unwrap();
    drop(feed);
    assert!(answer.frame().await.is_none_or(|frame| frame.is_ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_of_one_connection_survive_switches() {
    let (one, two) = (Upstream::http2("r1"), Upstream::http2("r2"));
    let mut rpc = service("rpc", &[("r1", &[one.address]), ("r2", &[two.address])]);
    rpc["protocol"] = json!("h2c");
    let gateway = Gateway::start(json!([rpc]));
    let sender = http2(gateway.address).await;
    let mut tasks = Vec::new();
    for number in 0..300_u64 {
        let mut sender = sender.clone();
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(number)).await;
            let response = sender
                .send_request(request("/slow/20", Full::new(Bytes::new())))
                .await
                .unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap().to_bytes()
        }));
    }
    let control = gateway.control();
    let switching = tokio::task::spawn_blocking(move || {
        let mut client = invar_gateway::control::client::Client::connect(&control).unwrap();
        for turn in 0..20 {
            client
                .switch("rpc", ["r2", "r1"][turn % 2], Duration::from_secs(5))
                .unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let mut seen = std::collections::BTreeMap::new();
    for task in tasks {
        *seen.entry(task.await.unwrap()).or_insert(0) += 1;
    }
    switching.await.unwrap();
    assert_eq!(seen.values().sum::<i32>(), 300);
    assert_eq!(seen.len(), 2, "{seen:?}");
}

/// A frame as clients send it.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap()];
    // This mask changes nothing.
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fn connect(path: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method("CONNECT")
        .uri(format!("http://web.test{path}"))
        .header("sec-websocket-version", "13")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(Full::new(Bytes::new()))
        .unwrap()
}

/// A connection whose client knows already that it may ask: the settings came.
async fn http2_of_websockets(address: SocketAddr) -> Sender<Full<Bytes>> {
    let mut sender = http2(address).await;
    let first = request("/bytes/1", Full::new(Bytes::new()));
    let answer = sender.send_request(first).await.unwrap();
    answer.into_body().collect().await.unwrap();
    sender
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_share_an_http2_connection_and_end_with_their_lease() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let mut web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    web["policy"] = json!({"lease_ms": 1000, "lease_spread_ms": 500});
    let gateway = Gateway::start(json!([web]));
    let mut sender = http2_of_websockets(gateway.address).await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        let answer = sender.send_request(connect("/ws")).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-revision"], "r1");
        assert!(!answer.headers().contains_key("upgrade"));
        sockets.push(TokioIo::new(hyper::upgrade::on(answer).await.unwrap()));
    }
    for socket in &mut sockets {
        socket.write_all(&masked(1, b"hello")).await.unwrap();
        let mut echo = [0; 7];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo[2..], b"hello");
    }
    let mut client = gateway.client();
    client.switch("web", "r2", Duration::from_secs(9)).unwrap();
    for mut socket in sockets {
        let mut close = [0; 4];
        socket.read_exact(&mut close).await.unwrap();
        assert_eq!((close[0], &close[2..]), (0x88, &1012_u16.to_be_bytes()[..]));
        socket
            .write_all(&masked(8, &1012_u16.to_be_bytes()))
            .await
            .unwrap();
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0, "bytes after Close");
    }
    // The connection goes on.
    let answer = sender.send_request(connect("/ws")).await.unwrap();
    assert_eq!(answer.headers()["x-revision"], "r2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_websocket_opens_no_tunnel_over_http2() {
    let upstream = Upstream::start("r1");
    let gateway = Gateway::start(json!([service("web", &[("r1", &[upstream.address])])]));
    let mut sender = http2_of_websockets(gateway.address).await;
    let mut other = connect("/ws");
    other
        .extensions_mut()
        .insert(hyper::ext::Protocol::from_static("connect-udp"));
    for (request, expected) in [(connect("/bytes/10"), 502), (other, 501)] {
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), expected);
    }
    let after = request("/bytes/1", Full::new(Bytes::new()));
    assert_eq!(sender.send_request(after).await.unwrap().status(), 200);
}
