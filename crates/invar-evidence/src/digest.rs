//! Hashes of bytes and files.
//!
//! A file with holes is hashed without reading them: a terabyte of nothing must not stop a
//! capture. Such a digest is marked as `sha256_sparse` (docs/formats/evidence.md).

use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Bytes read at once.
const PIECE: usize = 128 * 1024;
/// The unit in which a file with holes is hashed.
const BLOCK: u64 = 4096;
/// Files below this size are hashed whole even when they have holes.
const SPARSE_FROM: u64 = 16 << 20;

/// Digest of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentDigest {
    /// SHA-256 of all bytes.
    Whole(String),
    /// SHA-256 of the blocks that are not zero, with their numbers, and the size.
    Sparse(String),
}

/// SHA-256 of these bytes in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of everything left to read, and how much it was.
pub(crate) fn sha256_reader(mut reader: impl Read) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; PIECE];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((hex(&hash.finalize()), total)),
            Ok(length) => {
                hash.update(&buffer[..length]);
                total += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Hashes a regular file, holes left out when it is large and has many.
pub(crate) fn content(file: impl AsFd) -> io::Result<ContentDigest> {
    let stat = fstat(&file)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let allocated = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    if size >= SPARSE_FROM && allocated < size {
        return Ok(ContentDigest::Sparse(sparse(&file, size)?));
    }
    Ok(ContentDigest::Whole(whole(&file)?))
}

/// Hashes a regular file in the way an earlier digest of it was made.
pub(crate) fn content_like(file: impl AsFd, earlier: &ContentDigest) -> io::Result<ContentDigest> {
    Ok(match earlier {
        ContentDigest::Whole(_) => ContentDigest::Whole(whole(&file)?),
        ContentDigest::Sparse(_) => {
            let size = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
            ContentDigest::Sparse(sparse(&file, size)?)
        }
    })
}

fn whole(file: &impl AsFd) -> io::Result<String> {
    seek(file, SeekFrom::Start(0))?;
    Ok(sha256_reader(std::fs::File::from(file.as_fd().try_clone_to_owned()?))?.0)
}

fn sparse(file: &impl AsFd, size: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut reader = std::fs::File::from(file.as_fd().try_clone_to_owned()?);
    let mut at = 0;
    let mut block = vec![0_u8; usize::try_from(BLOCK).expect("a block fits in memory")];
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            data => data?,
        };
        let end = seek(file, SeekFrom::Hole(data))?.min(size);
        // Whole blocks, so that the digest does not depend on where extents begin.
        at = (data / BLOCK * BLOCK).max(at);
        seek(file, SeekFrom::Start(at))?;
        while at < end {
            let length = usize::try_from((size - at).min(BLOCK)).expect("at most one block");
            reader.read_exact(&mut block[..length])?;
            if block[..length].iter().any(|byte| *byte != 0) {
                hash.update((at / BLOCK).to_le_bytes());
                hash.update(&block[..length]);
            }
            at += BLOCK;
        }
    }
    hash.update(size.to_le_bytes());
    Ok(hex(&hash.finalize()))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// The bytes behind lower-case hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// Whether this is a SHA-256 in lower-case hexadecimal.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && unhex(text).is_some()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn sparse_file(size: u64, at: u64, bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.set_len(size).unwrap();
        file.seek(io::SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn holes_are_not_read_and_their_layout_does_not_matter() {
        let terabyte = 1 << 40;
        let file = sparse_file(terabyte, 5_000_000, b"needle");
        let ContentDigest::Sparse(first) = content(&file).unwrap() else {
            panic!("hashed whole");
        };
        // The same bytes, with zeros written where the other has a hole.
        let mut other = sparse_file(terabyte, 5_000_000, b"needle");
        other.seek(io::SeekFrom::Start(9_000_001)).unwrap();
        other.write_all(&vec![0; 30_000]).unwrap();
        assert_eq!(
            content(&other).unwrap(),
            ContentDigest::Sparse(first.clone())
        );
        for (size, at, bytes) in [
            (terabyte, 5_000_000, b"needlE"),
            (terabyte, 5_000_001, b"needle"),
            (terabyte + 1, 5_000_000, b"needle"),
        ] {
            let changed = content(sparse_file(size, at, bytes)).unwrap();
            assert_ne!(changed, ContentDigest::Sparse(first.clone()), "{size} {at}");
        }
    }

    #[test]
    fn a_small_file_is_hashed_whole() {
        let file = sparse_file(0, 0, b"abc");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            content(&file).unwrap(),
            ContentDigest::Whole(expected.to_owned())
        );
    }
}
