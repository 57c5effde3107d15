//! Heads as bytes. Framing fields are always the gateway's own.

use bytes::{BufMut as _, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version};

use super::framing::Framing;

/// Writes a request head. `headers` hold no hop-by-hop and no framing fields.
pub(crate) fn request(
    into: &mut BytesMut,
    method: &Method,
    target: &Uri,
    headers: &HeaderMap,
    framing: Framing,
) {
    into.reserve(512);
    into.put_slice(method.as_str().as_bytes());
    into.put_u8(b' ');
    let path = target.path_and_query().map_or("/", |path| path.as_str());
    into.put_slice(path.as_bytes());
    into.put_slice(b" HTTP/1.1\r\n");
    if let Some(host) = headers.get(HOST) {
        field(into, b"host", host.as_bytes());
    }
    let skips_length = |name: &http::HeaderName| name == HOST || is_framing(name);
    fields(into, headers, skips_length);
    match framing {
        Framing::Chunked | Framing::UntilClose => field(into, b"transfer-encoding", b"chunked"),
        Framing::Length(length) => number(into, b"content-length", length),
        // A method that usually has a body says that there is none (RFC 9110, 8.6).
        Framing::None
            if method == Method::POST || method == Method::PUT || method == Method::PATCH =>
        {
            field(into, b"content-length", b"0");
        }
        Framing::None => {}
    }
    into.put_slice(b"\r\n");
}

/// What a response says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// HTTP/1.1 keeps it open without a word.
    Keep,
    /// HTTP/1.0 must be told.
    KeepAloud,
    Close,
    /// 101: the connection becomes something else.
    Upgrade,
}

/// Writes a response head.
pub(crate) fn response<B>(
    into: &mut BytesMut,
    response: &Response<B>,
    framing: Framing,
    persistence: Persistence,
    date: &str,
) {
    into.reserve(512);
    let status = response.status();
    if status == StatusCode::OK {
        into.put_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        into.put_slice(b"HTTP/1.1 ");
        into.put_slice(status.as_str().as_bytes());
        into.put_u8(b' ');
        into.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        into.put_slice(b"\r\n");
    }
    let headers = response.headers();
    fields(into, headers, is_framing);
    if !headers.contains_key(DATE) {
        field(into, b"date", date.as_bytes());
    }
    match framing {
        Framing::Chunked => field(into, b"transfer-encoding", b"chunked"),
        Framing::Length(length) => number(into, b"content-length", length),
        Framing::UntilClose => {}
        Framing::None => {
            // The length of what GET would give, with HEAD and 304.
            if let Some(length) = headers.get(CONTENT_LENGTH)
                && status != StatusCode::NO_CONTENT
            {
                field(into, b"content-length", length.as_bytes());
            }
        }
    }
    match persistence {
        Persistence::Keep => {}
        Persistence::KeepAloud => field(into, b"connection", b"keep-alive"),
        Persistence::Close => field(into, b"connection", b"close"),
        Persistence::Upgrade => field(into, b"connection", b"upgrade"),
    }
    into.put_slice(b"\r\n");
}

/// How a client hears the end of a body of this length.
pub(crate) fn response_framing(
    method: &Method,
    status: StatusCode,
    length: Option<u64>,
    version: Version,
) -> Framing {
    let has_none = method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    match length {
        _ if has_none => Framing::None,
        Some(length) => Framing::Length(length),
        None if version == Version::HTTP_10 => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

/// Writes the end of a chunked body.
pub(crate) fn last_chunk(into: &mut BytesMut, trailers: Option<&HeaderMap>) {
    into.put_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(into, trailers, |name| {
            is_framing(name) || name == HOST || name == CONNECTION
        });
    }
    into.put_slice(b"\r\n");
}

fn is_framing(name: &http::HeaderName) -> bool {
    name == CONTENT_LENGTH || name == TRANSFER_ENCODING
}

fn fields(into: &mut BytesMut, headers: &HeaderMap, skip: impl Fn(&http::HeaderName) -> bool) {
    for (name, value) in headers {
        if !skip(name) {
            field(into, name.as_str().as_bytes(), value.as_bytes());
        }
    }
}

fn field(into: &mut BytesMut, name: &[u8], value: &[u8]) {
    into.reserve(name.len() + value.len() + 4);
    into.put_slice(name);
    into.put_slice(b": ");
    into.put_slice(value);
    into.put_slice(b"\r\n");
}

fn number(into: &mut BytesMut, name: &[u8], value: u64) {
    let mut digits = [0_u8; 20];
    let mut place = digits.len();
    let mut rest = value;
    loop {
        place -= 1;
        digits[place] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    field(into, name, &digits[place..]);
}

/// Puts the fields that ask for a WebSocket, which are hop-by-hop, onto a request or a 101.
pub(crate) fn ask_for_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, http::HeaderValue::from_static("websocket"));
}
