//! Request and response heads from bytes.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri, Version};

/// Most header fields `limits.headers` can allow: they are parsed into an array of this size.
pub(crate) const MOST_HEADERS: usize = 256;

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

/// Refuses with 400.
pub(crate) const fn bad(reason: &'static str) -> Bad {
    Bad {
        status: StatusCode::BAD_REQUEST,
        reason,
    }
}

const TOO_LARGE: Bad = Bad {
    status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    reason: "the request head is too large",
};

/// A request head.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) target: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
}

/// A response head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
}

/// How large a head may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) headers: usize,
}

/// Takes a request head off the front of `buffer`; `None` while it is not whole.
pub(crate) fn take_request(
    buffer: &mut BytesMut,
    limits: HeadLimits,
) -> Result<Option<RequestHead>, Bad> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= limits.bytes => length,
        Ok(httparse::Status::Partial) if buffer.len() < limits.bytes => {
            return reject_bare_line_feeds(buffer).map(|()| None);
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(_) => return Err(bad("the request head is malformed")),
    };
    reject_bare_line_feeds(&buffer[..length])?;
    let version = version(request.version);
    let method = method(request.method.unwrap_or_default())?;
    let target = span(buffer, request.path.unwrap_or_default().as_bytes());
    let places = places(buffer, request.headers, limits)?;
    let head = buffer.split_to(length).freeze();
    let target = target_uri(&method, head.slice(target))?;
    Ok(Some(RequestHead {
        headers: headers(&head, &places)?,
        method,
        target,
        version,
    }))
}

/// Takes a response head off the front of `buffer`; `None` while it is not whole.
pub(crate) fn take_response(
    buffer: &mut BytesMut,
    limits: HeadLimits,
) -> Result<Option<ResponseHead>, Bad> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let parsed = parser.parse_response_with_uninit_headers(&mut response, buffer, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= limits.bytes => length,
        Ok(httparse::Status::Partial) if buffer.len() < limits.bytes => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(_) => return Err(bad("the response head is malformed")),
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default());
    let status = status.map_err(|_invalid| bad("the status code is not one"))?;
    let version = version(response.version);
    let places = places(buffer, response.headers, limits)?;
    let head = buffer.split_to(length).freeze();
    Ok(Some(ResponseHead {
        headers: headers(&head, &places)?,
        status,
        version,
    }))
}

/// Takes a trailer section, which ends with an empty line, off the front of `buffer`.
pub(crate) fn take_trailers(
    buffer: &mut BytesMut,
    limits: HeadLimits,
) -> Result<Option<HeaderMap>, Bad> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let (length, parsed) = match httparse::parse_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete(complete)) if complete.0 <= limits.bytes => complete,
        Ok(httparse::Status::Partial) if buffer.len() < limits.bytes => {
            return reject_bare_line_feeds(buffer).map(|()| None);
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(_) => return Err(bad("the trailers are malformed")),
    };
    reject_bare_line_feeds(&buffer[..length])?;
    let places = places(buffer, parsed, limits)?;
    let section = buffer.split_to(length).freeze();
    headers(&section, &places).map(Some)
}

type Place = (std::ops::Range<usize>, std::ops::Range<usize>);

/// Where names and values stand, so that they can outlive the borrow of the buffer.
fn places(
    buffer: &[u8],
    fields: &[httparse::Header<'_>],
    limits: HeadLimits,
) -> Result<Vec<Place>, Bad> {
    if fields.len() > limits.headers {
        return Err(TOO_LARGE);
    }
    let place = |field: &httparse::Header<'_>| {
        let name = span(buffer, field.name.as_bytes());
        (name, span(buffer, field.value))
    };
    Ok(fields.iter().map(place).collect())
}

/// Where a part of the buffer stands in it.
fn span(buffer: &[u8], part: &[u8]) -> std::ops::Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(buffer.as_ptr() as usize);
    start..start + part.len()
}

fn headers(head: &Bytes, places: &[Place]) -> Result<HeaderMap, Bad> {
    let mut headers = HeaderMap::with_capacity(places.len() + 6);
    for (name, value) in places {
        let name = HeaderName::from_bytes(&head[name.clone()])
            .map_err(|_invalid| bad("a header name is not one"))?;
        let value = HeaderValue::from_maybe_shared(head.slice(value.clone()))
            .map_err(|_invalid| bad("a header value has a forbidden byte"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    }
}

fn method(name: &str) -> Result<Method, Bad> {
    if name == "CONNECT" {
        return Err(Bad {
            status: StatusCode::NOT_IMPLEMENTED,
            reason: "CONNECT is not for this server",
        });
    }
    Method::from_bytes(name.as_bytes()).map_err(|_invalid| bad("the method is not one"))
}

/// Origin, absolute and asterisk form (RFC 9112, 3.2); a fragment never goes over the wire.
fn target_uri(method: &Method, target: Bytes) -> Result<Uri, Bad> {
    let asterisk = &*target == b"*";
    if target.contains(&b'#') || (asterisk && method != Method::OPTIONS) {
        return Err(bad("the request target is malformed"));
    }
    let uri = Uri::from_maybe_shared(target)
        .map_err(|_invalid| bad("the request target is malformed"))?;
    let is_http = uri.scheme().is_none_or(|scheme| {
        *scheme == http::uri::Scheme::HTTP || *scheme == http::uri::Scheme::HTTPS
    });
    let is_origin = uri.scheme().is_some() || uri.path().starts_with('/') || asterisk;
    if !is_http || !is_origin {
        return Err(bad("the request target is malformed"));
    }
    Ok(uri)
}

/// A line feed without a carriage return ends a line for some parsers and not for others.
fn reject_bare_line_feeds(head: &[u8]) -> Result<(), Bad> {
    let mut before = 0;
    for byte in head {
        if *byte == b'\n' && before != b'\r' {
            return Err(bad("a line ends without a carriage return"));
        }
        before = *byte;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 1024,
        headers: 4,
    };

    fn parse(text: &str) -> Result<Option<RequestHead>, Bad> {
        take_request(&mut BytesMut::from(text), LIMITS)
    }

    #[test]
    fn a_head_is_taken_and_the_rest_stays() {
        let mut buffer = BytesMut::from("GET /a?b HTTP/1.1\r\nHost: x\r\nA:  1 \r\n\r\nbody");
        let head = take_request(&mut buffer, LIMITS).unwrap().unwrap();
        assert_eq!(
            (head.method, head.target.to_string()),
            (Method::GET, "/a?b".to_owned())
        );
        assert_eq!(head.headers["a"], "1");
        assert_eq!(&*buffer, b"body");
    }

    #[test]
    fn every_prefix_of_a_head_is_unfinished() {
        let text = "POST /x HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\n";
        for length in 0..text.len() {
            assert!(parse(&text[..length]).unwrap().is_none(), "{length}");
        }
        assert!(parse(text).unwrap().is_some());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (text, status) in [
            ("GET / HTTP/1.1\nHost: x\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nA\u{e9}: b\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("GET / HTTP/1.2\r\nHost: x\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
            (
                "GET / HTTP/1.1\r\na:1\r\nb:1\r\nc:1\r\nd:1\r\ne:1\r\n\r\n",
                431,
            ),
        ] {
            let refused = parse(text).unwrap_err();
            assert_eq!(refused.status.as_u16(), status, "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(2000));
        assert_eq!(parse(&long).unwrap_err(), TOO_LARGE);
    }

    #[test]
    fn responses_and_trailers_are_as_strict() {
        let response = |text: &str| take_response(&mut BytesMut::from(text), LIMITS);
        assert_eq!(
            response("HTTP/1.1 204 \r\n\r\n").unwrap().unwrap().status,
            204
        );
        assert!(response("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n").is_err());
        assert!(response("HTTP/1.1 200 OK\r\nA : b\r\n\r\n").is_err());
        assert!(response("HTTP/1.1 2000 OK\r\n\r\n").is_err());
        let trailers = |text: &str| take_trailers(&mut BytesMut::from(text), LIMITS);
        assert_eq!(trailers("\r\n").unwrap().unwrap().len(), 0);
        assert_eq!(trailers("A: b\r\n\r\n").unwrap().unwrap()["a"], "b");
        assert!(trailers("A: b\n\r\n").is_err());
    }
}
