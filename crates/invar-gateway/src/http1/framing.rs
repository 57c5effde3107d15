//! Where a message's body ends (RFC 9112, 6): told in exactly one way, or refused.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Uri, Version};

use super::head::{Bad, bad};

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked,
    /// Only of a response.
    UntilClose,
}

/// The framing of a request. A length and a transfer coding together, two lengths, or a coding other
/// than `chunked` are how requests are smuggled: refused.
pub(crate) fn of_request(headers: &HeaderMap, version: Version) -> Result<Framing, Bad> {
    let length = content_length(headers)?;
    if !headers.contains_key(TRANSFER_ENCODING) {
        return Ok(length.map_or(Framing::None, Framing::Length));
    }
    if length.is_some() {
        return Err(bad("both Content-Length and Transfer-Encoding"));
    }
    if version == Version::HTTP_10 {
        return Err(bad("Transfer-Encoding in HTTP/1.0"));
    }
    if !is_only_chunked(headers) {
        return Err(Bad {
            status: StatusCode::NOT_IMPLEMENTED,
            reason: "the only transfer coding is chunked",
        });
    }
    Ok(Framing::Chunked)
}

/// The framing of a response to a request with this method.
pub(crate) fn of_response(
    method: &Method,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Framing, Bad> {
    let length = content_length(headers)?;
    let is_coded = headers.contains_key(TRANSFER_ENCODING);
    if length.is_some() && is_coded {
        return Err(bad("both Content-Length and Transfer-Encoding"));
    }
    let has_none = method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    if has_none {
        return Ok(Framing::None);
    }
    match length {
        Some(length) => Ok(Framing::Length(length)),
        None if !is_coded => Ok(Framing::UntilClose),
        None if is_only_chunked(headers) => Ok(Framing::Chunked),
        None => Err(bad("the only transfer coding is chunked")),
    }
}

fn is_only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let only = codings.next();
    codings.next().is_none()
        && only.is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// One field of digits alone: no sign, no list, no second field.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Bad> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    if lengths.next().is_some() {
        return Err(bad("more than one Content-Length"));
    }
    let text = length.to_str().unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad("Content-Length is not a number"));
    }
    let length = text.parse();
    length
        .map(Some)
        .map_err(|_overflow| bad("Content-Length is too large"))
}

/// The authority a request is for: the one `Host`, which an absolute target must agree with.
pub(crate) fn authority<'a>(
    headers: &'a HeaderMap,
    target: &'a Uri,
    version: Version,
) -> Result<&'a str, Bad> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("more than one Host"));
    }
    let host = host.map(|host| host.to_str().map_err(|_invalid| bad("Host is not a name")));
    match (host.transpose()?, target.authority()) {
        (Some(host), Some(authority)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(bad("Host and request target disagree"))
        }
        (_, Some(authority)) => Ok(authority.as_str()),
        (Some(host), None) => Ok(host),
        (None, None) if version == Version::HTTP_10 => Ok(""),
        (None, None) => Err(bad("no Host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: http::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_request_is_framed_in_one_way_or_refused() {
        let (cl, te) = ("content-length", "transfer-encoding");
        for (fields, expected) in [
            (&[][..], Ok(Framing::None)),
            (&[(cl, "0")], Ok(Framing::Length(0))),
            (
                &[(cl, "18446744073709551615")],
                Ok(Framing::Length(u64::MAX)),
            ),
            (&[(te, "chunked")], Ok(Framing::Chunked)),
            (&[(te, "CHUNKED")], Ok(Framing::Chunked)),
            (&[(cl, "1"), (te, "chunked")], Err(400)),
            (&[(te, "chunked"), (cl, "1")], Err(400)),
            (&[(cl, "1"), (cl, "1")], Err(400)),
            (&[(cl, "1"), (cl, "2")], Err(400)),
            (&[(cl, "1, 1")], Err(400)),
            (&[(cl, "+1")], Err(400)),
            (&[(cl, "-1")], Err(400)),
            (&[(cl, "1 ")], Err(400)),
            (&[(cl, "0x1")], Err(400)),
            (&[(cl, "")], Err(400)),
            (&[(cl, "18446744073709551616")], Err(400)),
            (&[(te, "xchunked")], Err(501)),
            (&[(te, "chunked, identity")], Err(501)),
            (&[(te, "gzip, chunked")], Err(501)),
            (&[(te, "chunked, chunked")], Err(501)),
            (&[(te, "chunked"), (te, "chunked")], Err(501)),
            (&[(te, "identity")], Err(501)),
            (&[(te, "\tchunked")], Err(501)),
            (&[(te, "")], Err(501)),
        ] {
            let framing = of_request(&headers(fields), Version::HTTP_11);
            assert_eq!(
                framing.map_err(|bad| bad.status.as_u16()),
                expected,
                "{fields:?}"
            );
        }
        assert!(of_request(&headers(&[(te, "chunked")]), Version::HTTP_10).is_err());
    }

    #[test]
    fn a_response_without_a_body_has_none_whatever_it_says() {
        let length = headers(&[("content-length", "5")]);
        for (method, status, expected) in [
            (Method::HEAD, 200, Framing::None),
            (Method::GET, 304, Framing::None),
            (Method::GET, 204, Framing::None),
            (Method::GET, 200, Framing::Length(5)),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of_response(&method, status, &length), Ok(expected));
        }
        let open = of_response(&Method::GET, StatusCode::OK, &HeaderMap::new());
        assert_eq!(open, Ok(Framing::UntilClose));
    }

    #[test]
    fn host_and_target_agree() {
        for (hosts, target, expected) in [
            (&["a"][..], "/", Some("a")),
            (&["a"], "http://a/", Some("a")),
            (&["A:80"], "http://a:80/", Some("a:80")),
            (&["a"], "http://b/", None),
            (&["a"], "http://user@a/", None),
            (&["a", "a"], "/", None),
            (&[], "/", None),
            (&[], "http://a/", Some("a")),
        ] {
            let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let headers = headers(&fields);
            let target: Uri = target.parse().unwrap();
            let found = authority(&headers, &target, Version::HTTP_11).ok();
            assert_eq!(found, expected, "{hosts:?} {target}");
        }
    }
}
