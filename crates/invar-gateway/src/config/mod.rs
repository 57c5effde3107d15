//! What the gateway is told to serve, as it stands on the control socket and in the state file
//! (docs/formats/gateway-control.md).

pub(crate) mod check;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::limits::Limits;

/// Weights are parts of this many: 100 is one per cent.
pub const WHOLE: u32 = 10_000;

/// Everything the gateway serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    pub listeners: Vec<ListenerConfig>,
    /// For listeners with TLS.
    pub certificates: Vec<CertificateConfig>,
    /// Names with traffic.
    pub services: Vec<ServiceConfig>,
    /// Which request belongs to which service.
    pub routes: Vec<RouteConfig>,
    /// Limits of the whole gateway; read at the start and with each `apply`.
    pub limits: Limits,
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2, found out for each connection.
    #[default]
    Http,
    /// Bytes, all to one service.
    Tcp,
    /// The gateway's own metrics at `/metrics`.
    Metrics,
}

/// An address that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// What is spoken there.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// Whether TLS is spoken, with the certificates of the configuration.
    #[serde(default)]
    pub tls: bool,
    /// The service of a `tcp` listener. Of an `http` listener: the one service of all its
    /// requests, whatever the routes say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Proxies whose `X-Forwarded-*` fields are believed and extended; of others they are replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpAddr>,
}

/// A certificate in files, which are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// Its name in messages.
    pub name: String,
    /// Host names it is shown for, `*.example.com` for one level; empty: for every other name.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// PEM file with the certificate and its chain; left out with `acme`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key; left out with `acme`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Ordered and renewed by the gateway itself, instead of read from files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeConfig>,
}

/// A server of certificates (RFC 8555). By ordering, its terms of service are agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// Its directory: `https://…`.
    pub directory: String,
    /// How its operators reach the owner: `mailto:…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contact: Vec<String>,
    /// PEM file with the root it is believed by, instead of the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
}

impl CertificateConfig {
    /// Where chain and key are, given where the gateway keeps those it ordered; or what is wrong.
    pub(crate) fn files(&self, ordered: &Path) -> Result<(PathBuf, PathBuf), String> {
        match (&self.certificate, &self.key, &self.acme) {
            (Some(certificate), Some(key), None) => Ok((certificate.clone(), key.clone())),
            (None, None, Some(acme)) => {
                self.check_acme(acme)?;
                let file = ordered.join(format!("{}.pem", self.name));
                Ok((file.clone(), file))
            }
            _ => Err("either certificate and key are given, or acme".to_owned()),
        }
    }

    fn check_acme(&self, acme: &AcmeConfig) -> Result<(), String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.starts_with('.') || !self.name.bytes().all(is_plain) || self.name.len() > 100 {
            return Err("with acme, a name is letters, digits, - _ . and at most 100".to_owned());
        }
        if self.hosts.is_empty() || self.hosts.iter().any(|host| host.contains('*')) {
            return Err("with acme, hosts are named one by one, without *".to_owned());
        }
        if !acme.directory.starts_with("https://") {
            return Err("the directory of acme begins with https://".to_owned());
        }
        Ok(())
    }
}

/// What the containers of a service speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceProtocol {
    /// HTTP/1.1, with upgrades to WebSocket.
    #[default]
    Http1,
    /// HTTP/2 without TLS, as gRPC servers do.
    H2c,
    /// Bytes.
    Tcp,
}

/// A name with traffic and the revisions that can take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Its name.
    pub name: String,
    /// What its containers speak.
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// Every revision that runs, whether it has traffic or not.
    pub revisions: Vec<RevisionConfig>,
    /// The revision that takes what no weight gives away. Left out for a service that exists: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// Traffic besides the stable revision's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryConfig>,
    /// The cookie that keeps a visitor on one side of a split; left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky_cookie: Option<String>,
    /// How containers are asked whether they are well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthConfig>,
    /// Times, sizes and retries.
    #[serde(default)]
    pub policy: PolicyConfig,
}

/// One revision and the addresses of its containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevisionConfig {
    /// Its name, unique in the service.
    pub name: String,
    /// Addresses of containers, never names.
    pub endpoints: Vec<SocketAddr>,
}

/// How traffic is split while a revision is on trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryConfig {
    /// Parts of [`WHOLE`] for each revision other than the stable one.
    pub weights: BTreeMap<String, u32>,
    /// Requests that always go to one revision, first match wins.
    pub rules: Vec<RuleConfig>,
    /// A revision that gets copies of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorConfig>,
    /// All of this ends when it is not renewed for so long: everything goes back to the stable
    /// revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

/// A request with this header or cookie goes to this revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Name of a header field. One of `header` and `cookie` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Name of a cookie. Its value must be `<value>.<epoch>`, so that it ends with a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The value that matches.
    pub value: String,
    /// Where it goes.
    pub revision: String,
}

/// A revision that gets copies of requests, whose answers are thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// Where copies go.
    pub revision: String,
    /// Parts of [`WHOLE`] that are copied.
    pub share: u32,
    /// Whether methods that change something are copied too.
    #[serde(default)]
    pub unsafe_methods: bool,
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// What is asked for with GET; left out: whether the port takes connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Between two checks.
    pub interval_ms: u64,
    /// Until an answer must be there.
    pub timeout_ms: u64,
    /// Failures in a row after which no traffic goes there.
    pub unhealthy: u32,
    /// Successes in a row after which it comes back.
    pub healthy: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            path: None,
            interval_ms: 2_000,
            timeout_ms: 1_000,
            unhealthy: 3,
            healthy: 2,
        }
    }
}

/// What a service allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// Until a connection to a container must stand.
    pub connect_ms: u64,
    /// Until the head of the answer must be there.
    pub response_ms: u64,
    /// Between two reads of the answer's body.
    pub response_idle_ms: u64,
    /// Bytes of a request body.
    pub body_bytes: u64,
    /// Further tries at other endpoints when none of a request's bytes were sent.
    pub retries: u32,
    /// Whether a request without a body and with an idempotent method is tried once more when the
    /// connection broke before the answer began.
    pub retry_idempotent: bool,
    /// Failures in a row, seen on real requests, after which an endpoint is left alone for a while;
    /// 0: never.
    pub eject_after: u32,
    /// For how long; twice as long each time it happens again, at most ten times.
    pub eject_ms: u64,
    /// A WebSocket or TCP connection without a byte.
    pub tunnel_idle_ms: u64,
    /// How long such connections stay on a revision that has no traffic any more.
    pub lease_ms: u64,
    /// They are closed one after the other over this last part of the lease.
    pub lease_spread_ms: u64,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            connect_ms: 2_000,
            response_ms: 60_000,
            response_idle_ms: 60_000,
            body_bytes: 128 * 1024 * 1024,
            retries: 2,
            retry_idempotent: false,
            eject_after: 5,
            eject_ms: 5_000,
            tunnel_idle_ms: 3_600_000,
            lease_ms: 300_000,
            lease_spread_ms: 60_000,
        }
    }
}

/// Requests for a host and below a path belong to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// `example.com`, `*.example.com` (one or more levels) or `*`.
    pub host: String,
    /// `/` or `/api`: this path and what is below it. The longest wins.
    #[serde(default = "root_path")]
    pub path: String,
    /// The service.
    pub service: String,
}

fn root_path() -> String {
    "/".to_owned()
}
