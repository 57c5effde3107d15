//! HTTP/2 connections of clients, by hyper and h2, with every number a client can drive bounded.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::HOST;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::body::Body;
use super::extended_connect;
use super::forward::{Answer, forward};
use super::own;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::http1::framing;
use crate::limits::ms;
use crate::stream::Rewound;
use crate::worker::{LocalExecutor, Worker};

/// A client that took nothing of an answer for so many times `write_idle_ms` is ended. Here whole
/// parts are seen to be taken and not single writes, so it has longer than over HTTP/1.1.
const PARTS: u32 = 4;

/// The open requests of one connection.
#[derive(Debug, Default)]
struct Streams {
    open: Cell<usize>,
    next: Cell<u64>,
    /// Answers of which the client has to take something, and since when.
    waiting: RefCell<BTreeMap<u64, Instant>>,
}

impl Streams {
    /// Whether a client leaves an answer lying for longer than this.
    fn is_left(&self, most: Duration) -> bool {
        let waiting = self.waiting.borrow();
        waiting.values().any(|since| since.elapsed() > most)
    }
}

/// One open request of a connection.
#[derive(Debug)]
pub(crate) struct Open {
    streams: Rc<Streams>,
    number: u64,
}

impl Open {
    fn one(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        let number = streams.next.get();
        streams.next.set(number + 1);
        Self {
            streams: Rc::clone(streams),
            number,
        }
    }

    /// The client has a part of the answer to take.
    pub(crate) fn waits_for_client(&self) {
        let mut waiting = self.streams.waiting.borrow_mut();
        waiting.insert(self.number, Instant::now());
    }

    /// The client took it: the next part is asked for.
    pub(crate) fn taken(&self) {
        self.streams.waiting.borrow_mut().remove(&self.number);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.taken();
        let open = &self.streams.open;
        open.set(open.get().saturating_sub(1));
    }
}

/// Serves a connection until the client ends it, it idles too long, or the gateway drains.
pub(crate) async fn serve(worker: &Rc<Worker>, connection: &Rc<Connection>, stream: Rewound) {
    let limits = &connection.limits;
    let streams = Rc::new(Streams::default());
    let service = service_fn(|request: Request<Incoming>| {
        let (worker, connection) = (Rc::clone(worker), Rc::clone(connection));
        let open = Open::one(&streams);
        let streams = Rc::clone(&streams);
        async move {
            let response = answer(&worker, &connection, request, &streams).await;
            Ok::<_, Infallible>(response.map(|body| body.holding(open)))
        }
    });
    let mut builder = Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(limits.pending_resets)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(32 * 1024))
        .initial_stream_window_size(128 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(128 * 1024)
        // Finds clients that are gone without a word.
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let idle = ms(limits.keep_alive_ms);
    let most = ms(limits.write_idle_ms).saturating_mul(PARTS);
    until_done(worker, served, idle, most, &streams).await;
}

/// Drives a connection; tells it to finish when it idles or the gateway drains, and drops it when its
/// client takes nothing of an answer for longer than `most`.
async fn until_done<C>(
    worker: &Worker,
    mut served: Pin<&mut C>,
    idle: Duration,
    most: Duration,
    streams: &Streams,
) where
    C: Future<Output = hyper::Result<()>> + Graceful,
{
    let mut look = Deadline::after(most);
    let mut drain = pin!(worker.drain.notified());
    let mut finishing = worker.is_draining();
    if finishing {
        served.as_mut().finish();
    }
    let mut deadline = Deadline::after(idle);
    poll_fn(|cx| {
        if served.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !finishing && drain.as_mut().poll(cx).is_ready() {
            finishing = true;
            served.as_mut().finish();
        }
        if streams.open.get() > 0 {
            deadline.set(idle);
        }
        if look.poll_reached(cx) {
            if streams.is_left(most) {
                return Poll::Ready(());
            }
            look.set(most);
            // Not ready: it only registers the task with the timer.
            look.poll_reached(cx);
        }
        if deadline.poll_reached(cx) {
            if finishing {
                return Poll::Ready(());
            }
            finishing = true;
            deadline.set(idle);
            served.as_mut().finish();
        }
        if finishing && served.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// A connection that can be told to take no new streams.
trait Graceful {
    fn finish(self: Pin<&mut Self>);
}

impl<I, B, S> Graceful for hyper::server::conn::http2::Connection<I, S, LocalExecutor>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    LocalExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

async fn answer(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    mut request: Request<Incoming>,
    streams: &Rc<Streams>,
) -> Response<Body> {
    let refused = |reason| {
        worker.shared.metrics.refused.fetch_add(1, Relaxed);
        own::answer(StatusCode::BAD_REQUEST, reason)
    };
    let is_connect = request.method() == Method::CONNECT;
    if is_connect && !extended_connect::asks(&request) {
        let reason = "CONNECT is not for this server";
        return own::answer(StatusCode::NOT_IMPLEMENTED, reason);
    }
    if let Err(bad) = framing::content_length(request.headers()) {
        return refused(bad.reason);
    }
    let authority = match framing::authority(request.headers(), request.uri(), request.version()) {
        Ok(authority) => authority.to_owned(),
        Err(bad) => return refused(bad.reason),
    };
    let upgrade = is_connect.then(|| extended_connect::take(&mut request));
    let idle = ms(connection.limits.body_idle_ms);
    let mut request = request.map(|body| Body::http2(body, idle));
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(http::header::EXPECT);
    let answer = forward(worker, connection, request, &authority).await;
    if let Some(upgrade) = upgrade {
        return extended_connect::answer(answer, upgrade, Open::one(streams));
    }
    match answer {
        Answer::Response(response) => *response,
        // Only `CONNECT` asks for it.
        Answer::Tunnel(..) => refused("no upgrade over HTTP/2"),
    }
}
