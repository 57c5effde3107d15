//! Bytes both ways between a client and a container, without a buffer while nothing moves.

use std::future::poll_fn;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite as _;

use crate::buffers;
use crate::deadline::Deadline;
use crate::stream::Stream;
use crate::websocket::frames::Frames;

const BUFFER: usize = 16 * 1024;

/// One end of a tunnel and what was read from it already.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) stream: Stream,
    ahead: BytesMut,
}

impl Side {
    pub(crate) fn new(stream: Stream, ahead: BytesMut) -> Self {
        Self { stream, ahead }
    }
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    buffer: BytesMut,
    /// Bytes at the front of the buffer that may pass.
    cleared: usize,
    pub(crate) frames: Option<Frames>,
    ended: bool,
    shut: bool,
    pub(crate) moved: u64,
}

impl Pipe {
    fn new(ahead: BytesMut, frames: Option<Frames>) -> Self {
        Self {
            buffer: ahead,
            cleared: 0,
            frames,
            ended: false,
            shut: false,
            moved: 0,
        }
    }

    /// Moves bytes until the source ends. With `stop` it is ready at the next boundary of a frame.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        stop: bool,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            if self.cleared > 0 {
                let part = [IoSlice::new(&self.buffer[..self.cleared])];
                let taken = ready!(to.poll_write_parts(cx, &part))?;
                if taken == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.buffer.advance(taken);
                self.cleared -= taken;
                self.moved += u64::try_from(taken).unwrap_or(0);
                continue;
            }
            ready!(to.poll_flushed(cx))?;
            if !self.buffer.is_empty() {
                self.cleared = match &mut self.frames {
                    Some(frames) => frames.pass(&self.buffer, stop),
                    None => self.buffer.len(),
                };
                if self.cleared == 0 {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.shut = true;
                continue;
            }
            if stop && self.frames.as_ref().is_none_or(Frames::at_boundary) {
                return Poll::Ready(Ok(()));
            }
            match from.poll_fill(cx, &mut self.buffer, BUFFER) {
                Poll::Ready(length) => self.ended = length? == 0,
                Poll::Pending => {
                    buffers::give(&mut self.buffer);
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides are done.
    Finished,
    /// Nothing moved for too long.
    Idle,
    /// The connection broke.
    Broken,
    /// A frame is larger than allowed.
    FrameTooLarge,
}

/// A client and a container joined.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) client: Stream,
    pub(crate) upstream: Stream,
    pub(crate) to_client: Pipe,
    pub(crate) to_upstream: Pipe,
}

impl Tunnel {
    pub(crate) fn new(client: Side, upstream: Side, frames: Option<(Frames, Frames)>) -> Self {
        let (of_client, of_upstream) = frames.unzip();
        Self {
            to_client: Pipe::new(upstream.ahead, of_upstream),
            to_upstream: Pipe::new(client.ahead, of_client),
            client: client.stream,
            upstream: upstream.stream,
        }
    }

    /// Moves bytes until one of the ends. May be dropped and called again.
    pub(crate) async fn run(&mut self, idle: Duration) -> End {
        let mut deadline = Deadline::after(idle);
        let mut moved = 0;
        poll_fn(|cx| {
            if let Poll::Ready(end) = self.poll(cx, false) {
                return Poll::Ready(end);
            }
            let total = self.to_client.moved + self.to_upstream.moved;
            if total != moved {
                moved = total;
                deadline.set(idle);
            }
            if deadline.poll_reached(cx) {
                Poll::Ready(End::Idle)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Moves bytes until both directions are between two frames.
    pub(crate) async fn reach_boundaries(&mut self) -> End {
        poll_fn(|cx| self.poll(cx, true)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, stop: bool) -> Poll<End> {
        let down = self
            .to_client
            .poll(cx, &mut self.upstream, &mut self.client, stop);
        let up = self
            .to_upstream
            .poll(cx, &mut self.client, &mut self.upstream, stop);
        let too_large = |pipe: &Pipe| pipe.frames.as_ref().is_some_and(Frames::is_too_large);
        if too_large(&self.to_client) || too_large(&self.to_upstream) {
            return Poll::Ready(End::FrameTooLarge);
        }
        match (down, up) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(End::Broken),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            _ => Poll::Pending,
        }
    }
}
