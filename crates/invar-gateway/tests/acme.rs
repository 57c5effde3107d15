//! Certificates from a real ACME server: ordered, shown, renewed; a failing order touches nothing.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fs_err as fs;
use invar_testkit::{checked, require};
use rig::upstream::Upstream;
use rig::{Gateway, free_address, service};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Pebble, a server of certificates for tests, with a name server that leads every name here.
struct Server {
    directory: TempDir,
    children: Vec<Child>,
    url: String,
}

impl Server {
    /// It asks for challenges at `http`; its certificates are valid for so many seconds.
    fn start(http: SocketAddr, valid: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [listen, management, dns, dns_management, tls] =
            std::array::from_fn(|_| free_address());
        authority(directory.path());
        let file = |name: &str| directory.path().join(name);
        let config = json!({ "pebble": {
            "listenAddress": listen, "managementListenAddress": management,
            "certificate": file("server.pem"), "privateKey": file("server.key"),
            "httpPort": http.port(), "tlsPort": tls.port(),
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "certificateValidityPeriod": valid,
        }});
        fs::write(file("config.json"), config.to_string()).unwrap();
        let quiet = |command: &mut Command| {
            let command = command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let names = quiet(
            Command::new(require("pebble-challtestsrv", "pebble"))
                .args([
                    "-http01",
                    "",
                    "-https01",
                    "",
                    "-tlsalpn01",
                    "",
                    "-defaultIPv6",
                    "",
                ])
                .args(["-dns01", &dns.to_string()])
                .args(["-management", &dns_management.to_string()]),
        );
        let pebble = quiet(
            Command::new(require("pebble", "pebble"))
                .args(["-config", file("config.json").to_str().unwrap()])
                .args(["-dnsserver", &dns.to_string()])
                .env("PEBBLE_VA_NOSLEEP", "1")
                // One in five nonces is refused: a client must cope.
                .env("PEBBLE_WFE_NONCEREJECT", "20"),
        );
        rig::eventually("pebble listens", || {
            std::net::TcpStream::connect(listen).is_ok()
        });
        Self {
            directory,
            children: vec![names, pebble],
            url: format!("https://localhost:{}/dir", listen.port()),
        }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A root and a certificate for localhost that it signed.
fn authority(dir: &Path) {
    let openssl = || Command::new(require("openssl", "openssl"));
    let curve = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let file = |name: &str| dir.join(name);
    checked(
        openssl()
            .args(["req", "-x509", "-days", "2", "-subj", "/CN=test root"])
            .args(curve)
            .args(["-keyout".as_ref(), file("root.key").as_os_str()])
            .args(["-out".as_ref(), file("root.pem").as_os_str()]),
    );
    checked(
        openssl()
            .args(["req", "-subj", "/CN=localhost"])
            .args(curve)
            .args(["-keyout".as_ref(), file("server.key").as_os_str()])
            .args(["-out".as_ref(), file("server.csr").as_os_str()]),
    );
    fs::write(file("names"), "subjectAltName=DNS:localhost\n").unwrap();
    checked(
        openssl()
            .args(["x509", "-req", "-days", "2", "-CAcreateserial"])
            .args(["-in".as_ref(), file("server.csr").as_os_str()])
            .args(["-CA".as_ref(), file("root.pem").as_os_str()])
            .args(["-CAkey".as_ref(), file("root.key").as_os_str()])
            .args(["-extfile".as_ref(), file("names").as_os_str()])
            .args(["-out".as_ref(), file("server.pem").as_os_str()]),
    );
}

/// Subject's names and serial number of the certificate that is shown for a host.
fn shown(address: SocketAddr, host: &str) -> Option<(String, String)> {
    let script = format!(
        "openssl s_client -connect {address} -servername {host} </dev/null 2>/dev/null \
         | openssl x509 -noout -serial -ext subjectAltName"
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let serial = text.lines().find(|line| line.starts_with("serial="))?;
    let names = text.lines().find(|line| line.contains("DNS:"))?;
    Some((names.trim().to_owned(), serial.to_owned()))
}

/// The same configuration with these certificates.
fn apply(gateway: &Gateway, certificates: Value) {
    let mut config = serde_json::to_value(gateway.client().config().unwrap()).unwrap();
    config["certificates"] = certificates;
    let config = serde_json::from_value(config).unwrap();
    gateway.client().apply(config).unwrap();
}

fn certificates(server: &Server) -> Value {
    let acme = json!({
        "directory": server.url, "root": server.root(), "contact": ["mailto:ops@one.test"],
    });
    let nowhere = json!({ "directory": "https://127.0.0.1:1/dir", "root": server.root() });
    json!([
        { "name": "ordered", "hosts": ["one.test", "www.one.test"], "acme": acme },
        { "name": "hopeless", "hosts": ["two.test"], "acme": nowhere },
    ])
}

#[test]
fn a_certificate_is_ordered_shown_and_renewed_and_one_that_cannot_be_is_told() {
    let upstream = Upstream::start("r1");
    let (http, https) = (free_address(), free_address());
    // Two thirds of this are over after eight seconds.
    let server = Server::start(http, 12);
    let gateway = Gateway::with(json!({
        "listeners": [{"address": http}, {"address": https, "tls": true}],
        "services": [service("web", &[("r1", &[upstream.address])])],
        "routes": [{"host": "*", "service": "web"}],
    }));
    apply(&gateway, certificates(&server));
    let mut first = None;
    rig::eventually("a certificate is shown", || {
        first = shown(https, "one.test");
        first.is_some()
    });
    let (names, serial) = first.unwrap();
    assert!(
        names.contains("DNS:one.test") && names.contains("DNS:www.one.test"),
        "{names}"
    );
    rig::eventually("it is renewed before its time is over", || {
        shown(https, "www.one.test").is_some_and(|(_, now)| now != serial)
    });
    // The other one is told of, with the reason, and is in nobody's way.
    let mut told = None;
    rig::eventually("the other one is told of", || {
        let status = gateway.status();
        let mut refused = status.refused.into_iter();
        told = refused.find(|refusal| refusal.name == "hopeless");
        told.as_ref()
            .is_some_and(|told| told.reason.contains("could not be ordered"))
    });
    assert!(!told.unwrap().kept_last_good);
    assert_eq!(rig::client::get(http, "/").status, 200);
    // Only answers of challenges under way are known: everything else is the service's.
    let other = rig::client::get(http, "/.well-known/acme-challenge/x");
    assert_eq!(other.status, 200, "the service answers: {}", other.text());

    let state = gateway.directory.path().join("state/acme");
    let kept = fs::read_to_string(state.join("ordered.pem")).unwrap();
    assert!(kept.contains("PRIVATE KEY"));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(state.join("ordered.pem"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_cannot_be_ordered_is_refused_before_anything_is_asked() {
    let address = free_address();
    let gateway = Gateway::with(json!({ "listeners": [{"address": address}] }));
    let acme = json!({ "directory": "https://127.0.0.1:1/dir" });
    for (certificate, reason) in [
        (
            json!({ "name": "a", "hosts": ["*.one.test"], "acme": acme }),
            "without *",
        ),
        (
            json!({ "name": "a", "hosts": [], "acme": acme }),
            "one by one",
        ),
        (
            json!({ "name": "../a", "hosts": ["one.test"], "acme": acme }),
            "letters, digits",
        ),
        (
            json!({ "name": "a", "hosts": ["one.test"], "acme": { "directory": "http://x/dir" } }),
            "https://",
        ),
        (
            json!({ "name": "a", "hosts": ["one.test"] }),
            "either certificate and key",
        ),
        (
            json!({ "name": "a", "hosts": ["one.test"], "acme": acme, "certificate": "/x", "key": "/x" }),
            "either certificate and key",
        ),
    ] {
        apply(&gateway, json!([certificate]));
        let refused = gateway.status().refused;
        let told = refused.iter().find(|refusal| refusal.kind == "certificate");
        assert!(
            told.unwrap().reason.contains(reason),
            "{certificate}: {refused:?}"
        );
    }
    let state = gateway.directory.path().join("state");
    assert!(!state.join("acme").exists());
}
