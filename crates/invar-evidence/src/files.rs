//! Files Invar itself writes: private, never half-written where a reader could find them.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

use crate::error::{EvidenceError, Result};

/// Creates or empties a file that only root reads.
pub(crate) fn create(path: &Path) -> Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    options.mode(0o600);
    options
        .open(path)
        .map_err(EvidenceError::io("create", path))
}

/// Writes a whole file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    create(path)?
        .write_all(bytes)
        .map_err(EvidenceError::io("write", path))
}

/// Writes a value as indented JSON.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| EvidenceError::io("write", path)(error))?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Replaces a file so that a reader sees the old bytes or the new ones, also after a power cut.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = Path::new(&unfinished);
    let mut file = create(unfinished)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(EvidenceError::io("write", path))?;
    fs::rename(unfinished, path).map_err(EvidenceError::io("write", path))?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Makes the names in a directory survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    fs::File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(EvidenceError::io("write", path))
}

/// Makes a directory that only root enters; one that is there is left as it is.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(path)
        .map_err(EvidenceError::io("create", path))
}

/// Reads a file of at most `limit` bytes; a longer one is refused before it fills the memory.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (bytes, is_whole) = read_start(path, limit)?;
    if is_whole {
        Ok(bytes)
    } else {
        let reason = format!("it is longer than {limit} bytes");
        Err(EvidenceError::malformed(path.display().to_string(), reason))
    }
}

/// The first `limit` bytes of a file, and whether that was all.
pub(crate) fn read_start(path: &Path, limit: u64) -> Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(EvidenceError::io("read", path))?;
    let is_whole = bytes.len() as u64 <= limit;
    bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok((bytes, is_whole))
}
