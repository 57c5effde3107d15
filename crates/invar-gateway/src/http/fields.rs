//! Header fields that end at the gateway, and those it adds.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, Version};

use crate::connection::Connection;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
];
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Fields besides those set here by which an application may be told who is in front of it.
const CLAIMED: [HeaderName; 4] = [
    FORWARDED,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-real-ip"),
];

/// Removes what belongs to one connection alone (RFC 9110, 7.6.1), fields that `Connection` names
/// included.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Nobody can have the gateway forget where a request goes or how long it is.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether `TE: trailers` was said, which gRPC needs to see.
pub(crate) fn wants_trailers(headers: &HeaderMap) -> bool {
    has_token(headers, &TE, "trailers")
}

/// Whether the client asks for a WebSocket (RFC 6455, 4.1).
pub(crate) fn asks_for_websocket(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    method == Method::GET
        && version == Version::HTTP_11
        && has_token(headers, &CONNECTION, "upgrade")
        && headers
            .get(UPGRADE)
            .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether a list field holds a word.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Tells the container who asked and how. What a client claims about that is removed, unless the
/// client is a proxy that the listener trusts.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, connection: &Connection, host: &HeaderValue) {
    let is_trusted = is_trusted(&connection.listener.trusted_proxies, connection.peer.ip());
    if is_trusted {
        let before = headers
            .get_all(&X_FORWARDED_FOR)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect::<Vec<_>>()
            .join(&b", "[..]);
        let mut list = before;
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(connection.forwarded_for.as_bytes());
        if let Ok(list) = HeaderValue::from_bytes(&list) {
            headers.insert(X_FORWARDED_FOR, list);
        }
        let missing = [
            (X_FORWARDED_PROTO, connection.forwarded_proto()),
            (X_FORWARDED_HOST, host.clone()),
        ];
        for (name, value) in missing {
            headers.entry(name).or_insert(value);
        }
        return;
    }
    if headers.keys().any(|name| CLAIMED.contains(name)) {
        for name in &CLAIMED {
            headers.remove(name);
        }
    }
    headers.insert(X_FORWARDED_FOR, connection.forwarded_for.clone());
    headers.insert(X_FORWARDED_PROTO, connection.forwarded_proto());
    headers.insert(X_FORWARDED_HOST, host.clone());
}

fn is_trusted(proxies: &[IpAddr], peer: IpAddr) -> bool {
    proxies.contains(&peer.to_canonical())
}

/// The client waits for `100 Continue`; the gateway gives it when the body is wanted.
pub(crate) fn take_expectation(headers: &mut HeaderMap) -> bool {
    headers
        .remove(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// HTTP/2 may split cookies; HTTP/1.1 has one field (RFC 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    cookies.next();
    if cookies.next().is_none() {
        return;
    }
    let joined = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn hop_by_hop_fields_stay_here() {
        let mut headers = headers(&[
            ("connection", "close, X-Secret"),
            ("connection", "host, content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "x"),
            ("proxy-connection", "x"),
            ("host", "a"),
            ("content-length", "3"),
            ("accept", "b"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host"]);
    }

    #[test]
    fn only_a_websocket_request_asks_for_one() {
        let asks = |fields: &[(&str, &str)], method: Method, version| {
            asks_for_websocket(&method, version, &headers(fields))
        };
        let both = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ];
        assert!(asks(&both, Method::GET, Version::HTTP_11));
        assert!(!asks(&both, Method::POST, Version::HTTP_11));
        assert!(!asks(&both, Method::GET, Version::HTTP_10));
        assert!(!asks(&both[1..], Method::GET, Version::HTTP_11));
        let h2c = [("connection", "upgrade"), ("upgrade", "h2c")];
        assert!(!asks(&h2c, Method::GET, Version::HTTP_11));
    }

    #[test]
    fn split_cookies_are_joined() {
        let mut headers = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut headers);
        let cookies: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }
}
