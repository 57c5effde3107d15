//! Downloads on disk: `store/downloads/sha256-HEX`, one file a blob, kept when a pull breaks off so
//! that the next one goes on where it ended. What is in one is believed only with its digest.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, open, openat};

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::prune::Pruned;

/// What is left of a download is kept this long.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// The directory of a store's downloads.
pub(crate) fn directory(store: &Path) -> PathBuf {
    store.join("downloads")
}

/// Makes the directory, and removes what was left there too long ago.
pub(crate) fn prepare(store: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let directory = directory(store);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(ImageError::io("create", &directory))?;
    let is_old = |time: SystemTime| time.elapsed().is_ok_and(|age| age > KEPT);
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        if changed.is_ok_and(is_old) {
            // Another pull may be removing it too.
            fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
}

/// Opens the file for a blob, with what is there of it. While another pull writes it, a file
/// without a name is used instead.
pub(crate) fn open_part(store: &Path, digest: &Digest) -> Result<File> {
    let directory = directory(store);
    let path = directory.join(format!("sha256-{}", digest.hex()));
    let failed = |error: rustix::io::Errno| ImageError::io("open", &path)(error.into());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = openat(CWD, &path, flags, mode).map_err(failed)?;
    let is_ours = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    // Between the two calls it may have been removed.
    if is_ours && fstat(&file).map_err(failed)?.st_nlink > 0 {
        return Ok(file.into());
    }
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(open(&directory, flags, mode).map_err(failed)?.into())
}

/// Removes the files of these blobs.
pub(crate) fn remove<'a>(store: &Path, digests: impl Iterator<Item = &'a Digest>) {
    for digest in digests {
        let path = directory(store).join(format!("sha256-{}", digest.hex()));
        // It was never there when the blob was not needed.
        fs::remove_file(path).ok();
    }
}

/// Removes every file; no pull may be under way.
pub(crate) fn remove_all(store: &Path) -> Result<Pruned> {
    let directory = directory(store);
    let mut pruned = Pruned::default();
    if !directory.exists() {
        return Ok(pruned);
    }
    let entries = fs::read_dir(&directory).map_err(ImageError::io("read", &directory))?;
    for entry in entries {
        let path = entry.map_err(ImageError::io("read", &directory))?.path();
        pruned.bytes += fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
        pruned.objects += 1;
        fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
    }
    Ok(pruned)
}
