//! One HTTP/1.1 request on a connection to a container.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode, Version};
use http_body::{Body as _, Frame};
use rustix::net::RecvFlags;
use tokio::net::TcpStream;

use super::{Failure, Sent, Stage, connect};
use crate::buffers;
use crate::config::PolicyConfig;
use crate::deadline::Deadline;
use crate::http::body::{Body, BodyError, Item};
use crate::http::fields::has_token;
use crate::http1::decode::{Decoded, Decoder};
use crate::http1::encode;
use crate::http1::framing::{self, Framing};
use crate::http1::head::{self, HeadLimits, ResponseHead};
use crate::http1::outbox::Outbox;
use crate::limits::ms;
use crate::stream::Stream;
use crate::traffic::endpoint::Endpoint;
use crate::worker::Worker;

const HEAD: HeadLimits = HeadLimits {
    bytes: 64 * 1024,
    headers: 200,
};
/// Interim answers (100, 103) in front of one answer.
const MOST_INTERIM: u32 = 16;

/// A connection to a container.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    output: Outbox,
    deadline: Deadline,
    /// What the container said in `Keep-Alive: timeout=`.
    kept_for: Option<Duration>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, first: Duration) -> Self {
        Self {
            stream: Stream::Tcp(stream),
            input: BytesMut::new(),
            output: Outbox::default(),
            deadline: Deadline::after(first),
            kept_for: None,
        }
    }

    /// Whether nothing can be read: no end, and no bytes nobody asked for, which would be taken for
    /// the next answer.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let Some(stream) = self.stream.tcp() else {
            return false;
        };
        let peeked = rustix::net::recv(stream, &mut byte[..], flags);
        self.input.is_empty() && matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// A container that announces when it closes is left a second before that.
    pub(super) fn keep_at_most(&self, keep: Duration) -> Duration {
        self.kept_for.map_or(keep, |kept| {
            keep.min(kept.saturating_sub(Duration::from_secs(1)))
        })
    }
}

/// The request's body on its way into the wire.
#[derive(Debug)]
struct Pump {
    body: Body,
    chunked: bool,
    /// All of it lies in the outbox.
    ended: bool,
    /// Taken from the body while nothing was written: given back when nothing can be.
    taken: Vec<Bytes>,
    written: u64,
}

enum PumpError {
    /// The container takes no more.
    Wire,
    /// The client's body broke off.
    Body(BodyError),
}

impl Pump {
    /// Moves body bytes into the wire; ready when all of it is written.
    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<Result<(), PumpError>> {
        loop {
            while !self.ended && !wire.output.is_full() {
                let Poll::Ready(item) = Pin::new(&mut self.body).poll_frame(cx) else {
                    break;
                };
                match item {
                    Some(Ok(frame)) => self.take(frame, wire),
                    Some(Err(error)) => return Poll::Ready(Err(PumpError::Body(error))),
                    None => self.end(None, wire),
                }
            }
            if wire.output.is_empty() {
                return if self.ended {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            let flushed = wire
                .output
                .poll_flush(cx, &mut wire.stream, &mut self.written);
            if self.written > 0 {
                self.taken = Vec::new();
            }
            ready!(flushed).map_err(|_broken| PumpError::Wire)?;
        }
    }

    fn take(&mut self, frame: Frame<Bytes>, wire: &mut Wire) {
        match frame.into_data() {
            Ok(data) => {
                if self.written == 0 {
                    self.taken.push(data.clone());
                }
                wire.output.data(data, self.chunked);
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.end(Some(&trailers), wire);
                }
            }
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>, wire: &mut Wire) {
        self.ended = true;
        if self.chunked {
            encode::last_chunk(wire.output.head(), trailers);
        }
    }

    fn is_done(&self, wire: &Wire) -> bool {
        self.ended && wire.output.is_empty()
    }
}

/// Sends a request on a kept connection, or on a new one where there is none that takes it.
pub(super) async fn send(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    policy: &PolicyConfig,
    parts: &Parts,
    mut body: Body,
) -> Result<Sent, Failure> {
    while let Some(wire) = worker.pool.take(endpoint.id) {
        match exchange(worker, endpoint.id, wire, policy, parts, body).await {
            // It died while it was idle: nobody's fault, and nothing was sent.
            Err(Failure {
                stage: Stage::Unsent,
                body: Some(whole),
                ..
            }) => body = whole,
            other => return other,
        }
    }
    match connect(endpoint, ms(policy.connect_ms)).await {
        Ok(stream) => {
            let wire = Wire::new(stream, ms(policy.response_ms));
            exchange(worker, endpoint.id, wire, policy, parts, body).await
        }
        Err(reason) => Err(Failure::unsent(reason, Some(body))),
    }
}

/// Sends a request on a connection and waits for the head of its answer.
async fn exchange(
    worker: &Rc<Worker>,
    endpoint: u64,
    mut wire: Wire,
    policy: &PolicyConfig,
    parts: &Parts,
    body: Body,
) -> Result<Sent, Failure> {
    let framing = match body.length() {
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    encode::request(
        wire.output.head(),
        &parts.method,
        &parts.uri,
        &parts.headers,
        framing,
    );
    let mut pump = Pump {
        ended: framing == Framing::None,
        chunked: framing == Framing::Chunked,
        body,
        taken: Vec::new(),
        written: 0,
    };
    wire.deadline.set(ms(policy.response_ms));
    let mut broken = false;
    let mut interim = 0;
    let head = poll_fn(|cx| poll_head(cx, &mut wire, &mut pump, &mut broken, &mut interim)).await;
    let head = match head {
        Ok(head) => head,
        Err(mut failure) => {
            if failure.stage == Stage::Unsent {
                failure.body = Some(pump.body.put_back(pump.taken));
            }
            return Err(failure);
        }
    };
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Sent::Switched(Box::new(head), Box::new(wire)));
    }
    let framing = framing::of_response(&parts.method, head.status, &head.headers)
        .map_err(|bad| Failure::late(Stage::Failed, StatusCode::BAD_GATEWAY, bad.reason))?;
    wire.kept_for = keep_alive(&head.headers).or(wire.kept_for);
    let reusable = !broken
        && framing != Framing::UntilClose
        && head.version == Version::HTTP_11
        && !has_token(&head.headers, &CONNECTION, "close");
    let mut body = ResponseBody {
        length: match framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        },
        decoder: Decoder::new(framing),
        pump: (!pump.is_done(&wire)).then_some(pump),
        wire: Some(wire),
        reusable,
        idle: ms(policy.response_idle_ms),
        waiting: false,
        worker: Rc::clone(worker),
        endpoint,
    };
    body.finish_if_done();
    let body = if body.is_done() {
        Body::default()
    } else {
        Body::upstream(Box::new(body))
    };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(Sent::Response(Box::new(response)))
}

fn poll_head(
    cx: &mut Context<'_>,
    wire: &mut Wire,
    pump: &mut Pump,
    broken: &mut bool,
    interim: &mut u32,
) -> Poll<Result<ResponseHead, Failure>> {
    if !*broken {
        match pump.poll(cx, wire) {
            Poll::Ready(Err(PumpError::Wire)) if pump.written == 0 => {
                let reason = "the connection to the container broke";
                return Poll::Ready(Err(Failure::unsent(reason, None)));
            }
            // An answer may have come before the container stopped reading.
            Poll::Ready(Err(PumpError::Wire)) => *broken = true,
            Poll::Ready(Err(PumpError::Body(error))) => {
                return Poll::Ready(Err(client_failed(&error)));
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
    }
    loop {
        let parsed = head::take_response(&mut wire.input, HEAD)
            .map_err(|bad| Failure::late(Stage::Failed, StatusCode::BAD_GATEWAY, bad.reason))?;
        match parsed {
            Some(head) if is_interim(head.status) => {
                *interim += 1;
                if *interim > MOST_INTERIM {
                    let reason = "the container sends interim answers without end";
                    return Poll::Ready(Err(Failure::late(
                        Stage::Failed,
                        StatusCode::BAD_GATEWAY,
                        reason,
                    )));
                }
                continue;
            }
            Some(head) => return Poll::Ready(Ok(head)),
            None => {}
        }
        match wire.stream.poll_fill(cx, &mut wire.input, 8 * 1024) {
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(Ok(0) | Err(_)) => {
                let stage = if wire.input.is_empty() {
                    Stage::Unanswered
                } else {
                    Stage::Failed
                };
                let reason = "the container closed the connection without an answer";
                return Poll::Ready(Err(Failure::late(stage, StatusCode::BAD_GATEWAY, reason)));
            }
            Poll::Pending if wire.deadline.poll_reached(cx) => {
                return Poll::Ready(Err(Failure::timed_out()));
            }
            Poll::Pending => return Poll::Pending,
        }
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

fn client_failed(error: &BodyError) -> Failure {
    let (status, reason) = match error {
        BodyError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        BodyError::Stalled => (StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        BodyError::Malformed(reason) => (StatusCode::BAD_REQUEST, *reason),
        BodyError::Truncated | BodyError::Io(_) | BodyError::Http2(_) => {
            (StatusCode::BAD_REQUEST, "the body ended early")
        }
    };
    Failure::late(Stage::ClientFailed, status, reason)
}

fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let parameters = headers.get("keep-alive")?.to_str().ok()?;
    let timeout = parameters
        .split(',')
        .find_map(|parameter| parameter.trim().strip_prefix("timeout="))?;
    timeout.parse().ok().map(Duration::from_secs)
}

/// The body of an answer. When it is whole its connection goes back to the pool.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    length: Option<u64>,
    decoder: Decoder,
    /// A request body that the container still reads while it answers.
    pump: Option<Pump>,
    wire: Option<Wire>,
    reusable: bool,
    idle: Duration,
    waiting: bool,
    worker: Rc<Worker>,
    endpoint: u64,
}

impl ResponseBody {
    pub(crate) fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// What is left of a body with a known length.
    pub(crate) fn length(&self) -> Option<u64> {
        match self.decoder {
            Decoder::Done => Some(0),
            Decoder::Length(left) => self.length.map(|_| left),
            _ => None,
        }
    }

    pub(crate) fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        let item = ready!(self.poll_wire(cx));
        self.waiting = false;
        match &item {
            Some(Ok(_)) => self.finish_if_done(),
            Some(Err(_)) => {
                self.wire = None;
                self.decoder = Decoder::Done;
            }
            None => {}
        }
        Poll::Ready(item)
    }

    fn poll_wire(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        let Some(wire) = &mut self.wire else {
            return Poll::Ready(None);
        };
        if let Some(pump) = &mut self.pump {
            match pump.poll(cx, wire) {
                Poll::Ready(Ok(())) => self.pump = None,
                Poll::Ready(Err(_)) => {
                    self.pump = None;
                    self.reusable = false;
                }
                Poll::Pending => {}
            }
        }
        loop {
            match self.decoder.decode(&mut wire.input) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Decoded::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::Done) => {
                    self.finish_if_done();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(bad) => return Poll::Ready(Some(Err(BodyError::Malformed(bad.reason)))),
            }
            match wire
                .stream
                .poll_fill(cx, &mut wire.input, self.decoder.room())
            {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) if self.decoder == Decoder::UntilClose => {
                    self.decoder = Decoder::Done;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Some(Err(BodyError::Truncated))),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Pending => {
                    if !std::mem::replace(&mut self.waiting, true) {
                        wire.deadline.set(self.idle);
                    }
                    if wire.deadline.poll_reached(cx) {
                        return Poll::Ready(Some(Err(BodyError::Stalled)));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Gives the connection back once nothing of this answer is left on it.
    fn finish_if_done(&mut self) {
        if !self.decoder.is_done() {
            return;
        }
        let whole = self.reusable && self.pump.is_none();
        if let Some(mut wire) = self.wire.take()
            && whole
            && wire.input.is_empty()
        {
            // Kept with its memory, unless a large body made it large.
            if wire.input.capacity() > 2 * buffers::SIZE {
                wire.input = BytesMut::new();
            }
            let limits = &self.worker.shared.table.load().config.limits;
            let keep = ms(limits.idle_upstream_ms);
            self.worker
                .pool
                .put(self.endpoint, wire, limits.idle_upstream, keep);
        }
    }
}
