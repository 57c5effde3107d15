//! A connection to one origin: TCP, through a proxy where the environment names one, and TLS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::body::Outgoing;
use super::error::RegistryError;
use super::proxy;
use super::url::{Origin, Scheme, Url};

/// How long a host may take to accept a connection, and then to agree on TLS.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer of a proxy.
const PROXY_ANSWER: u64 = 8 << 10;
/// Most headers of one answer.
const MOST_HEADERS: usize = 100;
/// Longest header block of one answer.
const LONGEST_HEADERS: usize = 64 << 10;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct ConnectError {
    pub(crate) error: RegistryError,
    /// The other side does not answer with TLS. A server of plain HTTP may also say nothing: when
    /// no byte of the greeting happens to end a line, it waits for more.
    pub(crate) is_not_tls: bool,
}

impl From<RegistryError> for ConnectError {
    fn from(error: RegistryError) -> Self {
        Self {
            error,
            is_not_tls: false,
        }
    }
}

/// Connects, and leaves the connection to be driven by the runtime.
pub(crate) async fn connect(
    origin: &Origin,
    handshake_timeout: Duration,
    tls: impl FnOnce() -> Result<Arc<ClientConfig>, RegistryError>,
) -> Result<SendRequest<Outgoing>, ConnectError> {
    let host = origin.authority();
    let late = || RegistryError::unreachable(&host, "it takes too long to answer");
    let stream = timeout(CONNECT_TIMEOUT, reach(origin)).await;
    let stream = stream.map_err(|_elapsed| late())??;
    stream.set_nodelay(true).ok();
    if origin.scheme == Scheme::Http {
        return handshake(&host, stream).await;
    }
    let config = tls()?;
    let name = ServerName::try_from(origin.host.clone())
        .map_err(|error| RegistryError::unreachable(&host, error))?;
    let agreed = TlsConnector::from(config).connect(name, stream);
    match timeout(handshake_timeout, agreed).await {
        Ok(Ok(stream)) => handshake(&host, stream).await,
        Ok(Err(error)) => Err(tls_error(host, &error)),
        Err(_elapsed) => Err(ConnectError {
            error: late(),
            is_not_tls: true,
        }),
    }
}

async fn reach(origin: &Origin) -> Result<TcpStream, RegistryError> {
    let host = origin.authority();
    let failed = |error: io::Error| RegistryError::unreachable(&host, error);
    let Some(proxy) = proxy::for_origin(origin, |name| std::env::var(name).ok()) else {
        let address = (origin.host.as_str(), origin.port);
        return TcpStream::connect(address).await.map_err(failed);
    };
    let wrong = |reason: String| {
        RegistryError::unreachable(&host, format!("the proxy {}: {reason}", proxy.url))
    };
    let origin_of_proxy = &proxy.url.origin;
    let address = (origin_of_proxy.host.as_str(), origin_of_proxy.port);
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(|error| wrong(error.to_string()))?;
    let target = format!("{}:{}", origin.host, origin.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(user_and_password) = &proxy.credentials {
        let encoded = STANDARD.encode(user_and_password);
        request = format!("{request}Proxy-Authorization: Basic {encoded}\r\n");
    }
    request.push_str("\r\n");
    let answer = async {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the answer belongs to TLS.
        let mut limited = (&mut stream).take(PROXY_ANSWER);
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(limited.read_u8().await?);
        }
        Ok::<_, io::Error>(answer)
    };
    let answer = answer.await.map_err(|error| wrong(error.to_string()))?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    let line = String::from_utf8_lossy(line);
    if line
        .split(' ')
        .nth(1)
        .is_some_and(|status| status.starts_with('2'))
    {
        Ok(stream)
    } else {
        Err(wrong(format!("it answers {line:?}")))
    }
}

async fn handshake<S>(host: &str, stream: S) -> Result<SendRequest<Outgoing>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let agreed = http1::Builder::new()
        .max_headers(MOST_HEADERS)
        .max_buf_size(LONGEST_HEADERS.max(256 << 10))
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = agreed.map_err(|error| RegistryError::unreachable(host, error))?;
    // What breaks it is told to whoever waits for an answer.
    drop(tokio::spawn(async move { drop(connection.await) }));
    Ok(sender)
}

fn tls_error(host: String, error: &io::Error) -> ConnectError {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_not_tls = match inner {
        Some(rustls::Error::InvalidMessage(_)) => true,
        Some(_) => false,
        // It closed the connection at the first byte it did not understand.
        None => matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ),
    };
    let reason = match inner {
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS".to_owned(),
        Some(rustls::Error::InvalidCertificate(wrong)) => certificate_error(wrong),
        _ => error.to_string(),
    };
    ConnectError {
        error: RegistryError::Tls { host, reason },
        is_not_tls,
    }
}

fn certificate_error(wrong: &CertificateError) -> String {
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "its certificate is from an authority that is not known here".to_owned()
        }
        other => format!("its certificate is wrong: {other}"),
    }
}

/// A proxy of the environment.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) url: Url,
    /// `user:password`
    pub(crate) credentials: Option<String>,
}
