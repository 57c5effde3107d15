//! A body from bytes.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::framing::Framing;
use super::head::{Bad, HeadLimits, bad, take_trailers};

/// Bytes of one line with a chunk's size and its extensions, which are ignored.
const CHUNK_LINE: usize = 256;
const TRAILERS: HeadLimits = HeadLimits {
    bytes: 8 * 1024,
    headers: 64,
};

/// Where in its body a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    Done,
    Length(u64),
    UntilClose,
    ChunkLine,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// More bytes must be read.
    NeedMore,
    Done,
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::ChunkLine,
            Framing::UntilClose => Self::UntilClose,
        }
    }

    pub(crate) fn is_done(self) -> bool {
        self == Self::Done
    }

    /// How many bytes are worth reading at once.
    pub(crate) fn room(self) -> usize {
        const MOST: u64 = 32 * 1024;
        match self {
            Self::Done | Self::ChunkLine | Self::ChunkEnd | Self::Trailers => 4 * 1024,
            Self::UntilClose => 16 * 1024,
            Self::Length(left) | Self::ChunkData(left) => {
                usize::try_from(left.clamp(1024, MOST)).unwrap_or(4 * 1024)
            }
        }
    }

    /// Takes the next part of the body off the front of `buffer`.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Bad> {
        loop {
            match *self {
                Self::Done => return Ok(Decoded::Done),
                Self::Length(left) => return Ok(self.data(buffer, left, Self::Length, Self::Done)),
                Self::ChunkData(left) => {
                    return Ok(self.data(buffer, left, Self::ChunkData, Self::ChunkEnd));
                }
                Self::UntilClose => {
                    return Ok(if buffer.is_empty() {
                        Decoded::NeedMore
                    } else {
                        Decoded::Data(buffer.split().freeze())
                    });
                }
                Self::ChunkLine => match chunk_size(buffer)? {
                    None => return Ok(Decoded::NeedMore),
                    Some(0) => *self = Self::Trailers,
                    Some(size) => *self = Self::ChunkData(size),
                },
                Self::ChunkEnd => {
                    if !b"\r\n".starts_with(&buffer[..buffer.len().min(2)]) {
                        return Err(bad("a chunk does not end where its size says"));
                    }
                    if buffer.len() < 2 {
                        return Ok(Decoded::NeedMore);
                    }
                    buffer.advance(2);
                    *self = Self::ChunkLine;
                }
                Self::Trailers => {
                    let Some(trailers) = take_trailers(buffer, TRAILERS)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    *self = Self::Done;
                    if trailers.is_empty() {
                        return Ok(Decoded::Done);
                    }
                    return Ok(Decoded::Trailers(trailers));
                }
            }
        }
    }

    fn data(
        &mut self,
        buffer: &mut BytesMut,
        left: u64,
        rest: fn(u64) -> Self,
        end: Self,
    ) -> Decoded {
        let there = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        if there == 0 {
            return Decoded::NeedMore;
        }
        let take = there.min(left);
        *self = if take == left { end } else { rest(left - take) };
        let take = usize::try_from(take).unwrap_or(buffer.len());
        Decoded::Data(buffer.split_to(take).freeze())
    }
}

/// The size on a chunk's first line: hexadecimal digits, then `;` with what is ignored, then CR LF.
fn chunk_size(buffer: &mut BytesMut) -> Result<Option<u64>, Bad> {
    const MALFORMED: Bad = bad("a chunk size is malformed");
    let Some(end) = buffer
        .iter()
        .take(CHUNK_LINE)
        .position(|byte| *byte == b'\n')
    else {
        if buffer.len() >= CHUNK_LINE {
            return Err(bad("a chunk size line is too long"));
        }
        return Ok(None);
    };
    let line = buffer[..end].strip_suffix(b"\r").ok_or(MALFORMED)?;
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (size, extension) = line.split_at(digits);
    let is_extension = match extension.iter().find(|byte| !matches!(byte, b' ' | b'\t')) {
        None => extension.is_empty(),
        Some(first) => *first == b';',
    };
    let is_plain = |byte: &u8| matches!(*byte, b'\t' | 0x20..=0x7e);
    if digits == 0 || digits > 16 || !is_extension || !extension.iter().all(is_plain) {
        return Err(MALFORMED);
    }
    let text = std::str::from_utf8(size).map_err(|_invalid| MALFORMED)?;
    let size = u64::from_str_radix(text, 16).map_err(|_invalid| MALFORMED)?;
    buffer.advance(end + 1);
    Ok(Some(size))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn read(
        decoder: &mut Decoder,
        buffer: &mut BytesMut,
        into: &mut Vec<u8>,
    ) -> Result<Decoded, Bad> {
        loop {
            match decoder.decode(buffer)? {
                Decoded::Data(data) => into.extend_from_slice(&data),
                other => return Ok(other),
            }
        }
    }

    #[test]
    fn chunked_bodies_are_read_or_refused() {
        for (text, expected) in [
            ("0\r\n\r\n", Some("")),
            ("3\r\nabc\r\n0\r\n\r\n", Some("abc")),
            ("3;a=b\r\nabc\r\n0\r\n\r\n", Some("abc")),
            ("3 ;a=\"b\"\r\nabc\r\n0\r\n\r\n", Some("abc")),
            ("00000003\r\nabc\r\n0\r\n\r\n", Some("abc")),
            ("3\nabc\r\n0\r\n\r\n", None),
            ("3\r\nabc\n0\r\n\r\n", None),
            ("3\r\nabcd\r\n0\r\n\r\n", None),
            ("3\r\nabc0\r\n\r\n", None),
            ("0x3\r\nabc\r\n0\r\n\r\n", None),
            ("+3\r\nabc\r\n0\r\n\r\n", None),
            (" 3\r\nabc\r\n0\r\n\r\n", None),
            ("3 \r\nabc\r\n0\r\n\r\n", None),
            ("3 a\r\nabc\r\n0\r\n\r\n", None),
            ("\r\nabc\r\n0\r\n\r\n", None),
            ("3;\rx\r\nabc\r\n0\r\n\r\n", None),
            ("fffffffffffffffff\r\n", None),
            ("0\r\nA : b\r\n\r\n", None),
            ("0\r\nA: b\n\r\n", None),
        ] {
            let mut body = Vec::new();
            let mut decoder = Decoder::new(Framing::Chunked);
            let result = read(&mut decoder, &mut BytesMut::from(text), &mut body);
            assert_eq!(result.is_ok(), expected.is_some(), "{text:?}: {result:?}");
            if let Some(expected) = expected {
                assert!(decoder.is_done());
                assert_eq!(body, expected.as_bytes(), "{text:?}");
            }
        }
        let long = format!("1;{}\r\n", "x".repeat(CHUNK_LINE));
        assert!(
            Decoder::ChunkLine
                .decode(&mut BytesMut::from(long.as_str()))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn a_body_reads_the_same_however_it_arrives(chunks in prop::collection::vec("[a-z]{1,20}", 0..6), step in 1..9_usize) {
            let mut wire = String::new();
            for chunk in &chunks {
                write!(wire, "{:x}\r\n{chunk}\r\n", chunk.len()).unwrap();
            }
            wire += "0\r\nTail: yes\r\n\r\nNEXT";
            let mut decoder = Decoder::new(Framing::Chunked);
            let (mut buffer, mut body) = (BytesMut::new(), Vec::new());
            let mut trailers = None;
            for part in wire.as_bytes().chunks(step) {
                buffer.extend_from_slice(part);
                if let Decoded::Trailers(found) = read(&mut decoder, &mut buffer, &mut body).unwrap() {
                    trailers = Some(found);
                }
            }
            prop_assert_eq!(body, chunks.concat().into_bytes());
            prop_assert_eq!(&trailers.unwrap()["tail"], "yes");
            prop_assert_eq!(&*buffer, b"NEXT");
        }
    }
}
