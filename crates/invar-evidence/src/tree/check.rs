//! Whether a tree still is what its listing says.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rayon::prelude::*;

use super::entry::{Entry, EntryKind};
use super::list::Reader;
use super::walk::{self, Event};
use super::{open_dir, open_file};
use crate::digest;
use crate::error::{EvidenceError, Result};

/// Files hashed in one go.
const BATCH: usize = 512;

/// Walks the tree beside its listing and hands on each difference: a path and what is wrong.
///
/// Both are in one order, so neither is held in memory.
pub(crate) fn check(
    tree: &Path,
    listing: &Path,
    differs: &mut dyn FnMut(&[u8], String) -> Result<()>,
) -> Result<u64> {
    let root: OwnedFd = match open_dir(tree) {
        Ok(root) => root,
        Err(errno) => {
            differs(b"/", format!("missing: {}", std::io::Error::from(errno)))?;
            return Ok(0);
        }
    };
    let mut checking = Checking {
        root: root.as_fd(),
        listing: Reader::open(listing)?,
        next: None,
        last: Vec::new(),
        files: Vec::with_capacity(BATCH),
        checked: 0,
        differs,
    };
    checking.advance()?;
    walk::walk(root.as_fd(), &mut |event| match event {
        Event::Entry(found) => match Entry::read(found) {
            Ok(entry) => checking.entry(&entry),
            Err(errno) => (checking.differs)(found.path, std::io::Error::from(errno).to_string()),
        },
        // What could not be walked at capture time either is in no listing and no difference;
        // if it was, its entries are reported as missing.
        Event::Leave(_) | Event::Unreadable { .. } => Ok(()),
    })?;
    checking.finish()
}

struct Checking<'a> {
    root: BorrowedFd<'a>,
    listing: Reader,
    next: Option<Entry>,
    /// The path before it.
    last: Vec<u8>,
    files: Vec<Entry>,
    checked: u64,
    differs: &'a mut dyn FnMut(&[u8], String) -> Result<()>,
}

impl Checking<'_> {
    fn advance(&mut self) -> Result<()> {
        let next = self.listing.next().transpose()?;
        if let Some(next) = &next {
            if !self.last.is_empty() && !order(&self.last, &next.path).is_lt() {
                let reason = format!("{} is out of order", next.path.escape_ascii());
                return Err(EvidenceError::malformed("a listing", reason));
            }
            self.last.clone_from(&next.path);
        }
        self.next = next;
        Ok(())
    }

    fn entry(&mut self, actual: &Entry) -> Result<()> {
        while let Some(listed) = self
            .next
            .take_if(|next| !order(&next.path, &actual.path).is_gt())
        {
            self.advance()?;
            if listed.path == actual.path {
                return self.compare(listed, actual);
            }
            (self.differs)(&listed.path, "missing".to_owned())?;
        }
        (self.differs)(
            &actual.path,
            "not in the evidence as it was sealed".to_owned(),
        )
    }

    fn compare(&mut self, listed: Entry, actual: &Entry) -> Result<()> {
        self.checked += 1;
        let different = differences(&listed, actual);
        if !different.is_empty() {
            (self.differs)(&listed.path, format!("changed: {}", different.join(", ")))?;
        }
        if listed.digest.is_some() && actual.kind == EntryKind::File {
            self.files.push(listed);
            if self.files.len() == BATCH {
                self.hash()?;
            }
        }
        Ok(())
    }

    fn hash(&mut self) -> Result<()> {
        let root = self.root;
        let wrong: Vec<(Vec<u8>, String)> = self
            .files
            .par_iter()
            .filter_map(|listed| Some((listed.path.clone(), content(root, listed)?)))
            .collect();
        self.files.clear();
        for (path, reason) in wrong {
            (self.differs)(&path, reason)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<u64> {
        while let Some(listed) = self.next.take() {
            (self.differs)(&listed.path, "missing".to_owned())?;
            self.advance()?;
        }
        self.hash()?;
        Ok(self.checked)
    }
}

/// What is wrong with a file's content.
fn content(root: BorrowedFd<'_>, listed: &Entry) -> Option<String> {
    let expected = listed.digest.as_ref()?;
    let actual = open_file(root, &listed.path)
        .map_err(std::io::Error::from)
        .and_then(|file| digest::content_like(&file, expected));
    match actual {
        Ok(actual) if actual == *expected => None,
        Ok(_) => Some("changed: content".to_owned()),
        Err(error) => Some(format!("its content cannot be read: {error}")),
    }
}

/// In what two entries differ that a sealed tree keeps. Times of reading and of the inode, and
/// the number of names, belong to the place and not to the evidence.
fn differences(listed: &Entry, actual: &Entry) -> Vec<&'static str> {
    let table = [
        ("type", listed.kind != actual.kind),
        ("mode", listed.mode != actual.mode),
        (
            "owner",
            (listed.uid, listed.gid) != (actual.uid, actual.gid),
        ),
        ("size", listed.size != actual.size),
        ("device", listed.device != actual.device),
        ("mtime", listed.mtime != actual.mtime),
        ("attributes", listed.attributes != actual.attributes),
        ("target", listed.target != actual.target),
    ];
    table
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| name)
        .collect()
}

/// The order of the walk: part by part, so that what is in `b` comes before `b.txt`.
pub(crate) fn order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let is_part = |part: &&[u8]| !part.is_empty();
    let parts = |path| <[u8]>::split(path, |byte| *byte == b'/').filter(is_part);
    parts(a).cmp(parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_walk() {
        let walked = ["/", "/a", "/b", "/b/x", "/b/x/y", "/b.txt", "/c"];
        for pair in walked.windows(2) {
            let (a, b) = (pair[0].as_bytes(), pair[1].as_bytes());
            assert_eq!(order(a, b), std::cmp::Ordering::Less, "{pair:?}");
        }
    }
}
