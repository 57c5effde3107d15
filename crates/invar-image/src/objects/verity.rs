//! fs-verity: the kernel checks every block of a file against the file's digest when it is read
//! from disk, and refuses to give a wrong one out (Linux, `Documentation/filesystems/fsverity.rst`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use composefs::fsverity::{
    EnableVerityError, MeasureVerityError, enable_verity_with_retry, measure_verity,
};

use super::{ObjectId, Objects, digest};
use crate::error::{ImageError, Result};

/// Whether this file system said that it cannot verify files itself; asked once a process.
static NO_VERITY: AtomicBool = AtomicBool::new(false);

/// Lets the kernel check every read of the file, where the file system can. Nobody may have it
/// open for writing.
pub(crate) fn enable(file: BorrowedFd<'_>) -> io::Result<()> {
    if NO_VERITY.load(Ordering::Relaxed) {
        return Ok(());
    }
    match enable_verity_with_retry::<ObjectId>(file) {
        Ok(()) | Err(EnableVerityError::AlreadyEnabled) => Ok(()),
        Err(EnableVerityError::FilesystemNotSupported) => {
            NO_VERITY.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(EnableVerityError::Io(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Whether the kernel checks this file, and that it is the object; another object is an error.
pub(crate) fn is_enabled(file: BorrowedFd<'_>, id: &ObjectId) -> Result<bool> {
    match measure_verity::<ObjectId>(file) {
        Ok(actual) if actual == *id => Ok(true),
        Ok(_other) => Err(broken("it is another file than its name says")),
        Err(MeasureVerityError::VerityMissing | MeasureVerityError::FilesystemNotSupported) => {
            Ok(false)
        }
        Err(error) => Err(broken(&error.to_string())),
    }
}

/// As [`enable`], for an object that an earlier import stored, perhaps before the file system
/// could: its content is read first.
pub(crate) fn ensure(objects: &Objects, id: &ObjectId) -> Result<()> {
    if NO_VERITY.load(Ordering::Relaxed) {
        return Ok(());
    }
    let file = objects
        .open_object(id)
        .map_err(ImageError::store("open an object"))?;
    if is_enabled(file.as_fd(), id)? {
        return Ok(());
    }
    let mut file = File::from(file);
    let actual = digest(&mut file).map_err(|error| broken(&error.to_string()))?;
    if actual != *id {
        return Err(broken("it was damaged on disk"));
    }
    enable(file.as_fd()).map_err(|error| broken(&error.to_string()))
}

fn broken(reason: &str) -> ImageError {
    ImageError::Store {
        action: "verify an object",
        reason: format!("{reason}; see: invar image fsck"),
    }
}
