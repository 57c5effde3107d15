//! Sparse files: the archive holds their content without the holes, and a map of where it goes.

use std::io::{self, BufRead, Read};

use super::header::BLOCK;
use super::pax::decimal;

/// Where the map of a sparse file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SparseForm {
    /// In the headers: offset and length of each segment.
    Map {
        segments: Vec<(u64, u64)>,
        size: u64,
    },
    /// Before the content (GNU.sparse version 1.0).
    MapInContent { size: u64 },
}

impl SparseForm {
    /// Size of the file with its holes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Map { size, .. } | Self::MapInContent { size } => *size,
        }
    }

    /// The whole file, from the `archived` bytes of it that `content` holds. A map in the content
    /// may have `most_map` bytes.
    pub(crate) fn expand<R: BufRead>(
        self,
        mut content: R,
        archived: u64,
        most_map: u64,
    ) -> Result<Expanded<R>, String> {
        let (segments, size, archived) = match self {
            Self::Map { segments, size } => (segments, size, archived),
            Self::MapInContent { size } => {
                let (segments, length) = read_map(&mut content, most_map)?;
                let left = archived.checked_sub(length);
                (segments, size, left.ok_or("its map is malformed")?)
            }
        };
        check(&segments, size, archived)?;
        Ok(Expanded {
            content,
            segments: segments.into_iter(),
            hole: 0,
            data: 0,
            position: 0,
            size,
        })
    }
}

fn check(segments: &[(u64, u64)], size: u64, archived: u64) -> Result<(), String> {
    let (mut end, mut total) = (0_u64, 0_u64);
    for (offset, length) in segments {
        let next = offset.checked_add(*length).filter(|next| *next <= size);
        let Some(next) = next.filter(|_| *offset >= end) else {
            return Err("the map of the sparse file is out of order or beyond its end".to_owned());
        };
        // Cannot overflow: segments do not overlap.
        (end, total) = (next, total + length);
    }
    if total == archived {
        Ok(())
    } else {
        Err(format!(
            "the map of the sparse file has {total} bytes, the archive {archived}"
        ))
    }
}

/// Lines of decimal numbers: how many segments, then offset and length of each; filled up to a
/// whole block. Gives the bytes it took.
fn read_map(content: &mut impl BufRead, most: u64) -> Result<(Vec<(u64, u64)>, u64), String> {
    let mut taken = 0;
    let mut line = || {
        let mut digits = Vec::new();
        // No number is longer.
        let read = content.by_ref().take(21).read_until(b'\n', &mut digits);
        taken += read.map_err(|error| error.to_string())? as u64;
        if taken > most {
            return Err(format!(
                "the map of the sparse file is larger than {most} bytes"
            ));
        }
        let digits = digits
            .strip_suffix(b"\n")
            .filter(|digits| !digits.is_empty());
        decimal(digits.ok_or("the map of the sparse file is malformed")?)
    };
    let count = line()?;
    let mut segments = Vec::new();
    for _ in 0..count {
        segments.push((line()?, line()?));
    }
    let padding = (BLOCK - taken % BLOCK) % BLOCK;
    let passed = io::copy(&mut content.take(padding), &mut io::sink());
    match passed {
        Ok(passed) if passed == padding => Ok((segments, taken + padding)),
        _ => Err("the archive ends inside the map of the sparse file".to_owned()),
    }
}

/// Reads a sparse file with its holes.
pub(crate) struct Expanded<R> {
    content: R,
    segments: std::vec::IntoIter<(u64, u64)>,
    hole: u64,
    data: u64,
    position: u64,
    size: u64,
}

impl<R: Read> Read for Expanded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.hole == 0 && self.data == 0 {
            let (offset, length) = match self.segments.next() {
                Some(segment) => segment,
                None if self.position == self.size => return Ok(0),
                None => (self.size, 0),
            };
            self.hole = offset - self.position;
            self.data = length;
        }
        let at_most = |left: u64| {
            usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len())
        };
        let length = if self.hole > 0 {
            let length = at_most(self.hole);
            buffer[..length].fill(0);
            self.hole -= length as u64;
            length
        } else {
            let length = at_most(self.data);
            let length = self.content.read(&mut buffer[..length])?;
            if length == 0 && !buffer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.data -= length as u64;
            length
        };
        self.position += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(form: SparseForm, content: &[u8]) -> Result<Vec<u8>, String> {
        let mut whole = Vec::new();
        form.expand(content, content.len() as u64, 1 << 20)?
            .read_to_end(&mut whole)
            .map_err(|error| error.to_string())?;
        Ok(whole)
    }

    #[test]
    fn holes_are_zeros_before_between_and_after_the_content() {
        let map = SparseForm::Map {
            segments: vec![(2, 2), (5, 1), (8, 0)],
            size: 8,
        };
        assert_eq!(expanded(map, b"abc").unwrap(), b"\0\0ab\0c\0\0");
        let mut content = b"1\n3\n2\n".to_vec();
        content.resize(512, 0);
        content.extend_from_slice(b"xy");
        let in_content = SparseForm::MapInContent { size: 6 };
        assert_eq!(expanded(in_content, &content).unwrap(), b"\0\0\0xy\0");
    }

    #[test]
    fn maps_that_lie_are_refused() {
        let table: [(&[(u64, u64)], u64); 5] = [
            (&[(4, 1), (2, 2)], 8),
            (&[(0, 2), (1, 1)], 8),
            (&[(6, 3)], 8),
            (&[(u64::MAX, 3)], 8),
            (&[(0, 2)], 8),
        ];
        for (segments, size) in table {
            let map = SparseForm::Map {
                segments: segments.to_vec(),
                size,
            };
            assert!(expanded(map, b"abc").is_err(), "{segments:?}");
        }
        for content in [
            "",
            "1",
            "9\n",
            "1\n2\n",
            "x\n",
            "18446744073709551615\n0\n1\n",
            "1\n-1\n2\n",
        ] {
            let form = SparseForm::MapInContent { size: 8 };
            assert!(expanded(form, content.as_bytes()).is_err(), "{content:?}");
        }
    }
}
