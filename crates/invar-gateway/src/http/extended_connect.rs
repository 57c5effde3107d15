//! `WebSocket`s over HTTP/2 (RFC 8441): one stream of a connection is the tunnel. To the container it
//! is a WebSocket over HTTP/1.1 as any other.

use bytes::BytesMut;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::body::Body;
use super::fields;
use super::forward::Answer;
use super::http2::Open;
use super::own;
use crate::random;
use crate::stream::Stream;
use crate::tunnel::Side;
use crate::websocket;

/// Whether a `CONNECT` asks for a WebSocket.
pub(super) fn asks(request: &Request<Incoming>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket"))
}

/// Makes it the request that HTTP/1.1 has for the same; what the stream becomes when it is accepted.
pub(super) fn take(request: &mut Request<Incoming>) -> OnUpgrade {
    let upgrade = hyper::upgrade::on(&mut *request);
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    // Such a request has several fields of cookies, and no key.
    fields::join_cookies(headers);
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(key) = HeaderValue::from_str(&key()) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    upgrade
}

/// Sixteen bytes in base64. Nobody must be unable to guess them: they keep caches from answering.
fn key() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |of: &[u8]| {
        let index = random::below(of.len() as u64);
        char::from(of[usize::try_from(index).unwrap_or(0)])
    };
    let mut key: String = (0..21).map(|_| digit(DIGITS)).collect();
    // Of the last digit two bits count.
    key.push(digit(b"AQgw"));
    key + "=="
}

/// What the client gets. A tunnel goes on beside the connection's other streams and holds `open`.
pub(super) fn answer(answer: Answer, upgrade: OnUpgrade, open: Open) -> Response<Body> {
    let (response, opened) = match answer {
        // Any success would say that the tunnel is there.
        Answer::Response(response) if response.status().is_success() => {
            let reason = "the container opened no WebSocket";
            return own::answer(StatusCode::BAD_GATEWAY, reason);
        }
        Answer::Response(response) => return *response,
        Answer::Tunnel(response, opened) => (response, opened),
    };
    tokio::task::spawn_local(async move {
        let _open = open;
        // The client may be gone before it hears of it.
        if let Ok(upgraded) = upgrade.await {
            let stream = Stream::Http2(Box::new(TokioIo::new(upgraded)));
            websocket::run(Side::new(stream, BytesMut::new()), *opened).await;
        }
    });
    let mut response = response.map(|()| Body::default());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove(UPGRADE);
    response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_and_each_time_another() {
        let (one, two) = (key(), key());
        assert_eq!((one.len(), &one[22..]), (24, "=="));
        assert_ne!(one, two);
    }
}
