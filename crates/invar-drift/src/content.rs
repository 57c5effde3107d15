//! Reading what files hold: comparing, hashing, and looking for marks, without reading holes.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use aho_corasick::AhoCorasick;
use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, Result, pread};
use sha2::{Digest as _, Sha256};

use crate::detail::Digest;

const BLOCK: usize = 128 * 1024;
/// Zeros of holes that are hashed: beyond, a file of no length on disk would keep a core busy for
/// minutes.
const HOLES_HASHED: u64 = 4 << 30;
/// Bytes at the beginning of a file in which patterns are looked for.
const SEARCHED: u64 = 1 << 20;

/// A file and how long it was when it was opened; what is written behind that is not read.
pub(crate) struct Content {
    pub(crate) file: OwnedFd,
    pub(crate) size: u64,
}

/// A piece of a file.
enum Piece<'a> {
    Bytes(&'a [u8]),
    Zeros(u64),
}

impl Content {
    /// Fills the buffer from `at`; shorter only at the end.
    fn read_at(&self, mut at: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut length = 0;
        while length < buffer.len() && at < self.size {
            let most = usize::try_from(self.size - at).unwrap_or(usize::MAX);
            let end = buffer.len().min(length.saturating_add(most));
            match pread(&self.file, &mut buffer[length..end], at) {
                Ok(0) => break,
                Ok(read) => {
                    length += read;
                    at += read as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(length)
    }

    /// Where the next data is, from `at` on; the end when only a hole follows. A file system that
    /// knows no holes has data everywhere.
    fn next_data(&self, at: u64) -> u64 {
        match seek(self.file.as_fd(), SeekFrom::Data(at)) {
            Ok(data) => data.min(self.size),
            Err(Errno::NXIO) => self.size,
            Err(_) => at,
        }
    }

    /// Hands out the whole content in order, holes as such.
    fn pieces(
        &self,
        mut each: impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut buffer = vec![0_u8; block(self.size)];
        let mut at = 0;
        while at < self.size {
            let length = self.read_at(at, &mut buffer)?;
            if length == 0 {
                // It was cut short since.
                return Err(Errno::NODATA);
            }
            at += length as u64;
            if each(Piece::Bytes(&buffer[..length])).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if length == BLOCK && is_zero(&buffer) {
                let data = self.next_data(at);
                if data > at && each(Piece::Zeros(data - at)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                at = at.max(data);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// SHA-256 of the whole content.
    pub(crate) fn digest(&self) -> Digest {
        const ZEROS: &[u8] = &[0; BLOCK];
        let mut hasher = Sha256::new();
        let mut holes = 0;
        let outcome = self.pieces(|piece| {
            match piece {
                Piece::Bytes(bytes) => hasher.update(bytes),
                Piece::Zeros(mut length) => {
                    holes += length;
                    if holes > HOLES_HASHED {
                        return ControlFlow::Break(());
                    }
                    while length > 0 {
                        let part = usize::try_from(length).map_or(BLOCK, |rest| rest.min(BLOCK));
                        hasher.update(&ZEROS[..part]);
                        length -= part as u64;
                    }
                }
            }
            ControlFlow::Continue(())
        });
        match outcome {
            Ok(ControlFlow::Continue(())) => Digest::Sha256(hasher.finalize().into()),
            Ok(ControlFlow::Break(())) => Digest::TooSparse,
            Err(_) => Digest::Unreadable,
        }
    }

    /// Everything in a file of at most `most` bytes; `None` for a longer one.
    pub(crate) fn whole(&self, most: u64) -> Result<Option<Vec<u8>>> {
        if self.size > most {
            return Ok(None);
        }
        let length = usize::try_from(self.size).map_err(|_wide| Errno::FBIG)?;
        let mut bytes = vec![0; length];
        let read = self.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// What kind of program it is, and which patterns its first MiB holds.
    pub(crate) fn sniff(&self, patterns: Option<&AhoCorasick>) -> Result<Sniff> {
        let most = if patterns.is_some() { SEARCHED } else { 4 };
        let length = usize::try_from(self.size.min(most)).map_err(|_wide| Errno::FBIG)?;
        let mut bytes = vec![0; length];
        let read = self.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        let mut sniff = Sniff {
            is_elf: bytes.starts_with(b"\x7fELF"),
            is_script: bytes.starts_with(b"#!"),
            patterns: Vec::new(),
        };
        for found in patterns
            .iter()
            .flat_map(|all| all.find_overlapping_iter(&bytes))
        {
            let pattern = found.pattern().as_usize();
            if !sniff.patterns.contains(&pattern) {
                sniff.patterns.push(pattern);
            }
        }
        Ok(sniff)
    }
}

impl Digest {
    /// That of an empty file.
    pub(crate) fn of_nothing() -> Self {
        Self::Sha256(Sha256::new().finalize().into())
    }
}

/// What the first bytes of a file tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sniff {
    pub(crate) is_elf: bool,
    pub(crate) is_script: bool,
    /// Which of the rules' patterns are in it.
    pub(crate) patterns: Vec<usize>,
}

/// Whether two files hold the same bytes. Reads until the first difference; where both have a
/// hole, nothing.
pub(crate) fn same(new: &Content, old: &Content) -> Result<bool> {
    if new.size != old.size {
        return Ok(false);
    }
    let size = block(new.size);
    let (mut left, mut right) = (vec![0_u8; size], vec![0_u8; size]);
    let mut at = 0;
    while at < new.size {
        let length = new.read_at(at, &mut left)?;
        if old.read_at(at, &mut right)? != length || left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            break;
        }
        at += length as u64;
        if length == BLOCK && is_zero(&left) {
            at = new.next_data(at).min(old.next_data(at)).max(at);
        }
    }
    Ok(true)
}

fn block(size: u64) -> usize {
    usize::try_from(size).map_or(BLOCK, |size| size.clamp(1, BLOCK))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::text::hex;

    fn content(write: impl FnOnce(&std::fs::File)) -> Content {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        write(&file);
        Content {
            size: file.metadata().unwrap().len(),
            file: file.into(),
        }
    }

    fn sparse(size: u64, writes: &[(u64, &[u8])]) -> Content {
        content(|file| {
            file.set_len(size).unwrap();
            for (at, bytes) in writes {
                file.write_all_at(bytes, *at).unwrap();
            }
        })
    }

    const TERABYTE: u64 = 1 << 40;

    #[test]
    fn holes_of_a_terabyte_are_compared_at_once() {
        let begun = std::time::Instant::now();
        let old = sparse(TERABYTE, &[(TERABYTE / 2, b"x")]);
        assert!(same(&sparse(TERABYTE, &[(TERABYTE / 2, b"x")]), &old).unwrap());
        assert!(!same(&sparse(TERABYTE, &[(TERABYTE / 2, b"y")]), &old).unwrap());
        assert!(!same(&sparse(TERABYTE, &[]), &old).unwrap());
        // Zeros written out are the same as a hole.
        let zeros = vec![0; 5 * BLOCK];
        assert!(
            same(
                &sparse(TERABYTE, &[(0, &zeros), (TERABYTE / 2, b"x")]),
                &old
            )
            .unwrap()
        );
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn holes_are_hashed_as_zeros_up_to_a_limit() {
        let zeros = vec![0; 3 * BLOCK + 7];
        let written = content(|mut file| file.write_all(&zeros).unwrap());
        let hole = sparse(zeros.len() as u64, &[]);
        assert_eq!(written.digest(), hole.digest());
        assert_eq!(sparse(TERABYTE, &[]).digest(), Digest::TooSparse);
        let Digest::Sha256(digest) = content(|mut file| file.write_all(b"abc").unwrap()).digest()
        else {
            panic!("a small file has a digest");
        };
        assert!(hex(&digest).starts_with("ba7816bf8f01cfea"));
    }

    #[test]
    fn a_file_cut_short_while_it_is_read_has_no_digest() {
        let mut cut = sparse(10, &[]);
        cut.size = 20;
        assert_eq!(cut.digest(), Digest::Unreadable);
    }

    #[test]
    fn programs_are_told_by_their_first_bytes() {
        let patterns = AhoCorasick::new(["stratum+tcp://", "tcp"]).unwrap();
        let sniff = |bytes: &[u8]| {
            content(|mut file| file.write_all(bytes).unwrap()).sniff(Some(&patterns))
        };
        assert!(sniff(b"\x7fELF\x02").unwrap().is_elf);
        assert!(sniff(b"#!/bin/sh").unwrap().is_script);
        assert_eq!(sniff(b"url=stratum+tcp://pool").unwrap().patterns, [1, 0]);
        assert_eq!(sniff(b"").unwrap(), Sniff::default());
    }
}
