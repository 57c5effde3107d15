//! The content-addressed files of the store.
//!
//! An object is named by its fs-verity digest (SHA-256, 4 KiB blocks), so that the kernel can
//! check it on every read where the file system supports that. Parsers only ever see an object
//! whose digest was checked: a damaged disk must not become a damaged answer.

mod put;
pub(crate) mod verity;
mod writer;

use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use composefs::fsverity::{Algorithm, FsVerityHashValue, FsVerityHasher, Sha256HashValue};
use composefs::repository::{Repository, RepositoryConfig, RepositoryOpenError};
use rustix::fs::CWD;

use crate::error::{ImageError, Result};

pub(crate) use put::{discard, put};
pub(crate) use writer::{ObjectWriter, Pending};

/// Names one object.
pub(crate) type ObjectId = Sha256HashValue;
/// The objects of a store.
pub(crate) type Objects = Arc<Repository<ObjectId>>;

/// Opens the object store at `path`, made when missing.
pub(crate) fn open(path: &Path) -> Result<Objects> {
    // Checked by `image fsck` and at import; the kernel's own check (fs-verity) is used for
    // mounts where it exists, so the store itself must not insist on it.
    let init = || {
        let config = RepositoryConfig::new(Algorithm::SHA256).set_insecure();
        Repository::init_path(CWD, path, config).map(|(repository, _is_new)| repository)
    };
    let opened = match Repository::open_path(CWD, path) {
        Err(RepositoryOpenError::MetadataMissing) => init(),
        Err(RepositoryOpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => init(),
        opened => opened.map_err(Into::into),
    };
    let mut repository = opened.map_err(ImageError::store("open it"))?;
    repository.set_insecure();
    Ok(Arc::new(repository))
}

/// Opens an object whose content is what its name says.
pub(crate) fn open_verified(objects: &Objects, id: &ObjectId) -> Result<std::fs::File> {
    let file = objects
        .open_object(id)
        .map_err(ImageError::store("open an object"))?;
    let mut file = std::fs::File::from(file);
    let failed = |error: io::Error| ImageError::Store {
        action: "read an object",
        reason: error.to_string(),
    };
    let actual = digest(&mut file).map_err(failed)?;
    if actual != *id {
        return Err(ImageError::Store {
            action: "read an object",
            reason: format!(
                "{} has digest {}: it was damaged on disk",
                id.to_hex(),
                actual.to_hex()
            ),
        });
    }
    file.rewind().map_err(failed)?;
    Ok(file)
}

/// The name an object with this content would have.
pub(crate) fn digest(content: &mut impl Read) -> io::Result<ObjectId> {
    let mut hasher = FsVerityHasher::<ObjectId>::new();
    let mut reader = io::BufReader::with_capacity(1 << 16, content);
    io::copy(&mut reader, &mut hasher)?;
    Ok(hasher.digest())
}
