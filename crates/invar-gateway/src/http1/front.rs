//! A client's connection: its buffers, its deadline, and the body being read from it.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use http_body::Frame;

use super::decode::{Decoded, Decoder};
use super::framing::Framing;
use super::outbox::Outbox;
use crate::deadline::Deadline;
use crate::http::body::{BodyError, Item};
use crate::stream::Stream;

/// Bytes of further requests that are taken in while one is being answered.
const PIPELINED: usize = 16 * 1024;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    pub(crate) output: Outbox,
    pub(crate) decoder: Decoder,
    pub(crate) deadline: Deadline,
    /// Counts requests; a body handle of an earlier one reads nothing.
    pub(crate) exchange: u64,
    owes_continue: bool,
    waiting_for_body: bool,
}

impl Front {
    pub(crate) fn new(stream: Stream, input: BytesMut, first: Duration) -> Self {
        Self {
            stream,
            input,
            output: Outbox::default(),
            decoder: Decoder::Done,
            deadline: Deadline::after(first),
            exchange: 0,
            owes_continue: false,
            waiting_for_body: false,
        }
    }

    /// Begins the body of the next request.
    pub(crate) fn begin(&mut self, framing: Framing, owes_continue: bool) -> u64 {
        self.exchange += 1;
        self.decoder = Decoder::new(framing);
        self.owes_continue = owes_continue && !self.decoder.is_done();
        self.waiting_for_body = false;
        self.exchange
    }

    /// Reads more into the input buffer; false at the end of the stream.
    pub(crate) fn poll_input(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<std::io::Result<bool>> {
        self.stream
            .poll_fill(cx, &mut self.input, room)
            .map_ok(|length| length > 0)
    }

    /// Ready when the client is gone while it waits for its answer. Only once its body is read.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.decoder.is_done() && self.input.len() < PIPELINED {
            match ready!(self.poll_input(cx, 4 * 1024)) {
                Ok(true) => {}
                Ok(false) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut written = 0;
        let polled = self.output.poll_flush(cx, &mut self.stream, &mut written);
        if written > 0 {
            self.waiting_for_body = false;
        }
        polled
    }

    /// Whether the client still waits for leave to send its body. It will not send it then.
    pub(crate) fn owes_continue(&self) -> bool {
        self.owes_continue
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, idle: Duration) -> Poll<Item> {
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Decoded::Data(data)) => {
                    self.waiting_for_body = false;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::Done) => return Poll::Ready(None),
                Ok(Decoded::NeedMore) => {}
                Err(bad) => return Poll::Ready(Some(Err(BodyError::Malformed(bad.reason)))),
            }
            if std::mem::take(&mut self.owes_continue) && self.output.is_empty() {
                self.output
                    .head()
                    .put_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            if !self.output.is_empty() {
                let mut written = 0;
                // The answer's head follows in order, whether this is written at once or not.
                match self.output.poll_flush(cx, &mut self.stream, &mut written) {
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            match self.poll_input(cx, self.decoder.room()) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => {
                    return Poll::Ready(Some(Err(BodyError::Truncated)));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Pending => {
                    if !self.waiting_for_body {
                        self.waiting_for_body = true;
                        self.deadline.set(idle);
                    }
                    if self.deadline.poll_reached(cx) {
                        return Poll::Ready(Some(Err(BodyError::Stalled)));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

/// The body of the request being answered. It shares the connection with the answer's writer: both
/// run in one task, and neither holds the connection while it waits.
#[derive(Debug)]
pub(crate) struct RequestBody {
    front: Rc<RefCell<Front>>,
    exchange: u64,
    idle: Duration,
}

impl RequestBody {
    pub(crate) fn new(front: &Rc<RefCell<Front>>, exchange: u64, idle: Duration) -> Self {
        Self {
            front: Rc::clone(front),
            exchange,
            idle,
        }
    }

    pub(crate) fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        let mut front = self.front.borrow_mut();
        if front.exchange != self.exchange {
            return Poll::Ready(Some(Err(BodyError::Truncated)));
        }
        front.poll_body(cx, self.idle)
    }

    pub(crate) fn is_done(&self) -> bool {
        let front = self.front.borrow();
        front.exchange == self.exchange && front.decoder.is_done()
    }
}
