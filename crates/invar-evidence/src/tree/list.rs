//! Listings: one line of JSON an entry, in the order of the walk. Content hashes are added in a
//! second pass, so that the first one, made while the container is frozen, reads no file.

use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use fs_err as fs;
use rayon::prelude::*;

use super::check::order;
use super::entry::{Entry, EntryKind};
use super::{open_file, walk};
use crate::capture::log::Log;
use crate::digest;
use crate::error::{EvidenceError, Result};

/// Entries hashed in one go.
const BATCH: usize = 512;
/// Longest line; a longer one is not a listing's.
pub(crate) const LONGEST_LINE: u64 = 2 << 20;

/// Writes a listing.
#[derive(Debug)]
pub(crate) struct Writer {
    out: BufWriter<fs::File>,
    path: PathBuf,
    entries: u64,
}

impl Writer {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = crate::files::create(path)?;
        Ok(Self {
            out: BufWriter::with_capacity(1 << 16, file),
            path: path.to_owned(),
            entries: 0,
        })
    }

    pub(crate) fn write(&mut self, entry: &Entry) -> Result<()> {
        self.entries += 1;
        serde_json::to_writer(&mut self.out, entry)
            .map_err(std::io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(EvidenceError::io("write", &self.path))
    }

    pub(crate) fn finish(mut self) -> Result<u64> {
        self.out
            .flush()
            .map_err(EvidenceError::io("write", &self.path))?;
        Ok(self.entries)
    }
}

/// Reads a listing line by line; every line is bounded and checked.
#[derive(Debug)]
pub(crate) struct Reader {
    input: BufReader<fs::File>,
    path: PathBuf,
    line: u64,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = fs::File::open(path).map_err(EvidenceError::io("open", path))?;
        Ok(Self {
            input: BufReader::with_capacity(1 << 16, file),
            path: path.to_owned(),
            line: 0,
        })
    }

    /// Up to `count` entries; none at the end.
    pub(crate) fn batch(&mut self, count: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        while entries.len() < count {
            match self.next().transpose()? {
                Some(entry) => entries.push(entry),
                None => break,
            }
        }
        Ok(entries)
    }
}

impl Iterator for Reader {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        let read = (&mut self.input)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line);
        match read {
            Ok(0) => return None,
            Ok(_) => self.line += 1,
            Err(error) => return Some(Err(EvidenceError::io("read", &self.path)(error))),
        }
        let entry = serde_json::from_slice(&line);
        Some(entry.map_err(|error| {
            EvidenceError::malformed(format!("{} line {}", self.path.display(), self.line), error)
        }))
    }
}

/// Lists a tree that is already where it belongs.
pub(crate) fn record(tree: BorrowedFd<'_>, listing: &Path, log: &mut Log) -> Result<u64> {
    let mut writer = Writer::create(listing)?;
    walk::walk(tree, &mut |event| match event {
        walk::Event::Entry(found) => match Entry::read(found) {
            Ok(entry) => writer.write(&entry),
            Err(errno) => log.not_captured(found.path, std::io::Error::from(errno)),
        },
        walk::Event::Leave(_) => Ok(()),
        walk::Event::Unreadable { path, reason } => log.not_captured(path, reason),
    })?;
    writer.finish()
}

/// Makes a listing, written while its tree was copied from one that somebody wrote to, agree with
/// the copy. The times and numbers as found stay.
pub(crate) fn reconcile(tree: BorrowedFd<'_>, listing: &Path) -> Result<()> {
    let unfinished = listing.with_extension("reconciled");
    let mut writer = Writer::create(&unfinished)?;
    let mut reader = Reader::open(listing)?;
    let mut next = reader.next().transpose()?;
    walk::walk(tree, &mut |event| {
        let walk::Event::Entry(found) = event else {
            return Ok(());
        };
        let Ok(mut entry) = Entry::read(found) else {
            return Ok(());
        };
        while let Some(listed) = next.take_if(|next| order(&next.path, &entry.path).is_le()) {
            next = reader.next().transpose()?;
            if listed.path == entry.path {
                (entry.atime, entry.ctime) = (listed.atime, listed.ctime);
                (entry.btime, entry.inode) = (listed.btime, listed.inode);
                entry.links = listed.links;
            }
        }
        writer.write(&entry)
    })?;
    writer.finish()?;
    fs::rename(&unfinished, listing).map_err(EvidenceError::io("write", listing))
}

/// Makes `done` from `found` by adding the hash of every file below `tree`. Memory stays bounded;
/// files are read on all cores.
pub(crate) fn add_hashes(
    tree: BorrowedFd<'_>,
    found: &Path,
    done: &Path,
    log: &mut Log,
) -> Result<()> {
    let unfinished = done.with_extension("unfinished");
    let mut writer = Writer::create(&unfinished)?;
    let mut reader = Reader::open(found)?;
    loop {
        let mut batch = reader.batch(BATCH)?;
        if batch.is_empty() {
            break;
        }
        let failed: Vec<(Vec<u8>, std::io::Error)> = batch
            .par_iter_mut()
            .filter_map(|entry| Some((entry.path.clone(), hash(tree, entry).err()?)))
            .collect();
        for (path, error) in failed {
            log.not_captured(
                &path,
                format_args!("its content could not be read: {error}"),
            )?;
        }
        for entry in &batch {
            writer.write(entry)?;
        }
    }
    writer.finish()?;
    fs::rename(&unfinished, done).map_err(EvidenceError::io("write", done))
}

fn hash(tree: BorrowedFd<'_>, entry: &mut Entry) -> std::io::Result<()> {
    if entry.kind == EntryKind::File {
        let file = open_file(tree, &entry.path)?;
        entry.digest = Some(digest::content(&file)?);
    }
    Ok(())
}
