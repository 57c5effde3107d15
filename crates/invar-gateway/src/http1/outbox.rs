//! Bytes on their way out: small parts gathered, large ones written from where they are.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::stream::Stream;

/// Parts up to this size are copied behind what waits already: one write instead of two.
const SMALL: usize = 4 * 1024;
/// No further part is taken while so much waits.
const FULL: usize = 16 * 1024;

/// What must still be written to a connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    gathered: BytesMut,
    large: Bytes,
    /// After `large`: the end of its chunk.
    tail: &'static [u8],
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.large.is_empty() && self.tail.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        !self.large.is_empty() || !self.tail.is_empty() || self.gathered.len() >= FULL
    }

    /// Where heads are written; only while the outbox is not full.
    pub(crate) fn head(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    /// Adds a part of a body; only while the outbox is not full.
    pub(crate) fn data(&mut self, data: Bytes, chunked: bool) {
        if data.is_empty() {
            // An empty chunk would end the body.
            return;
        }
        if chunked {
            put_hex(&mut self.gathered, data.len());
            self.gathered.put_slice(b"\r\n");
        }
        let tail: &'static [u8] = if chunked { b"\r\n" } else { b"" };
        if data.len() <= SMALL {
            self.gathered.put_slice(&data);
            self.gathered.put_slice(tail);
        } else {
            self.large = data;
            self.tail = tail;
        }
    }

    /// Writes all of it; the number of bytes written so far even when it fails is added to `written`.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        written: &mut u64,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let parts = [
                IoSlice::new(&self.gathered),
                IoSlice::new(&self.large),
                IoSlice::new(self.tail),
            ];
            // Most answers are small and all in the first part.
            let parts = if self.large.is_empty() && self.tail.is_empty() {
                &parts[..1]
            } else {
                &parts[parts.iter().position(|part| !part.is_empty()).unwrap_or(0)..]
            };
            let taken = ready!(stream.poll_write_parts(cx, parts))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += u64::try_from(taken).unwrap_or(0);
            self.advance(taken);
        }
        stream.poll_flushed(cx)
    }

    fn advance(&mut self, mut taken: usize) {
        let part = taken.min(self.gathered.len());
        self.gathered.advance(part);
        taken -= part;
        let part = taken.min(self.large.len());
        self.large.advance(part);
        taken -= part;
        self.tail = &self.tail[taken.min(self.tail.len())..];
        if self.large.is_empty() {
            // The memory goes back to whoever reads into it.
            self.large = Bytes::new();
        }
    }

    /// Gives back the memory of an empty outbox.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            self.gathered = BytesMut::new();
        }
    }
}

fn put_hex(into: &mut BytesMut, value: usize) {
    let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let nibble = (value >> (digit * 4)) & 0xf;
        into.put_u8(b"0123456789abcdef"[nibble]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_in_hexadecimal() {
        for value in [1, 9, 10, 15, 16, 255, 256, 4095, 65536, usize::MAX] {
            let mut text = BytesMut::new();
            put_hex(&mut text, value);
            assert_eq!(&*text, format!("{value:x}").as_bytes());
        }
    }

    #[test]
    fn an_empty_part_does_not_end_a_chunked_body() {
        let mut outbox = Outbox::default();
        outbox.data(Bytes::new(), true);
        assert!(outbox.is_empty());
        outbox.data(Bytes::from_static(b"ab"), true);
        assert_eq!(&*outbox.gathered, b"2\r\nab\r\n");
    }
}
