//! A connection just accepted: TLS if the listener has it, then the protocol it turns out to speak.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::HeaderValue;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::config::{ListenerConfig, ListenerProtocol};
use crate::http::http2;
use crate::http1;
use crate::limits::{Limits, ms};
use crate::stream::{Rewound, Stream};
use crate::tcp;
use crate::worker::Worker;

/// What is known of a client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<ListenerConfig>,
    pub(crate) limits: Arc<Limits>,
    /// The peer's address for `X-Forwarded-For`.
    pub(crate) forwarded_for: HeaderValue,
}

impl Connection {
    pub(crate) fn new(
        peer: SocketAddr,
        listener: Arc<ListenerConfig>,
        limits: Arc<Limits>,
    ) -> Self {
        let address = match peer.ip().to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => address.to_string(),
        };
        Self {
            peer,
            listener,
            limits,
            forwarded_for: HeaderValue::from_str(&address)
                .unwrap_or(HeaderValue::from_static("unknown")),
        }
    }

    pub(crate) fn forwarded_proto(&self) -> HeaderValue {
        HeaderValue::from_static(if self.listener.tls { "https" } else { "http" })
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve(worker: Rc<Worker>, connection: Connection, stream: TcpStream) {
    // Without it small answers wait for acknowledgements; failing to set it costs only time.
    drop(stream.set_nodelay(true));
    let connection = Rc::new(connection);
    let Some((stream, speaks_http2)) = secure(&worker, &connection, stream).await else {
        return;
    };
    if connection.listener.protocol == ListenerProtocol::Tcp {
        Box::pin(tcp::serve(&worker, &connection, stream)).await;
        return;
    }
    let rewound = if speaks_http2 {
        Some(Rewound {
            ahead: bytes::BytesMut::new(),
            stream,
        })
    } else {
        http1::serve::serve(&worker, &connection, stream).await
    };
    if let Some(rewound) = rewound {
        Box::pin(http2::serve(&worker, &connection, rewound)).await;
    }
}

/// Does the TLS handshake; the stream and whether HTTP/2 was agreed on in it.
async fn secure(
    worker: &Worker,
    connection: &Connection,
    stream: TcpStream,
) -> Option<(Stream, bool)> {
    if !connection.listener.tls {
        return Some((Stream::Tcp(stream), false));
    }
    let config = if connection.listener.protocol == ListenerProtocol::Http {
        &worker.shared.tls.http
    } else {
        &worker.shared.tls.plain
    };
    let handshake = Box::pin(TlsAcceptor::from(Arc::clone(config)).accept(stream));
    let limit = ms(connection.limits.tls_handshake_ms);
    if let Ok(Ok(stream)) = tokio::time::timeout(limit, handshake).await {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        return Some((Stream::Tls(Box::new(stream)), is_http2));
    }
    worker.shared.metrics.tls_failures.fetch_add(1, Relaxed);
    None
}
