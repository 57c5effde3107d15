//! One HTTP/1.1 connection of a client: a request, its answer, the next request.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::header::CONNECTION;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;

use super::encode::{self, Persistence};
use super::framing::{self, Framing};
use super::front::{Front, RequestBody};
use super::head::{self, Bad, HeadLimits, RequestHead};
use crate::buffers;
use crate::connection::Connection;
use crate::http::body::Body;
use crate::http::fields::{has_token, take_expectation};
use crate::http::forward::{self, Answer};
use crate::http::own;
use crate::limits::ms;
use crate::stream::{Rewound, Stream};
use crate::tunnel;
use crate::websocket;
use crate::worker::Worker;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a request body nobody wanted that are read so that the connection can be kept.
const DISCARD: usize = 256 * 1024;
/// How long a connection is read on after its last answer, so that the answer is not lost by a reset.
const LINGER: Duration = Duration::from_secs(2);

type Shared = Rc<RefCell<Front>>;

/// What comes first on a connection.
enum Next {
    Head(Box<RequestHead>),
    Http2,
    End,
}

/// What becomes of the connection after an answer.
enum After {
    Keep,
    /// Closed after reading on for a moment.
    Linger,
    Close,
    Tunnel(Box<websocket::Opened>),
}

/// Serves a connection until it ends. A connection that turns out to be HTTP/2 is given back.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    stream: Stream,
) -> Option<Rewound> {
    let limits = &connection.limits;
    let front = Front::new(stream, BytesMut::new(), ms(limits.keep_alive_ms));
    let front = Rc::new(RefCell::new(front));
    loop {
        let after = match next_request(worker, connection, &front).await {
            Ok(Next::Head(head)) => {
                // Boxed so that a connection without a request needs no room for one.
                Box::pin(exchange(worker, connection, &front, *head)).await
            }
            Ok(Next::End) => return None,
            Ok(Next::Http2) => {
                let front = Rc::into_inner(front)?.into_inner();
                return Some(Rewound {
                    ahead: front.input,
                    stream: front.stream,
                });
            }
            Err(bad) => {
                worker.shared.metrics.refused.fetch_add(1, Relaxed);
                let answer = own::answer(bad.status, bad.reason);
                refuse(worker, connection, &front, answer).await
            }
        };
        match after {
            After::Keep => {}
            After::Close => return None,
            After::Linger => {
                Box::pin(linger(&front)).await;
                return None;
            }
            After::Tunnel(opened) => {
                let front = Rc::into_inner(front)?.into_inner();
                let client = tunnel::Side::new(front.stream, front.input);
                Box::pin(websocket::run(client, *opened)).await;
                return None;
            }
        }
    }
}

/// Waits for the next request. An idle connection holds no buffer.
async fn next_request(
    worker: &Rc<Worker>,
    connection: &Connection,
    front: &Shared,
) -> Result<Next, Bad> {
    let limits = &connection.limits;
    let head_limits = HeadLimits {
        bytes: limits.head_bytes,
        headers: limits.headers,
    };
    let mut drain = pin!(worker.drain.notified());
    let mut is_draining = worker.is_draining();
    {
        let mut front = front.borrow_mut();
        front.output.release();
        if front.input.is_empty() {
            buffers::give(&mut front.input);
        }
        let idle = if is_draining {
            limits.drain_idle_ms
        } else {
            limits.keep_alive_ms
        };
        front.deadline.set(ms(idle));
    }
    let mut begun = false;
    poll_fn(|cx| {
        let mut front = front.borrow_mut();
        loop {
            if front.exchange == 0
                && !front.input.is_empty()
                && PREFACE.starts_with(&front.input[..front.input.len().min(PREFACE.len())])
            {
                if front.input.len() >= PREFACE.len() {
                    return Poll::Ready(Ok(Next::Http2));
                }
            } else if !front.input.is_empty()
                && let Some(head) = head::take_request(&mut front.input, head_limits)?
            {
                return Poll::Ready(Ok(Next::Head(Box::new(head))));
            }
            if !begun && !front.input.is_empty() {
                begun = true;
                front.deadline.set(ms(limits.head_ms));
            }
            match front.poll_input(cx, 4 * 1024) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Ok(Next::End)),
                Poll::Pending => break,
            }
        }
        if !is_draining && drain.as_mut().poll(cx).is_ready() {
            // Another request may be under way: the connection is not closed under it.
            is_draining = true;
            if !begun {
                front.deadline.at_most(ms(limits.drain_idle_ms));
            }
        }
        if !front.deadline.poll_reached(cx) {
            return Poll::Pending;
        }
        if !begun {
            return Poll::Ready(Ok(Next::End));
        }
        worker.shared.metrics.timeouts.fetch_add(1, Relaxed);
        Poll::Ready(Err(Bad {
            status: StatusCode::REQUEST_TIMEOUT,
            reason: "the request head did not come in time",
        }))
    })
    .await
}

/// Answers one request.
async fn exchange(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    front: &Shared,
    mut head: RequestHead,
) -> After {
    let (framing, authority) = match check(&head) {
        Ok(checked) => checked,
        Err(bad) => {
            worker.shared.metrics.refused.fetch_add(1, Relaxed);
            let answer = own::answer(bad.status, bad.reason);
            return refuse(worker, connection, front, answer).await;
        }
    };
    let expects = take_expectation(&mut head.headers);
    let wants_close = wants_close(&head);
    let exchange = front.borrow_mut().begin(framing, expects);
    let idle = ms(connection.limits.body_idle_ms);
    let length = match framing {
        Framing::None => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
    };
    let body = Body::client(RequestBody::new(front, exchange, idle), length);
    let (method, version) = (head.method.clone(), head.version);
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = head.target;
    *request.version_mut() = version;
    *request.headers_mut() = head.headers;

    let answer = {
        let mut answer = pin!(forward::forward(worker, connection, request, &authority));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            front.borrow_mut().poll_gone(cx).map(|()| None)
        })
        .await
    };
    match answer {
        None => After::Close,
        Some(Answer::Tunnel(response, opened)) => {
            let framing = Framing::None;
            if write_head(
                worker,
                front,
                &response,
                framing,
                Persistence::Upgrade,
                connection,
            )
            .await
            {
                After::Tunnel(opened)
            } else {
                After::Close
            }
        }
        Some(Answer::Response(response)) => {
            let closes = wants_close || worker.is_draining();
            let request = Asked {
                method,
                version,
                closes,
            };
            respond(worker, connection, front, *response, &request).await
        }
    }
}

/// What of a request matters for writing its answer.
struct Asked {
    method: Method,
    version: Version,
    closes: bool,
}

fn check(head: &RequestHead) -> Result<(Framing, String), Bad> {
    let framing = framing::of_request(&head.headers, head.version)?;
    let authority = framing::authority(&head.headers, &head.target, head.version)?;
    Ok((framing, authority.to_owned()))
}

fn wants_close(head: &RequestHead) -> bool {
    if head.version == Version::HTTP_10 {
        return !has_token(&head.headers, &CONNECTION, "keep-alive");
    }
    has_token(&head.headers, &CONNECTION, "close")
}

/// Writes an answer and says what becomes of the connection.
async fn respond(
    worker: &Rc<Worker>,
    connection: &Connection,
    front: &Shared,
    response: Response<Body>,
    asked: &Asked,
) -> After {
    let length = response.body().length();
    let framing = encode::response_framing(&asked.method, response.status(), length, asked.version);
    let closes = asked.closes || framing == Framing::UntilClose;
    let persistence = match (closes, asked.version) {
        (true, _) => Persistence::Close,
        (false, Version::HTTP_10) => Persistence::KeepAloud,
        (false, _) => Persistence::Keep,
    };
    {
        let date = worker.date();
        let mut front = front.borrow_mut();
        encode::response(front.output.head(), &response, framing, persistence, &date);
    }
    let mut sending = Sending {
        body: response.into_body(),
        framing,
        ended: framing == Framing::None,
        stalled: false,
        write_idle: ms(connection.limits.write_idle_ms),
    };
    let sent = poll_fn(|cx| sending.poll(cx, front)).await;
    // Ends the flight, and with it the hold on the revision, before anything else is waited for.
    drop(sending);
    if sent.is_err() {
        return After::Close;
    }
    if !discard(front, ms(connection.limits.body_idle_ms)).await {
        return After::Linger;
    }
    if closes { After::Linger } else { After::Keep }
}

/// Writes an answer to what cannot be read on, and ends the connection.
async fn refuse(
    worker: &Rc<Worker>,
    connection: &Connection,
    front: &Shared,
    answer: Response<Body>,
) -> After {
    let asked = Asked {
        method: Method::GET,
        version: Version::HTTP_11,
        closes: true,
    };
    front.borrow_mut().begin(Framing::None, false);
    respond(worker, connection, front, answer, &asked).await
}

async fn write_head(
    worker: &Rc<Worker>,
    front: &Shared,
    response: &Response<()>,
    framing: Framing,
    persistence: Persistence,
    connection: &Connection,
) -> bool {
    let date = worker.date();
    encode::response(
        front.borrow_mut().output.head(),
        response,
        framing,
        persistence,
        &date,
    );
    let flushed = poll_fn(|cx| front.borrow_mut().poll_flush(cx));
    let limit = ms(connection.limits.write_idle_ms);
    matches!(tokio::time::timeout(limit, flushed).await, Ok(Ok(())))
}

/// An answer on its way to the client.
struct Sending {
    body: Body,
    framing: Framing,
    ended: bool,
    /// The client takes nothing; the deadline runs.
    stalled: bool,
    write_idle: Duration,
}

/// The answer cannot be finished; the connection must be closed so that the client sees it.
struct Broken;

impl Sending {
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<Result<(), Broken>> {
        loop {
            let waits = self.poll_body(cx, shared)?;
            let mut front = shared.borrow_mut();
            if front.output.is_empty() {
                if self.ended {
                    return Poll::Ready(Ok(()));
                }
                if waits {
                    // A client that left while nothing is to be written is noticed here.
                    ready!(front.poll_gone(cx));
                    return Poll::Ready(Err(Broken));
                }
                continue;
            }
            match front.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.stalled = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken)),
                Poll::Pending => {
                    if !std::mem::replace(&mut self.stalled, true) {
                        front.deadline.set(self.write_idle);
                    }
                    if front.deadline.poll_reached(cx) {
                        return Poll::Ready(Err(Broken));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes what the body has ready; true when it has nothing for the moment.
    fn poll_body(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Result<bool, Broken> {
        while !self.ended && !shared.borrow().output.is_full() {
            let Poll::Ready(item) = Pin::new(&mut self.body).poll_frame(cx) else {
                return Ok(true);
            };
            let mut front = shared.borrow_mut();
            match item {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => front.output.data(data, self.framing == Framing::Chunked),
                    Err(frame) => {
                        if self.framing == Framing::Chunked {
                            let trailers = frame.trailers_ref();
                            encode::last_chunk(front.output.head(), trailers);
                        }
                        self.ended = true;
                    }
                },
                Some(Err(_)) => return Err(Broken),
                None => {
                    if self.framing == Framing::Chunked {
                        encode::last_chunk(front.output.head(), None);
                    }
                    self.ended = true;
                }
            }
        }
        Ok(false)
    }
}

/// Reads a rest of the request body that nobody wanted; false when it is too long or stalls.
async fn discard(front: &Shared, idle: Duration) -> bool {
    if front.borrow().decoder.is_done() {
        return true;
    }
    if front.borrow().owes_continue() {
        return false;
    }
    let exchange = front.borrow().exchange;
    let mut body = RequestBody::new(front, exchange, idle.min(LINGER));
    let mut taken = 0;
    while let Some(item) = poll_fn(|cx| body.poll_item(cx)).await {
        let Ok(frame) = item else { return false };
        taken += frame.data_ref().map_or(0, bytes::Bytes::len);
        if taken > DISCARD {
            return false;
        }
    }
    true
}

/// Ends the sending side and reads on for a moment: closing at once could reset the connection and
/// take the answer from the client.
async fn linger(front: &Shared) {
    let close = poll_fn(|cx| {
        use tokio::io::AsyncWrite as _;
        let mut front = front.borrow_mut();
        Pin::new(&mut front.stream).poll_shutdown(cx)
    });
    let read_on = async {
        drop(close.await);
        loop {
            let read = poll_fn(|cx| {
                let mut front = front.borrow_mut();
                front.input.clear();
                front.poll_input(cx, 4 * 1024)
            });
            if !matches!(read.await, Ok(true)) {
                return;
            }
        }
    };
    drop(tokio::time::timeout(LINGER, read_on).await);
}
