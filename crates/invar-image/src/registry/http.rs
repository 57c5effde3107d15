//! One request and its answer, over connections that are kept.
//!
//! Everything here is called from plain threads: the runtime that drives the connections is
//! inside, one for each thread that speaks to a registry.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::body::{Outgoing, Payload};
use super::connection::{CONNECT_TIMEOUT, ConnectError, connect};
use super::error::RegistryError;
use super::tls::Tls;
use super::url::{Origin, Scheme, Url};

/// How long an answer may take to begin, and then each piece of it.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a host that may speak plain HTTP has to agree on TLS.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a kept connection may take to be ready again.
const READY: Duration = Duration::from_secs(1);
/// Longest error answer that is read.
pub(crate) const ERROR_ANSWER: u64 = 64 << 10;

/// How Invar calls itself.
const AGENT: &str = concat!("invar/", env!("CARGO_PKG_VERSION"));

/// Connections of one thread.
pub(crate) struct Http {
    runtime: Arc<Runtime>,
    tls: Arc<Tls>,
    open: HashMap<Origin, SendRequest<Outgoing>>,
}

/// A request.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: &'a Payload,
}

impl Http {
    pub(crate) fn new(tls: Arc<Tls>) -> Result<Self, RegistryError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| RegistryError::protocol("network of this host", error.to_string()))?;
        Ok(Self {
            runtime: Arc::new(runtime),
            tls,
            open: HashMap::new(),
        })
    }

    /// Whether a host speaks TLS; the connection is kept when it does.
    pub(crate) fn speaks_tls(&mut self, origin: &Origin) -> Result<bool, RegistryError> {
        match self.connect(origin, PROBE_TIMEOUT) {
            Ok(sender) => {
                self.open.insert(origin.clone(), sender);
                Ok(true)
            }
            Err(ConnectError {
                is_not_tls: true, ..
            }) => Ok(false),
            Err(ConnectError { error, .. }) => Err(error),
        }
    }

    /// Sends a request and waits for the head of its answer. Follows nothing, tries once.
    pub(crate) fn send(&mut self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let origin = &ask.url.origin;
        // The other side may have closed a kept connection in the meantime.
        if let Some(mut sender) = self.open.remove(origin) {
            let ready = async {
                timeout(READY, sender.ready())
                    .await
                    .is_ok_and(|r| r.is_ok())
            };
            if self.runtime.block_on(ready) {
                match self.send_on(sender, ask) {
                    Err(Failed { is_stale: true, .. }) => {}
                    other => return other.map_err(|failed| failed.error),
                }
            }
        }
        let sender = self
            .connect(origin, CONNECT_TIMEOUT)
            .map_err(|failed| failed.error)?;
        self.send_on(sender, ask).map_err(|failed| failed.error)
    }

    fn connect(
        &self,
        origin: &Origin,
        handshake_timeout: Duration,
    ) -> Result<SendRequest<Outgoing>, ConnectError> {
        let tls = Arc::clone(&self.tls);
        let connected = connect(origin, handshake_timeout, || tls.for_origin(origin));
        self.runtime.block_on(connected)
    }

    fn send_on(
        &mut self,
        mut sender: SendRequest<Outgoing>,
        ask: &Ask<'_>,
    ) -> Result<Answer, Failed> {
        let host = ask.url.origin.authority();
        let request = request(ask)?;
        let patience = PATIENCE.max(time_to_send(ask));
        let sent = async { timeout(patience, sender.send_request(request)).await };
        let response = match self.runtime.block_on(sent) {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return Err(Failed {
                    is_stale: error.is_canceled() || error.is_incomplete_message(),
                    error: RegistryError::unreachable(&host, causes(&error)),
                });
            }
            Err(_elapsed) => {
                return Err(
                    RegistryError::unreachable(&host, "it takes too long to answer").into(),
                );
            }
        };
        self.open.insert(ask.url.origin.clone(), sender);
        let (head, body) = response.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            url: ask.url.clone(),
            body,
            piece: Bytes::new(),
            kept: None,
            runtime: Arc::clone(&self.runtime),
        })
    }
}

/// A large upload is answered when it is complete: 100 kB/s are fast enough.
fn time_to_send(ask: &Ask<'_>) -> Duration {
    Duration::from_secs(60 + ask.payload.length() / 100_000)
}

fn request(ask: &Ask<'_>) -> Result<Request<Outgoing>, RegistryError> {
    let host = ask.url.origin.authority();
    let wrong = |error: &dyn std::fmt::Display| RegistryError::protocol(&host, error.to_string());
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(&ask.url.path_and_query)
        .body(ask.payload.body())
        .map_err(|error| wrong(&error))?;
    let headers = request.headers_mut();
    *headers = ask.headers.clone();
    headers.insert(HOST, HeaderValue::from_str(&host).map_err(|e| wrong(&e))?);
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if !matches!(ask.method, Method::GET | Method::HEAD) {
        headers.insert(CONTENT_LENGTH, ask.payload.length().into());
    }
    Ok(request)
}

struct Failed {
    error: RegistryError,
    /// The connection was kept too long; a new one may do.
    is_stale: bool,
}

impl From<RegistryError> for Failed {
    fn from(error: RegistryError) -> Self {
        Self {
            error,
            is_stale: false,
        }
    }
}

/// An answer, whose body is read as it comes.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Where it came from, after redirects.
    pub(crate) url: Url,
    body: Incoming,
    piece: Bytes,
    /// The body of an error, once it was read.
    kept: Option<Vec<u8>>,
    runtime: Arc<Runtime>,
}

impl Answer {
    /// A header as text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `Content-Length`, when there is one.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// The host that answered.
    pub(crate) fn host(&self) -> String {
        self.url.origin.authority()
    }

    /// Reads the body of an error, for whoever asks for it later.
    pub(crate) fn drain(&mut self) {
        self.kept = Some(self.small("error", ERROR_ANSWER).unwrap_or_default());
    }

    /// Reads a small body whole; longer than `limit` is an error.
    pub(crate) fn small(&mut self, what: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        if let Some(kept) = self.kept.take() {
            return Ok(kept);
        }
        let too_long =
            || RegistryError::protocol(what, format!("the answer is longer than {limit} bytes"));
        if self.length().is_some_and(|length| length > limit) {
            return Err(too_long());
        }
        let host = self.host();
        let mut bytes = Vec::new();
        self.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| RegistryError::unreachable(&host, error))?;
        if bytes.len() as u64 > limit {
            return Err(too_long());
        }
        Ok(bytes)
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let frame = async { timeout(PATIENCE, self.body.frame()).await };
            let frame = self.runtime.block_on(frame);
            let frame = frame.map_err(|_elapsed| {
                io::Error::new(io::ErrorKind::TimedOut, "nothing came for a minute")
            })?;
            match frame {
                None => return Ok(0),
                Some(Err(error)) => return Err(io::Error::other(causes(&error))),
                Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// An error of hyper with what is behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Whether an origin is spoken to without protection.
pub(crate) fn is_plain(origin: &Origin) -> bool {
    origin.scheme == Scheme::Http
}
