//! Answers of the gateway itself.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::body::Body;

/// A short text that says what is wrong; nothing of the request is repeated in it.
pub(crate) fn answer(status: StatusCode, reason: &str) -> Response<Body> {
    let text = format!(
        "{} {}: {reason}\n",
        status.as_str(),
        status.canonical_reason().unwrap_or_default()
    );
    let mut response = text_answer(status, "text/plain; charset=utf-8", text);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// A text of any kind.
pub(crate) fn text_answer(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
