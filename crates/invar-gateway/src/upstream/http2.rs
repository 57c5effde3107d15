//! Requests to containers that speak HTTP/2 without TLS: one connection an endpoint and worker.

use std::rc::Rc;

use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Request, StatusCode, Uri, Version};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{Failure, Sent, Stage, connect};
use crate::config::PolicyConfig;
use crate::http::body::Body;
use crate::limits::ms;
use crate::traffic::endpoint::Endpoint;
use crate::worker::{LocalExecutor, Worker};

/// Sends a request on the kept connection, or on a new one when that takes no more.
pub(super) async fn send(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    policy: &PolicyConfig,
    parts: &Parts,
    mut body: Body,
) -> Result<Sent, Failure> {
    if let Some(sender) = worker.pool.http2(endpoint.id) {
        match exchange(sender, policy, parts, body).await {
            // It ended while it was idle: nobody's fault, and nothing was sent.
            Err(Failure {
                stage: Stage::Unsent,
                body: Some(whole),
                ..
            }) => body = whole,
            other => return other,
        }
        worker.pool.forget_http2(endpoint.id);
    }
    match open(endpoint, policy).await {
        Ok(sender) => {
            worker.pool.put_http2(endpoint.id, sender.clone());
            exchange(sender, policy, parts, body).await
        }
        Err(reason) => Err(Failure::unsent(reason, Some(body))),
    }
}

async fn exchange(
    mut sender: SendRequest<Body>,
    policy: &PolicyConfig,
    parts: &Parts,
    body: Body,
) -> Result<Sent, Failure> {
    const BROKE: &str = "the connection to the container broke";
    if sender.ready().await.is_err() {
        return Err(Failure::unsent(BROKE, Some(body)));
    }
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = parts.headers.clone();
    *request.uri_mut() = target(parts);
    // Both would be written twice: from the target and from the body.
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONTENT_LENGTH);
    let answer = tokio::time::timeout(ms(policy.response_ms), sender.try_send_request(request));
    match answer.await {
        Err(_) => Err(Failure::timed_out()),
        Ok(Ok(response)) => {
            let idle = ms(policy.response_idle_ms);
            let response = response.map(|body| Body::http2(body, idle));
            Ok(Sent::Response(Box::new(response)))
        }
        Ok(Err(mut error)) => match error.take_message() {
            Some(request) => Err(Failure::unsent(BROKE, Some(request.into_body()))),
            None => Err(Failure::late(
                Stage::Unanswered,
                StatusCode::BAD_GATEWAY,
                "the container closed the stream without an answer",
            )),
        },
    }
}

async fn open(
    endpoint: &Endpoint,
    policy: &PolicyConfig,
) -> Result<SendRequest<Body>, &'static str> {
    let stream = connect(endpoint, ms(policy.connect_ms)).await?;
    let handshake = Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_header_list_size(64 * 1024)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = handshake
        .await
        .map_err(|_broken| "the container does not speak HTTP/2")?;
    tokio::task::spawn_local(async move {
        // Its end shows in the sender; each request has its own error.
        drop(connection.await);
    });
    Ok(sender)
}

/// HTTP/2 has the host in the target.
fn target(parts: &Parts) -> Uri {
    let authority = parts
        .headers
        .get(HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok())
        .unwrap_or_else(|| Authority::from_static("localhost"));
    let mut target = http::uri::Parts::default();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(authority);
    target.path_and_query = parts.uri.path_and_query().cloned();
    Uri::from_parts(target).unwrap_or_default()
}
