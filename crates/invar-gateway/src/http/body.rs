//! One body type for requests and responses of every version.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::flight::Flight;
use super::http2::Open;
use super::mirror::Copying;
use crate::deadline::Deadline;
use crate::http1::front::RequestBody;
use crate::traffic::revision::Revision;
use crate::upstream::http1::ResponseBody;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// More than the service allows.
    #[error("the body is larger than allowed")]
    TooLarge,
    /// Nothing came for too long.
    #[error("the body stalled")]
    Stalled,
    /// It ended before its end.
    #[error("the body ended early")]
    Truncated,
    /// Its framing is wrong.
    #[error("{0}")]
    Malformed(&'static str),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The HTTP/2 stream failed.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// One item of a body.
pub(crate) type Item = Option<Result<Frame<Bytes>, BodyError>>;

/// A body on its way through the gateway.
#[derive(Debug, Default)]
pub(crate) struct Body {
    source: Source,
    /// Taken from the source and put back.
    ahead: VecDeque<Bytes>,
    /// Bytes that may still come; `None`: any number.
    allowed: Option<u64>,
    /// Counts received bytes.
    receiver: Option<Arc<Revision>>,
    copying: Option<Box<Copying>>,
    flight: Option<Box<Flight>>,
    /// Lives as long as the body.
    held: Option<Open>,
}

#[derive(Debug, Default)]
enum Source {
    #[default]
    Empty,
    Whole(Bytes),
    Client {
        body: RequestBody,
        length: Option<u64>,
    },
    Upstream(Box<ResponseBody>),
    Http2(Box<(Incoming, Patience)>),
}

impl Body {
    /// A body that is all there.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::of(Source::Whole(bytes))
    }

    /// The body of a request over HTTP/1.1.
    pub(crate) fn client(body: RequestBody, length: Option<u64>) -> Self {
        Self::of(Source::Client { body, length })
    }

    /// The body of a container's answer over HTTP/1.1.
    pub(crate) fn upstream(body: Box<ResponseBody>) -> Self {
        Self::of(Source::Upstream(body))
    }

    /// The body of an HTTP/2 stream of which two parts are at most `idle` apart.
    pub(crate) fn http2(incoming: Incoming, idle: Duration) -> Self {
        if HttpBody::is_end_stream(&incoming) {
            return Self::default();
        }
        Self::of(Source::Http2(Box::new((incoming, Patience::new(idle)))))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }

    /// Breaks off after so many bytes, which are counted as received by the revision.
    pub(crate) fn for_revision(mut self, revision: &Arc<Revision>, most: u64) -> Self {
        self.allowed = Some(most);
        self.receiver = Some(Arc::clone(revision));
        self
    }

    pub(crate) fn copied(mut self, copying: Copying) -> Self {
        self.copying = Some(Box::new(copying));
        self
    }

    /// The flight ends with this body.
    pub(crate) fn in_flight(mut self, mut flight: Box<Flight>) -> Self {
        if HttpBody::is_end_stream(&self) {
            flight.completed();
        }
        self.flight = Some(flight);
        self
    }

    /// The stream counts as open as long as this body.
    pub(crate) fn holding(mut self, open: Open) -> Self {
        if !HttpBody::is_end_stream(&self) {
            open.waits_for_client();
        }
        self.held = Some(open);
        self
    }

    /// Puts back what was taken and not used, in order.
    pub(crate) fn put_back(mut self, taken: Vec<Bytes>) -> Self {
        for bytes in taken.into_iter().rev() {
            self.ahead.push_front(bytes);
        }
        self
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        HttpBody::is_end_stream(self)
    }

    /// Its length when that is known before it is read.
    pub(crate) fn length(&self) -> Option<u64> {
        HttpBody::size_hint(self).exact()
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        if let Some(bytes) = self.ahead.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Source::Client { body, .. } => body.poll_item(cx),
            Source::Upstream(body) => body.poll_item(cx),
            Source::Http2(stream) => {
                let (incoming, patience) = &mut **stream;
                let polled = Pin::new(incoming).poll_frame(cx);
                patience.poll(
                    cx,
                    polled.map(|item| item.map(|frame| frame.map_err(Into::into))),
                )
            }
        }
    }

    fn account(&mut self, length: u64) -> Result<(), BodyError> {
        if let Some(allowed) = &mut self.allowed {
            *allowed = allowed.checked_sub(length).ok_or(BodyError::TooLarge)?;
        }
        if let Some(revision) = &self.receiver {
            revision.metrics.received.fetch_add(length, Relaxed);
        }
        if let Some(flight) = &mut self.flight {
            flight.sent += length;
        }
        Ok(())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Item> {
        let this = self.get_mut();
        if let Some(open) = &this.held {
            open.taken();
        }
        let item = ready!(this.poll_source(cx));
        match &item {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Err(error) = this.account(u64::try_from(data.len()).unwrap_or(0)) {
                        this.source = Source::Empty;
                        return Poll::Ready(Some(Err(error)));
                    }
                    if let Some(copying) = &mut this.copying {
                        copying.add(data);
                    }
                }
            }
            Some(Err(_)) => this.copying = None,
            None => {
                if let Some(copying) = this.copying.take() {
                    copying.send();
                }
            }
        }
        let failed = matches!(item, Some(Err(_)));
        let ended = item.is_none() || (!failed && HttpBody::is_end_stream(this));
        if ended && let Some(flight) = &mut this.flight {
            flight.completed();
        }
        if !ended && let Some(open) = &this.held {
            open.waits_for_client();
        }
        Poll::Ready(item)
    }

    fn is_end_stream(&self) -> bool {
        let source_ended = match &self.source {
            Source::Empty => true,
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Client { body, length } => *length == Some(0) || body.is_done(),
            Source::Upstream(body) => body.is_done(),
            Source::Http2(stream) => stream.0.is_end_stream(),
        };
        source_ended && self.ahead.is_empty() && self.copying.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead: usize = self.ahead.iter().map(Bytes::len).sum();
        let ahead = u64::try_from(ahead).unwrap_or(0);
        let rest = match &self.source {
            Source::Empty => Some(0),
            Source::Whole(bytes) => u64::try_from(bytes.len()).ok(),
            Source::Client { length, .. } => {
                return length.map_or_else(SizeHint::default, SizeHint::with_exact);
            }
            Source::Upstream(body) => body.length(),
            Source::Http2(stream) => stream.0.size_hint().exact(),
        };
        rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + ahead))
    }
}

/// Waits for the other side only so long, counted while we wait and not while we are busy elsewhere.
#[derive(Debug)]
pub(crate) struct Patience {
    idle: Duration,
    deadline: Option<Deadline>,
    waiting: bool,
}

impl Patience {
    pub(crate) fn new(idle: Duration) -> Self {
        Self {
            idle,
            deadline: None,
            waiting: false,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, polled: Poll<Item>) -> Poll<Item> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Deadline::after(self.idle));
        if !self.waiting {
            self.waiting = true;
            deadline.set(self.idle);
        }
        if deadline.poll_reached(cx) {
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        }
        Poll::Pending
    }
}
