//! One object into the store: written without a name, named when complete.
//!
//! Content that is there already is compared, not trusted: importing an image again repairs
//! objects that were damaged on disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use composefs::fsverity::{FsVerityHashValue, FsVerityHasher};
use composefs::repository::Repository;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::{ObjectId, verity};

/// Zeros of at least this size, at a multiple of it, become holes.
const HOLE: usize = 4096;

/// Stores bytes that are in memory. They reach the disk with [`Repository::sync`].
pub(crate) fn put(objects: &Repository<ObjectId>, data: &[u8]) -> io::Result<ObjectId> {
    let id = FsVerityHasher::<ObjectId>::hash(data);
    let directory = objects.objects_dir()?;
    let existing = existing(directory, &id)?;
    let is_damaged = existing.is_some();
    // What cannot be read is damaged too: the kernel gives an error for a byte that changed.
    if let Some(file) = existing
        && holds(&file, data).unwrap_or(false)
    {
        verity::enable(file.as_fd())?;
        return Ok(id);
    }
    let mut file = unnamed(directory, &id)?;
    file.write_all(data)?;
    name(directory, file, &id, is_damaged)?;
    Ok(id)
}

/// Stores what the chunks hold together, never more than one of them in memory, with its zeros as
/// holes. `size` is how much that must be.
pub(super) fn put_chunks(
    objects: &Repository<ObjectId>,
    chunks: impl Iterator<Item = Vec<u8>>,
    size: u64,
) -> io::Result<ObjectId> {
    let directory = objects.objects_dir()?;
    // Where it belongs is known at the end.
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, ".", flags, MODE)?);
    let mut hasher = FsVerityHasher::<ObjectId>::new();
    let mut written = 0;
    for chunk in chunks {
        hasher.write_all(&chunk)?;
        write_with_holes(&mut file, &chunk, written)?;
        written += chunk.len() as u64;
    }
    if written != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.set_len(size)?;
    let id = hasher.digest();
    let existing = existing(directory, &id)?;
    let is_damaged = existing.is_some();
    if let Some(mut file) = existing
        && super::digest(&mut file).is_ok_and(|actual| actual == id)
    {
        verity::enable(file.as_fd())?;
        return Ok(id);
    }
    make_directory(directory, &id)?;
    name(directory, file, &id, is_damaged)?;
    Ok(id)
}

/// Removes a damaged object, so that the next import writes it again.
pub(crate) fn discard(objects: &Repository<ObjectId>, id: &ObjectId) -> io::Result<()> {
    let place = id.to_object_pathname();
    Ok(unlinkat(objects.objects_dir()?, place, AtFlags::empty())?)
}

const MODE: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

fn existing(directory: &OwnedFd, id: &ObjectId) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(directory, id.to_object_pathname(), flags, Mode::empty()) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn holds(mut existing: &File, data: &[u8]) -> io::Result<bool> {
    if existing.metadata()?.len() != data.len() as u64 {
        return Ok(false);
    }
    let mut buffer = [0; 1 << 14];
    for expected in data.chunks(buffer.len()) {
        let found = &mut buffer[..expected.len()];
        existing.read_exact(found)?;
        if found != expected {
            return Ok(false);
        }
    }
    Ok(true)
}

fn unnamed(directory: &OwnedFd, id: &ObjectId) -> io::Result<File> {
    let parent = id.to_object_dir();
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match openat(directory, &parent, flags, MODE) {
        Ok(file) => Ok(file.into()),
        Err(Errno::NOENT) => {
            make_directory(directory, id)?;
            Ok(openat(directory, &parent, flags, MODE)?.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn make_directory(directory: &OwnedFd, id: &ObjectId) -> io::Result<()> {
    match mkdirat(directory, id.to_object_dir(), Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn write_with_holes(file: &mut File, chunk: &[u8], start: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut from = 0;
    while from < chunk.len() {
        let is_hole = |block: &&[u8]| block.len() == HOLE && block.iter().all(|byte| *byte == 0);
        let is_data = |block: &&[u8]| !is_hole(block);
        let data = chunk[from..].chunks(HOLE).take_while(is_data);
        let length: usize = data.map(<[u8]>::len).sum();
        file.write_all_at(&chunk[from..from + length], start + from as u64)?;
        from += length;
        from += chunk[from..].chunks(HOLE).take_while(is_hole).count() * HOLE;
    }
    Ok(())
}

/// Gives a complete file its name; another writer's equal one may be there by now.
fn name(directory: &OwnedFd, file: File, id: &ObjectId, replace: bool) -> io::Result<()> {
    let file = verified_by_the_kernel(file.into())?;
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = |to: &Path| linkat(CWD, &from, directory, to, AtFlags::SYMLINK_FOLLOW);
    let place = id.to_object_pathname();
    if replace {
        let unfinished = format!("{}/.new-{:016x}", id.to_object_dir(), rand::random::<u64>());
        link(Path::new(&unfinished))?;
        return Ok(renameat(directory, &unfinished, directory, &place)?);
    }
    match link(Path::new(&place)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Lets the kernel check every read of the file, where the file system can.
fn verified_by_the_kernel(file: OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let reading = openat(CWD, path, flags, Mode::empty())?;
    drop(file);
    verity::enable(reading.as_fd())?;
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use fs_err as fs;

    use super::*;

    #[test]
    fn zeros_become_holes_and_read_as_zeros() {
        let directory = tempfile::tempdir().unwrap();
        let objects = super::super::open(directory.path()).unwrap();
        let mut content = vec![0; 1 << 20];
        content[300_000] = 7;
        content.extend_from_slice(b"the end");
        let chunks = content.chunks(1 << 18).map(<[u8]>::to_vec);
        let id = put_chunks(&objects, chunks, content.len() as u64).unwrap();
        assert_eq!(id, FsVerityHasher::<ObjectId>::hash(&content));
        let file = super::super::open_verified(&objects, &id).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < 100_000);
    }

    #[test]
    fn a_damaged_object_is_replaced_by_writing_it_again() {
        let directory = tempfile::tempdir().unwrap();
        let objects = super::super::open(directory.path()).unwrap();
        let small = b"small".repeat(100);
        let large = b"large".repeat(1000);
        for content in [small, large] {
            let store = || -> ObjectId {
                let chunk = std::iter::once(content.clone());
                let id = put_chunks(&objects, chunk, content.len() as u64).unwrap();
                assert_eq!(put(&objects, &content).unwrap(), id);
                id
            };
            let id = store();
            let path = directory
                .path()
                .join("objects")
                .join(id.to_object_pathname());
            for damage in [0, 1, 2] {
                let damaged = fs::OpenOptions::new().write(true).open(&path).unwrap();
                match damage {
                    0 => damaged.file().write_all_at(b"X", 10).unwrap(),
                    1 => damaged.set_len(3).unwrap(),
                    _ => damaged.set_len(9999).unwrap(),
                }
                drop(damaged);
                assert!(super::super::open_verified(&objects, &id).is_err());
                if damage == 0 {
                    put(&objects, &content).unwrap();
                } else {
                    store();
                }
                super::super::open_verified(&objects, &id).unwrap();
            }
        }
    }

    #[test]
    fn content_shorter_or_longer_than_announced_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let objects = super::super::open(directory.path()).unwrap();
        for size in [2, 4] {
            let chunks = std::iter::once(b"abc".to_vec());
            assert!(put_chunks(&objects, chunks, size).is_err());
        }
    }
}
