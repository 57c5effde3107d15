//! Sorting more than fits into memory.
//!
//! ```text
//!  push ─▶ batch in memory ──full──▶ sorted, into a file without a name ─┐
//!                 └────────────── finish ────────────────────────────────┴─▶ merged, one by one
//! ```
//!
//! What was never more than a batch is sorted in memory and touches no disk.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the items of one batch, about.
const BATCH: usize = 8 << 20;
/// Bytes an item takes beside what it says of itself, about.
const ITEM: usize = 96;
/// Longest item that is read back: more was never written.
const LONGEST: u32 = 1 << 20;

/// Takes items in any order.
#[derive(Debug)]
pub struct Sorter<T> {
    scratch: PathBuf,
    batch: Vec<T>,
    bytes: usize,
    runs: Vec<File>,
}

impl<T: Ord + Serialize + DeserializeOwned> Sorter<T> {
    /// Makes its files in this directory, where they are never seen.
    pub fn new(scratch: &Path) -> Self {
        Self {
            scratch: scratch.to_owned(),
            batch: Vec::new(),
            bytes: 0,
            runs: Vec::new(),
        }
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Takes an item; `bytes` is the length of what it holds.
    pub fn push(&mut self, item: T, bytes: usize) -> io::Result<()> {
        self.batch.push(item);
        self.bytes += bytes + ITEM;
        if self.bytes >= BATCH {
            self.write_run()?;
        }
        Ok(())
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.batch.sort_unstable();
        let mut out = BufWriter::with_capacity(1 << 16, tempfile::tempfile_in(&self.scratch)?);
        for item in self.batch.drain(..) {
            let item = postcard::to_stdvec(&item).map_err(io::Error::other)?;
            let length = u32::try_from(item.len()).ok();
            let length = length.filter(|length| *length <= LONGEST);
            let length = length.ok_or_else(|| io::Error::other("an item is too long to sort"))?;
            out.write_all(&length.to_le_bytes())?;
            out.write_all(&item)?;
        }
        self.runs.push(out.into_inner()?);
        self.bytes = 0;
        Ok(())
    }

    /// The items in order.
    pub fn finish(mut self) -> io::Result<Sorted<T>> {
        self.batch.sort_unstable();
        let in_memory = Source::Memory(self.batch.into_iter());
        let runs = self.runs.into_iter().map(|mut run| {
            run.rewind()?;
            Ok(Source::File(BufReader::with_capacity(1 << 15, run)))
        });
        let sources = runs.chain([Ok(in_memory)]);
        let mut sorted = Sorted {
            sources: sources.collect::<io::Result<_>>()?,
            next: BinaryHeap::new(),
        };
        for index in 0..sorted.sources.len() {
            let first = sorted.sources[index].next()?;
            sorted
                .next
                .extend(first.map(|item| Reverse(Head { item, from: index })));
        }
        Ok(sorted)
    }
}

#[derive(Debug)]
enum Source<T> {
    Memory(IntoIter<T>),
    File(BufReader<File>),
}

impl<T: DeserializeOwned> Source<T> {
    fn next(&mut self) -> io::Result<Option<T>> {
        let file = match self {
            Self::Memory(items) => return Ok(items.next()),
            Self::File(file) => file,
        };
        let mut length = [0; 4];
        match file.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let length = u32::from_le_bytes(length).min(LONGEST);
        let mut item = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact(&mut item)?;
        postcard::from_bytes(&item)
            .map(Some)
            .map_err(io::Error::other)
    }
}

/// The first item of a source that was not handed out.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head<T> {
    item: T,
    from: usize,
}

/// Hands out items in order.
#[derive(Debug)]
pub struct Sorted<T> {
    sources: Vec<Source<T>>,
    next: BinaryHeap<Reverse<Head<T>>>,
}

impl<T: Ord + DeserializeOwned> Iterator for Sorted<T> {
    type Item = io::Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut first = self.next.peek_mut()?;
        let from = first.0.from;
        let item = match self.sources[from].next() {
            Ok(Some(next)) => std::mem::replace(&mut first.0.item, next),
            Ok(None) => PeekMut::pop(first).0.item,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_batch_comes_back_in_order_and_whole() {
        let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut sorter = Sorter::new(scratch.path());
        // A sequence that visits every number below a prime once.
        let prime: u64 = 300_007;
        let numbers = (1..prime).map(|n| n * 123_457 % prime);
        for number in numbers {
            sorter.push(number, 8).unwrap();
        }
        assert!(sorter.runs.len() > 2);
        assert_eq!(fs_err::read_dir(scratch.path()).unwrap().count(), 0);
        let numbers = sorter.finish().unwrap().map(io::Result::unwrap);
        assert!(numbers.eq(1..prime));
    }

    #[test]
    fn what_fits_touches_no_disk() {
        let mut sorter = Sorter::new(Path::new("/nowhere"));
        for number in [3_u8, 1, 2] {
            sorter.push(number, 1).unwrap();
        }
        let numbers = sorter.finish().unwrap().map(io::Result::unwrap);
        assert!(numbers.eq([1, 2, 3]));
    }
}
