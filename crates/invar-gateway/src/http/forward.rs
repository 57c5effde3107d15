//! The way of a request: route, claim, adapt, send, adapt the answer.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HOST, HeaderValue, SET_COOKIE, TE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};

use super::body::Body;
use super::fields;
use super::flight::Flight;
use super::mirror::Copying;
use super::own;
use crate::access_log::Entry;
use crate::config::{ListenerProtocol, ServiceProtocol};
use crate::connection::Connection;
use crate::http1::encode::ask_for_websocket;
use crate::traffic::endpoint;
use crate::traffic::route::host_of;
use crate::traffic::service::{Claimed, Service};
use crate::upstream::{self, Failure, Sent, Stage};
use crate::websocket::Opened;
use crate::worker::Worker;

/// What a client gets.
#[derive(Debug)]
pub(crate) enum Answer {
    Response(Box<Response<Body>>),
    /// The connection becomes a WebSocket.
    Tunnel(Response<()>, Box<Opened>),
}

/// Forwards a request whose framing was checked. `authority` is its `Host`.
pub(crate) async fn forward(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    request: Request<Body>,
    authority: &str,
) -> Answer {
    let started = Instant::now();
    let entry = worker
        .logs()
        .then(|| Box::new(Entry::of(&request, authority, connection)));
    let refused = |status, reason| {
        worker.shared.metrics.refused.fetch_add(1, Relaxed);
        refuse(worker, entry.clone(), started, status, reason)
    };
    if connection.listener.protocol == ListenerProtocol::Metrics {
        return Answer::Response(Box::new(metrics(worker, &request)));
    }
    if let Some(answer) = worker.shared.challenges.answer(request.uri().path()) {
        let kind = "application/octet-stream";
        return Answer::Response(Box::new(own::text_answer(StatusCode::OK, kind, answer)));
    }
    let Some(host) = host_of(authority).or((authority.is_empty()).then_some("")) else {
        return refused(StatusCode::BAD_REQUEST, "Host is not a name");
    };
    let Some(service) = find_service(worker, connection, host, request.uri().path()) else {
        return refused(StatusCode::NOT_FOUND, "no service has this host and path");
    };
    let claimed = service
        .claim(request.headers(), connection.limits.queued)
        .await;
    let Ok(claimed) = claimed else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait");
    };
    let Claimed {
        claim,
        traffic,
        set_cookie,
    } = claimed;
    let mut flight = Box::new(Flight::new(worker, claim, traffic, started));
    flight.entry = entry;
    if let Some(entry) = &mut flight.entry {
        entry.service = Some(service.name.to_string());
    }
    let mut answer = Outgoing::prepare(connection, request, authority, &flight)
        .send(flight, connection)
        .await;
    if let (Some(cookie), Answer::Response(response)) = (set_cookie, &mut answer)
        && let Ok(cookie) = HeaderValue::from_str(&cookie)
    {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    answer
}

fn find_service(
    worker: &Worker,
    connection: &Connection,
    host: &str,
    path: &str,
) -> Option<Arc<Service>> {
    let table = worker.shared.table.load();
    let found = match &connection.listener.service {
        Some(name) => table.services.get(name),
        None => table.routes.find(host, path),
    };
    found.map(Arc::clone)
}

fn refuse(
    worker: &Worker,
    entry: Option<Box<Entry>>,
    started: Instant,
    status: StatusCode,
    reason: &str,
) -> Answer {
    if let Some(mut entry) = entry {
        entry.status = status.as_u16();
        entry.total_us = started.elapsed().as_micros();
        entry.complete = true;
        worker.log(&entry);
    }
    Answer::Response(Box::new(own::answer(status, reason)))
}

fn metrics(worker: &Worker, request: &Request<Body>) -> Response<Body> {
    if request.uri().path() != "/metrics" {
        return own::answer(StatusCode::NOT_FOUND, "the metrics are at /metrics");
    }
    let table = worker.shared.table.load();
    let text = worker.shared.metrics.render(&table);
    own::text_answer(StatusCode::OK, "text/plain; version=0.0.4", text)
}

/// A request as the container will see it.
struct Outgoing {
    parts: Parts,
    body: Body,
    is_websocket: bool,
    protocol: ServiceProtocol,
}

impl Outgoing {
    fn prepare(
        connection: &Rc<Connection>,
        request: Request<Body>,
        authority: &str,
        flight: &Flight,
    ) -> Self {
        let config = &flight.traffic.config;
        let (mut parts, body) = request.into_parts();
        let is_websocket = config.protocol == ServiceProtocol::Http1
            && body.is_empty()
            && fields::asks_for_websocket(&parts.method, parts.version, &parts.headers);
        let wants_trailers = fields::wants_trailers(&parts.headers);
        fields::strip_hop_by_hop(&mut parts.headers);
        if parts.version == Version::HTTP_2 {
            fields::join_cookies(&mut parts.headers);
        }
        if let Ok(host) = HeaderValue::from_str(authority) {
            fields::set_forwarded(&mut parts.headers, connection, &host);
            parts.headers.insert(HOST, host);
        }
        if config.protocol == ServiceProtocol::H2c && wants_trailers {
            parts
                .headers
                .insert(TE, HeaderValue::from_static("trailers"));
        }
        if is_websocket {
            ask_for_websocket(&mut parts.headers);
        }
        let mut body = body.for_revision(flight.revision(), config.policy.body_bytes);
        let most = connection.limits.mirror_bytes;
        if !is_websocket
            && let Some(copying) = Copying::begin(flight.worker(), &flight.traffic, &parts, most)
        {
            if body.is_empty() {
                copying.send();
            } else {
                body = body.copied(copying);
            }
        }
        Self {
            parts,
            body,
            is_websocket,
            protocol: config.protocol,
        }
    }

    /// Sends it, to a second endpoint or a second time where that cannot do anything twice.
    async fn send(mut self, mut flight: Box<Flight>, connection: &Connection) -> Answer {
        let worker = Rc::clone(flight.worker());
        let traffic = Arc::clone(&flight.traffic);
        let revision = Arc::clone(flight.revision());
        let policy = &traffic.config.policy;
        if self
            .body
            .length()
            .is_some_and(|length| length > policy.body_bytes)
        {
            return own_answer(
                flight,
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is too large",
            );
        }
        if self.protocol == ServiceProtocol::Tcp {
            return own_answer(
                flight,
                StatusCode::BAD_GATEWAY,
                "the service speaks no HTTP",
            );
        }
        let can_repeat =
            policy.retry_idempotent && self.parts.method.is_idempotent() && self.body.is_empty();
        let mut tried = Vec::new();
        let mut repeated = false;
        loop {
            let Some(endpoint) = endpoint::choose(&revision.endpoints, &tried) else {
                let reason = "no container of the service answers";
                return own_answer(flight, StatusCode::SERVICE_UNAVAILABLE, reason);
            };
            flight.goes_to(Arc::clone(&endpoint));
            let body = std::mem::take(&mut self.body);
            let sent =
                upstream::send(&worker, &endpoint, self.protocol, policy, &self.parts, body).await;
            let failure = match sent {
                Ok(sent) => {
                    endpoint.succeeded();
                    return self.answer(flight, sent, connection);
                }
                Err(failure) => failure,
            };
            if failure.is_endpoints_fault() {
                endpoint.failed(policy);
                revision.metrics.upstream_errors.fetch_add(1, Relaxed);
            }
            match (failure.stage, failure.body) {
                (Stage::Unsent, Some(body)) if flight.retries < policy.retries => {
                    self.body = body;
                    // A lone endpoint may be just starting or have a full queue: it is asked again.
                    if revision.endpoints.len() > 1 {
                        tried.push(endpoint.id);
                    }
                }
                (Stage::Unanswered, _) if can_repeat && !repeated => repeated = true,
                _ => return own_answer(flight, failure.status, failure.reason),
            }
            flight.retries += 1;
        }
    }

    fn answer(&self, mut flight: Box<Flight>, sent: Sent, connection: &Connection) -> Answer {
        match sent {
            Sent::Response(mut response) => {
                fields::strip_hop_by_hop(response.headers_mut());
                flight.answered(response.status().as_u16());
                let mut response = response.map(|body| body.in_flight(flight));
                if response.body().length().is_some() && self.parts.method != http::Method::HEAD {
                    // The length is the body's own; a field could disagree with it.
                    response.headers_mut().remove(CONTENT_LENGTH);
                }
                Answer::Response(Box::new(response))
            }
            Sent::Switched(head, wire) => {
                let mut response = Response::new(());
                *response.status_mut() = head.status;
                *response.headers_mut() = head.headers;
                let headers = response.headers_mut();
                let accepted = headers
                    .get(http::header::UPGRADE)
                    .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
                if !self.is_websocket || !accepted {
                    let reason = "the container switched to a protocol nobody asked for";
                    return own_answer(flight, StatusCode::BAD_GATEWAY, reason);
                }
                fields::strip_hop_by_hop(headers);
                headers.insert(http::header::UPGRADE, HeaderValue::from_static("websocket"));
                flight.answered(101);
                flight.becomes_tunnel();
                let opened = Opened::new(wire, flight, &connection.limits);
                Answer::Tunnel(response, Box::new(opened))
            }
        }
    }
}

fn own_answer(mut flight: Box<Flight>, status: StatusCode, reason: &str) -> Answer {
    flight.answered(status.as_u16());
    let response = own::answer(status, reason).map(|body| body.in_flight(flight));
    Answer::Response(Box::new(response))
}

impl Failure {
    fn is_endpoints_fault(&self) -> bool {
        self.stage != Stage::ClientFailed
    }
}
