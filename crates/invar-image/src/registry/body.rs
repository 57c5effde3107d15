//! What is sent with a request; may be sent again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::progress::Counter;

/// Content of a file is sent in pieces of this size.
const PIECE: usize = 64 << 10;

/// Content to send.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    /// None.
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// A part of a file, counted as it is sent.
    File {
        file: Arc<File>,
        offset: u64,
        length: u64,
        counter: Counter,
    },
}

impl Payload {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// One sending of it.
    pub(crate) fn body(&self) -> Outgoing {
        Outgoing {
            payload: self.clone(),
            sent: 0,
        }
    }
}

/// A payload on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    payload: Payload,
    sent: u64,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let left = self.payload.length() - self.sent;
        if left == 0 {
            return Poll::Ready(None);
        }
        let piece = match &self.payload {
            Payload::Empty => return Poll::Ready(None),
            Payload::Bytes(bytes) => bytes.clone(),
            Payload::File {
                file,
                offset,
                counter,
                ..
            } => {
                let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
                let mut piece = vec![0; length];
                // A local file that was just written: reading does not block for long.
                if let Err(error) = file.read_exact_at(&mut piece, offset + self.sent) {
                    return Poll::Ready(Some(Err(error)));
                }
                counter.set(self.sent + length as u64);
                piece.into()
            }
        };
        self.sent += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.payload.length()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.payload.length() - self.sent)
    }
}
