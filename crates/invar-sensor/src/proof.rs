//! Whether an open file is one of the image's.
//!
//! Names can be moved while one looks, so that a name's absence from the upper directory proves
//! nothing. Proof is what the open file itself shows: the change time that the image's file has,
//! which nobody inside can set, or the same content to the last byte.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use invar_drift::open_beneath;
use rustix::fs::{FileType, OFlags, Stat, fstat};
use rustix::io::pread;

const PIECE: usize = 128 * 1024;

/// What an open file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The image's file itself.
    Untouched,
    /// The container's copy of it, with the same content.
    SameContent,
    /// Another content than the image has there.
    Changed,
    /// The image has no file there.
    Added,
}

/// The image a container started from.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) lower: OwnedFd,
}

impl Image {
    /// Compares an open file with the image's file of that path.
    pub(crate) fn prove(&self, file: BorrowedFd<'_>, path: &[u8]) -> Proof {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let seen = open_beneath(self.lower.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW);
        let is_file = |stat: &Stat| FileType::from_raw_mode(stat.st_mode).is_file();
        let (Ok(seen), Ok(stat)) = (seen, fstat(file)) else {
            return Proof::Added;
        };
        let Ok(original) = fstat(&seen) else {
            return Proof::Added;
        };
        if !is_file(&original) || !is_file(&stat) {
            return Proof::Added;
        }
        if stat.st_size != original.st_size {
            return Proof::Changed;
        }
        let times = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec);
        if times(&stat) == times(&original) {
            return Proof::Untouched;
        }
        match open_beneath(self.lower.as_fd(), path, flags) {
            Ok(original) if is_same(file, original.as_fd()) => Proof::SameContent,
            _ => Proof::Changed,
        }
    }
}

/// Whether two files have the same content. What cannot be read is not the same.
fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0_u64;
    loop {
        let (Ok(read), Ok(of_other)) = (fill(one, &mut a, at), fill(other, &mut b, at)) else {
            return false;
        };
        if a[..read] != b[..of_other] {
            return false;
        }
        if read < PIECE {
            return true;
        }
        at += read as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> rustix::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match pread(file, &mut buffer[filled..], at + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use fs_err as fs;

    use super::*;

    #[test]
    fn only_the_same_bytes_are_the_images() {
        let dir = tempfile::tempdir().unwrap();
        let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
        for side in [&lower, &upper] {
            fs::create_dir(side).unwrap();
        }
        let long = vec![7; PIECE + 1];
        let mut other = long.clone();
        other[PIECE] = 8;
        for (name, original, copy, expected) in [
            ("same", Some(&long), &long, Proof::SameContent),
            ("last-byte", Some(&long), &other, Proof::Changed),
            ("added", None, &long, Proof::Added),
        ] {
            if let Some(original) = original {
                fs::write(lower.join(name), original).unwrap();
            }
            // As when a container writes: at another time than the image was made.
            let changed = |path: &Path| {
                let stat = fs::metadata(path).ok()?;
                Some((stat.ctime(), stat.ctime_nsec()))
            };
            loop {
                fs::write(upper.join(name), copy).unwrap();
                if changed(&upper.join(name)) != changed(&lower.join(name)) {
                    break;
                }
            }
            let image = Image {
                lower: fs::File::open(&lower).unwrap().into_parts().0.into(),
            };
            let file = fs::File::open(upper.join(name)).unwrap();
            let path = format!("/{name}");
            assert_eq!(image.prove(file.as_fd(), path.as_bytes()), expected);
            if original.is_some() {
                let own = fs::File::open(lower.join(name)).unwrap();
                let proof = image.prove(own.as_fd(), path.as_bytes());
                assert_eq!(proof, Proof::Untouched, "{name}");
            }
        }
    }
}
