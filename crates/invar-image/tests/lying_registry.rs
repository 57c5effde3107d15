//! Registries that lie, stall, loop or overflow: each is refused in words, and nothing of it stays.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "in tests a panic is the report, and tables are long"
)]

mod server;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fs_err as fs;
use invar_image::registry::{Backoff, Credentials, RegistryOptions};
use invar_image::{Digest, ImageError, ImageStore, Limits, Reference};
use invar_testkit::registry::{certificate, expired_certificate};
use invar_testkit::require_root;
use serde_json::json;
use tempfile::TempDir;

use server::{CONFIG, Honest, INDEX, LAYER, MANIFEST, Request, Response, Server, descriptor};

/// A store, and everything that is in it.
struct Stage {
    root: TempDir,
    store: ImageStore,
}

impl Stage {
    fn new() -> Self {
        require_root();
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = ImageStore::open(root.path()).unwrap().with_limits(Limits {
            // So that a bomb need not be large.
            ratio_from: 1 << 20,
            ..Limits::default()
        });
        Self { root, store }
    }

    fn pull(&self, server: &Server) -> Result<invar_image::registry::Pulled, ImageError> {
        self.pull_with(server, "web:1", &options())
    }

    fn pull_with(
        &self,
        server: &Server,
        name: &str,
        options: &RegistryOptions,
    ) -> Result<invar_image::registry::Pulled, ImageError> {
        let reference = Reference::parse(&format!("{}/{name}", server.host())).unwrap();
        self.store.pull(&reference, None, options)
    }

    /// Files below the store but its own.
    fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for directory in ["store/objects", "store/downloads", "store/plain"] {
            collect(&self.root.path().join(directory), &mut found);
        }
        found
    }
}

fn collect(directory: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), found);
        } else {
            found.push(entry.path().display().to_string());
        }
    }
}

/// Tries three times, and soon.
fn options() -> RegistryOptions {
    RegistryOptions {
        backoff: Backoff {
            attempts: 3,
            first: Duration::from_millis(5),
            longest: Duration::from_secs(2),
        },
        ..RegistryOptions::default()
    }
}

fn with_credentials(user: &str, password: &str) -> RegistryOptions {
    RegistryOptions {
        credentials: Some(Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }),
        ..options()
    }
}

/// The error and every cause of it.
fn words(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn honest() -> Honest {
    // Not compressible, so that it comes in many pieces.
    let mut content = Vec::new();
    for number in 0..20_000_u32 {
        content.extend_from_slice(Digest::of(&number.to_le_bytes()).hex().as_bytes());
    }
    Honest::with_file("data", &content)
}

type Lie = Box<dyn Fn(&Honest, &Request) -> Option<Response> + Send + Sync>;

fn lie(lie: impl Fn(&Honest, &Request) -> Option<Response> + Send + Sync + 'static) -> Lie {
    Box::new(lie)
}

/// A lie about what a tag names.
fn manifest(body: impl Into<Vec<u8>>, kind: &'static str) -> Lie {
    let body = body.into();
    lie(move |_, request| {
        let response = Response::new(200, body.clone()).header("Content-Type", kind);
        request.path.ends_with("manifests/1").then_some(response)
    })
}

/// A lie about the layer.
fn layer(response: impl Fn(&[u8]) -> Response + Send + Sync + 'static) -> Lie {
    lie(move |honest, request| honest.is_layer(request).then(|| response(&honest.layer)))
}

#[test]
fn every_lie_is_refused_in_words_and_nothing_of_it_stays() {
    let bomb = Honest::with_file("zeros", &vec![0; 64 << 20]);
    let bomb_manifest = bomb.manifest.to_string();
    let many: Vec<_> = (0..10_000_u32)
        .map(|number| descriptor(LAYER, &number.to_le_bytes()))
        .collect();
    let many = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, b"{}"), "layers": many});
    let other = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.example", b"{}"), "layers": []});
    let huge = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": Digest::of(b"x").as_str(), "size": 1_u64 << 40},
        "layers": []});
    let nothing_for_us = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": MANIFEST, "digest": Digest::of(b"x").as_str(), "size": 7,
         "platform": {"os": "linux", "architecture": "s390x"}}]});
    let escape = json!({"errors": [{"message": "\u{1b}[2Jgone"}]}).to_string();
    let table: Vec<(&str, Lie, &str)> = vec![
        (
            "a layer that is longer than promised",
            layer(|blob| Response::new(200, [blob, b"more"].concat())),
            "bytes, the manifest says",
        ),
        (
            "a layer that is shorter than promised",
            layer(|blob| Response::new(200, &blob[..1000])),
            "it has 1000 bytes, the manifest says",
        ),
        (
            "a layer without end",
            layer(|blob| Response {
                is_endless: true,
                ..Response::new(200, blob)
            }),
            "it has more than the",
        ),
        (
            "a layer with a byte flipped",
            layer(|blob| {
                let mut blob = blob.to_vec();
                blob[100_000] ^= 1;
                Response::new(200, blob)
            }),
            "the digest should be sha256:",
        ),
        (
            "a layer that is another file",
            layer(|blob| Response::new(200, vec![b'x'; blob.len()])),
            "the digest should be sha256:",
        ),
        (
            "a range that was not asked for",
            lie(|honest, request| {
                let response = Response::new(206, honest.layer.clone());
                let response = response.header("Content-Range", "bytes 5-9/10");
                honest.is_layer(request).then_some(response)
            }),
            "asked for bytes from 0",
        ),
        (
            "redirects in a circle",
            lie(|honest, request| {
                let to = format!("{}?again", request.path.split('?').next().unwrap());
                let is_it = request.path.contains("blobs/") && !honest.is_layer(request)
                    || request.path.contains(Digest::of(&honest.layer).as_str());
                is_it.then(|| Response::new(307, "").header("Location", to))
            }),
            "more than 10 redirects",
        ),
        (
            "a redirect to nowhere",
            lie(|honest, request| {
                let response = Response::new(302, "").header("Location", "ftp://x/y");
                honest.is_layer(request).then_some(response)
            }),
            "the address is neither http nor https",
        ),
        (
            "a redirect to a file of this machine",
            lie(|honest, request| {
                let response = Response::new(302, "").header("Location", "file:///etc/shadow");
                honest.is_layer(request).then_some(response)
            }),
            "a redirect of",
        ),
        (
            "a manifest that is not JSON",
            manifest("<html>", MANIFEST),
            "manifest: expected value",
        ),
        (
            "a manifest without end",
            lie(|_, request| {
                request.path.ends_with("manifests/1").then(|| Response {
                    is_endless: true,
                    ..Response::new(200, "{")
                })
            }),
            "the answer is longer than 4194304 bytes",
        ),
        (
            "a manifest of 10,000 layers",
            manifest(many.to_string(), MANIFEST),
            "the number of layers of",
        ),
        (
            "an index that calls itself a manifest",
            manifest(r#"{"schemaVersion":2,"manifests":[]}"#, MANIFEST),
            "and is not one",
        ),
        (
            "a manifest and an index at once",
            manifest(
                r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#,
                INDEX,
            ),
            "it is a manifest and an index at once",
        ),
        (
            "a manifest of the first schema",
            manifest(r#"{"schemaVersion":1}"#, "application/json"),
            "a manifest of schema version 1 is not supported",
        ),
        (
            "something that is no image",
            manifest(other.to_string(), MANIFEST),
            "media type \"application/vnd.example\" is not supported",
        ),
        (
            "a configuration of a terabyte",
            manifest(huge.to_string(), MANIFEST),
            "is larger than the limit of 4194304 bytes",
        ),
        (
            "an index without this machine",
            manifest(nothing_for_us.to_string(), INDEX),
            "no image for linux/",
        ),
        (
            "a wrong digest in a header",
            lie(|honest, request| {
                let body = honest.manifest.to_string();
                let digest = Digest::of(b"another").to_string();
                let response = Response::new(200, body)
                    .header("Content-Type", MANIFEST)
                    .header("Docker-Content-Digest", digest);
                request.path.ends_with("manifests/1").then_some(response)
            }),
            "the registry says its digest is",
        ),
        (
            "a configuration that is another",
            lie(|honest, request| {
                let config = &honest.config;
                let is_config = request.path.ends_with(Digest::of(config).as_str());
                is_config.then(|| Response::new(200, vec![b' '; config.len()]))
            }),
            "the digest should be sha256:",
        ),
        (
            "a layer that unpacks to far more than it is",
            lie(move |_, request| {
                if request.path.ends_with("manifests/1") {
                    let body = bomb_manifest.clone();
                    return Some(Response::new(200, body).header("Content-Type", MANIFEST));
                }
                Some(bomb.answer(request))
            }),
            "the unpacked image is larger than 200 times its archive",
        ),
        (
            "too many requests, for an hour",
            lie(|_, _| {
                let body = r#"{"errors":[{"message":"slow down"}]}"#;
                Some(Response::new(429, body).header("Retry-After", "3600"))
            }),
            "allows no more requests and asks to wait 3600 seconds: slow down",
        ),
        (
            "an error each time",
            lie(|_, _| Some(Response::new(503, "maintenance"))),
            "answers 503 Service Unavailable: maintenance",
        ),
        (
            "words that would clear the screen",
            lie(move |_, _| Some(Response::new(400, escape.clone()))),
            "\\u{1b}[2Jgone",
        ),
        (
            "access refused",
            lie(|_, _| Some(Response::new(403, ""))),
            "refuses access to web:1",
        ),
        (
            "nothing there",
            lie(|_, _| Some(Response::new(404, ""))),
            "has no web:1",
        ),
        (
            "a token server without TLS, elsewhere",
            lie(|_, _| {
                let challenge = "Bearer realm=\"ftp://127.0.0.1/token\"";
                Some(Response::new(401, "").header("WWW-Authenticate", challenge))
            }),
            "token server",
        ),
    ];
    for (name, lie, expected) in table {
        let honest = honest();
        let server = Server::start(move |request| {
            lie(&honest, request).unwrap_or_else(|| honest.answer(request))
        });
        let stage = Stage::new();
        let error = stage.pull(&server).expect_err(name);
        let said = words(&error);
        assert!(said.contains(expected), "{name}: {said}");
        assert!(!said.contains('\u{1b}'), "{name}: {said:?}");
        assert!(stage.store.list().unwrap().is_empty(), "{name}");
        assert_eq!(stage.leftovers(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn what_fails_for_a_moment_is_tried_again() {
    let table: [(&str, fn(u32) -> Response); 4] = [
        ("overload", |_| Response::new(503, "")),
        ("too many requests", |_| {
            Response::new(429, "").header("Retry-After", "1")
        }),
        ("a gateway", |_| Response::new(502, "<html>")),
        ("a connection that ends", |_| Response {
            length: Some(100),
            ..Response::new(200, "{")
        }),
    ];
    for (name, failure) in table {
        let honest = honest();
        let count = AtomicU32::new(0);
        let server = Server::start(move |request| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            if number == 0 {
                failure(number)
            } else {
                honest.answer(request)
            }
        });
        let stage = Stage::new();
        stage
            .pull(&server)
            .unwrap_or_else(|error| panic!("{name}: {}", words(&error)));
    }
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_ended() {
    let honest = honest();
    let size = honest.layer.len();
    let breaks = honest.clone();
    let server = Server::start(move |request| {
        let answer = breaks.answer(request);
        if !breaks.is_layer(request) {
            return answer;
        }
        // A third of what is left, and then the connection ends.
        let third = answer.body.len() / 3;
        if third < 10_000 {
            return answer;
        }
        Response {
            length: Some(answer.body.len()),
            body: answer.body[..third].to_vec(),
            ..answer
        }
    });
    let stage = Stage::new();
    let pulled = stage.pull(&server).unwrap();
    assert_eq!(pulled.downloaded, size as u64);
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .filter(|request| honest.is_layer(request))
        .map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert!(ranges.len() > 3, "{ranges:?}");
    assert_eq!(ranges[0], None);
    assert_eq!(ranges[1], Some(format!("bytes={}-", size / 3)));
    assert_eq!(
        stage
            .leftovers()
            .iter()
            .filter(|f| f.contains("downloads"))
            .count(),
        0
    );
}

#[test]
fn a_server_without_ranges_sends_the_whole_and_the_whole_is_right() {
    let honest = honest();
    let count = AtomicU32::new(0);
    let server = Server::start(move |request| {
        if !honest.is_layer(request) {
            return honest.answer(request);
        }
        let whole = Response::new(200, honest.layer.clone());
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            let half = whole.body.len() / 2;
            return Response {
                length: Some(whole.body.len()),
                body: whole.body[..half].to_vec(),
                ..whole
            };
        }
        whole
    });
    Stage::new().pull(&server).unwrap();
}

#[test]
fn what_an_earlier_pull_left_is_not_believed() {
    let honest = honest();
    let stage = Stage::new();
    let downloads = stage.root.path().join("store/downloads");
    fs::create_dir_all(&downloads).unwrap();
    let part = downloads.join(format!("sha256-{}", Digest::of(&honest.layer).hex()));
    // As a crash of the machine can leave it: the right length, and zeros.
    fs::write(&part, vec![0; honest.layer.len() - 10]).unwrap();
    let server = Server::start(move |request| honest.answer(request));
    stage.pull(&server).unwrap();
    assert!(!part.exists());
}

#[test]
fn a_token_is_had_from_the_server_the_registry_names() {
    let honest = honest();
    let tokens = Server::start(|request| {
        let wants = "/token?service=registry.example&scope=repository%3Aweb%3Apull&account=me";
        // "me:secret"
        if request.path == wants && request.header("authorization") == Some("Basic bWU6c2VjcmV0") {
            Response::new(200, r#"{"token":"good","expires_in":300}"#)
        } else if request.method == "POST" && request.path == "/token" {
            let form = String::from_utf8(request.body.clone()).unwrap();
            assert!(form.contains("grant_type=refresh_token"), "{form}");
            assert!(form.contains("refresh_token=refresh"), "{form}");
            assert!(form.contains("scope=repository%3Aweb%3Apull"), "{form}");
            Response::new(200, r#"{"access_token":"good"}"#)
        } else {
            Response::new(401, r#"{"details":"incorrect username or password"}"#)
        }
    });
    let realm = format!("http://{}/token", tokens.host());
    // What a storage elsewhere sees.
    let elsewhere = honest.clone();
    let storage = Server::start(move |request| elsewhere.answer(request));
    let to = storage.host();
    let served = honest.clone();
    let registry = Server::start(move |request| {
        if request.header("authorization") != Some("Bearer good") {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"registry.example\"");
            return Response::new(401, "").header("WWW-Authenticate", challenge);
        }
        if served.is_layer(request) {
            let location = format!("http://{to}{}", request.path);
            return Response::new(307, "").header("Location", location);
        }
        served.answer(request)
    });
    let stage = Stage::new();
    let pull = |options| stage.pull_with(&registry, "web:1", &options);
    pull(with_credentials("me", "secret")).unwrap();
    assert_eq!(tokens.requests().len(), 1, "one token is enough");
    let seen = storage.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        seen[0].header("authorization"),
        None,
        "the token went elsewhere"
    );

    let token = RegistryOptions {
        credentials: Some(Credentials::IdentityToken("refresh".to_owned())),
        ..options()
    };
    pull(token).unwrap();
    let said = words(&pull(with_credentials("me", "wrong")).unwrap_err());
    assert!(said.contains("incorrect username or password"), "{said}");
    assert!(!said.contains("wrong"), "{said}");
}

fn tls(directory: &Path) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_file(directory.join("server.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}

#[test]
fn a_certificate_must_be_valid_even_on_this_machine() {
    let directory = tempfile::tempdir().unwrap();
    let (good, expired) = (
        directory.path().join("good"),
        directory.path().join("expired"),
    );
    certificate(&good);
    expired_certificate(&expired);
    let serve = |from: &Path| {
        let honest = honest();
        Server::start_with(Some(tls(from)), move |request| honest.answer(request))
    };
    let believing = |from: &Path| RegistryOptions {
        authorities: vec![from.join("ca.crt")],
        ..options()
    };
    let (server, old) = (serve(&good), serve(&expired));
    let stage = Stage::new();
    let refused: [(&Server, RegistryOptions, &str); 4] = [
        (
            &server,
            options(),
            "its certificate is from an authority that is not known here",
        ),
        (&server, believing(&expired), "certificate"),
        (&old, believing(&expired), "its certificate has expired"),
        (
            &server,
            RegistryOptions {
                plain_http: true,
                ..options()
            },
            "could not reach",
        ),
    ];
    for (server, options, expected) in refused {
        let said = words(&stage.pull_with(server, "web:1", &options).unwrap_err());
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(server.requests().is_empty(), "something was sent");
    }
    stage
        .pull_with(&server, "web:1", &believing(&good))
        .unwrap();

    // As docker keeps it: certs.d/HOST:PORT/ca.crt.
    let certificates = directory.path().join("certs.d");
    let own = certificates.join(server.host());
    fs::create_dir_all(&own).unwrap();
    fs::copy(good.join("ca.crt"), own.join("ca.crt")).unwrap();
    let options = RegistryOptions {
        certificates: Some(certificates),
        ..options()
    };
    stage.pull_with(&server, "web:1", &options).unwrap();
}

#[test]
fn a_tag_and_a_digest_that_disagree_are_an_error() {
    let honest = honest();
    let digest = Digest::of(honest.manifest.to_string().as_bytes());
    let other = Digest::of(b"another");
    let server = Server::start(move |request| honest.answer(request));
    let stage = Stage::new();
    let pull = |name: &str| stage.pull_with(&server, name, &options());
    let said = words(&pull(&format!("web:1@{other}")).unwrap_err());
    let expected = format!("is {digest} in the registry, not {other}");
    assert!(said.contains(&expected), "{said}");
    assert!(stage.leftovers().is_empty());

    pull(&format!("web@{digest}")).unwrap();
    let host = server.host();
    let found = stage
        .store
        .resolve(&format!("{host}/web@{digest}"))
        .unwrap();
    assert!(
        found.names.is_empty(),
        "a digest is no name: {:?}",
        found.names
    );
    pull(&format!("web:1@{digest}")).unwrap();
    let found = stage
        .store
        .resolve(&format!("{host}/web:1@{digest}"))
        .unwrap();
    assert_eq!(found.names, [format!("{host}/web:1")]);
}
