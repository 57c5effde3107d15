//! A tree as a tar: the upper directory as an OCI layer, or any exactly as it was found.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::pax::{Pax, Records};
use crate::capture::below::{self, Line};
use crate::capture::{held, upper};
use crate::digest::ContentDigest;
use crate::error::{EvidenceError, Result};
use crate::header::{Gap, Marks};
use crate::lines::Lines;
use crate::text;
use crate::tree::entry::{Entry, EntryKind, Instant};
use crate::tree::list::Reader;
use crate::tree::{join, name, open_dir, open_file, parent};

/// The forms a tar of the upper directory has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Deletions as `.wh.NAME`, none of overlayfs's marks: what every engine unpacks.
    Layer,
    /// Every entry with overlayfs's marks; holes stay holes (GNU sparse format 1.0).
    Raw,
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes the tar. Equal evidence gives equal bytes. What the form cannot hold is told to `gap`.
pub(super) fn write(
    dir: &Path,
    tree: &str,
    form: Form,
    marks: Marks,
    out: &mut dyn Write,
    gap: &mut dyn FnMut(Gap),
) -> Result<()> {
    let mut writing = Writing {
        tar: Pax::new(out),
        form,
        marks,
        gap,
    };
    let listing = upper::listing(dir, tree);
    if listing.exists() {
        let place = dir.join(upper::RAW).join(tree);
        let tree = open_dir(&place).map_err(EvidenceError::io("open", &place))?;
        for entry in Reader::open(&listing)? {
            writing.listed(tree.as_fd(), &entry?)?;
        }
    }
    if form == Form::Layer {
        for line in Lines::<Line>::open(&dir.join(below::NAME))? {
            writing.below(dir, &line?)?;
        }
    }
    writing.tar.finish().map_err(failed)
}

/// A tar of files of the evidence that may have holes, which stay holes.
pub(super) fn sparse_files(dir: &Path, names: &[String], out: &mut dyn Write) -> Result<()> {
    let mut writing = Writing {
        tar: Pax::new(out),
        form: Form::Raw,
        marks: Marks::default(),
        gap: &mut |_| {},
    };
    for name in names {
        let path = dir.join(name);
        let file = crate::tree::open_regular(&path)?;
        let size = rustix::fs::fstat(&file).map_err(EvidenceError::io("look at", &path))?;
        let entry = Entry {
            mode: 0o644,
            size: u64::try_from(size.st_size).unwrap_or(0),
            ..plain_file(format!("/{name}").into_bytes())
        };
        writing.sparse(&file, &entry).map_err(failed)?;
    }
    writing.tar.finish().map_err(failed)
}

/// An entry of a file that no container made.
fn plain_file(path: Vec<u8>) -> Entry {
    Entry {
        path,
        kind: EntryKind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        device: None,
        mtime: Instant(0, 0),
        atime: Instant(0, 0),
        ctime: Instant(0, 0),
        btime: None,
        inode: 0,
        links: 1,
        attributes: std::collections::BTreeMap::new(),
        target: None,
        digest: None,
    }
}

struct Writing<'a> {
    tar: Pax<'a>,
    form: Form,
    marks: Marks,
    gap: &'a mut dyn FnMut(Gap),
}

impl Writing<'_> {
    fn listed(&mut self, tree: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        if entry.path == b"/" {
            return Ok(());
        }
        if entry.kind == EntryKind::Socket {
            self.skip(entry, "a tar has no sockets");
            return Ok(());
        }
        if self.form == Form::Raw {
            return self.raw(tree, entry);
        }
        let has = |mark| entry.attributes.contains_key(&self.mark_name(mark));
        let is_marked = entry.kind == EntryKind::File && entry.size == 0 && has("whiteout");
        if entry.is_whiteout() || is_marked {
            let mark = [WHITEOUT, name(&entry.path)].concat();
            return self.mark(&join(parent(&entry.path), &mark));
        }
        // Its content is below.
        if has("metacopy") {
            return Ok(());
        }
        let opaque = entry.attributes.get(&self.mark_name("opaque"));
        let hides_below = has("redirect") || opaque.is_some_and(|value| value == "eQ==");
        if !self.fits_a_layer(entry) {
            return Ok(());
        }
        let file = open(tree, entry)?;
        let size = file.as_ref().map_or(0, |_| entry.size);
        self.put(entry, size)?;
        if let Some(file) = file {
            let content = self.tar.content(&mut File::from(file), size);
            content.map_err(failed)?;
        }
        if hides_below {
            self.mark(&join(&entry.path, OPAQUE))?;
        }
        Ok(())
    }

    /// The name of one of overlayfs's marks.
    fn mark_name(&self, mark: &str) -> String {
        format!("{}{mark}", self.marks.prefix())
    }

    fn below(&mut self, dir: &Path, line: &Line) -> Result<()> {
        let entry = &line.entry;
        if entry.kind == EntryKind::Socket || !self.fits_a_layer(entry) {
            return Ok(());
        }
        let Some(kept) = &line.kept else {
            return self.put(entry, 0);
        };
        if !kept
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err(EvidenceError::malformed(
                below::NAME,
                "a name leads elsewhere",
            ));
        }
        let path = dir.join(held::DIR).join(kept);
        let file = crate::tree::open_regular(&path)?;
        self.put(entry, entry.size)?;
        let content = self.tar.content(&mut File::from(file), entry.size);
        content.map_err(failed)
    }

    /// Whether an engine may be asked to unpack this.
    fn fits_a_layer(&mut self, entry: &Entry) -> bool {
        let mut parts = entry.path.split(|byte| *byte == b'/');
        if parts.any(|part| part.starts_with(WHITEOUT)) {
            self.skip(entry, "its name would delete another file of the image");
            return false;
        }
        if matches!(entry.digest, Some(ContentDigest::Sparse(_))) {
            self.skip(
                entry,
                "it is mostly holes, which an engine would fill: see upper.tar",
            );
            return false;
        }
        true
    }

    fn put(&mut self, entry: &Entry, size: u64) -> Result<()> {
        let records = self.attributes(entry);
        self.tar
            .entry(&entry.path[1..], entry, size, records)
            .map_err(failed)
    }

    fn mark(&mut self, path: &[u8]) -> Result<()> {
        self.put(&plain_file(path.to_vec()), 0)
    }

    fn raw(&mut self, tree: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        let Some(file) = open(tree, entry)? else {
            return self.put(entry, 0);
        };
        if !matches!(entry.digest, Some(ContentDigest::Sparse(_))) {
            self.put(entry, entry.size)?;
            let content = self.tar.content(&mut File::from(file), entry.size);
            return content.map_err(failed);
        }
        self.sparse(&file, entry).map_err(failed)
    }

    /// GNU sparse format 1.0: a map of the data before the data.
    fn sparse(&mut self, file: &OwnedFd, entry: &Entry) -> io::Result<()> {
        let extents = extents(file, entry.size)?;
        let lines = extents
            .iter()
            .map(|(at, length)| format!("{at}\n{length}\n"));
        let map: String = [format!("{}\n", extents.len())]
            .into_iter()
            .chain(lines)
            .collect();
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        let data: u64 = extents.iter().map(|(_, length)| length).sum();
        let size = map.len() as u64 + data;
        let mut records = self.attributes(entry);
        for (key, value) in [
            ("GNU.sparse.major", b"1".to_vec()),
            ("GNU.sparse.minor", b"0".to_vec()),
            ("GNU.sparse.name", entry.path[1..].to_vec()),
            ("GNU.sparse.realsize", entry.size.to_string().into_bytes()),
        ] {
            records.push((key.to_owned(), value));
        }
        self.tar.entry(&entry.path[1..], entry, size, records)?;
        self.tar.out().write_all(&map)?;
        let file = File::from(file.try_clone()?);
        for (at, length) in extents {
            let mut extent = Extent {
                file: &file,
                at,
                end: at + length,
            };
            io::copy(&mut extent, self.tar.out())?;
        }
        self.tar.pad(size)
    }

    /// Extended attributes as PAX records; overlayfs's own only in the raw form.
    fn attributes(&self, entry: &Entry) -> Records {
        let can_have = matches!(entry.kind, EntryKind::File | EntryKind::Directory);
        let own = self.marks.prefix();
        let fits = |name: &str| match self.form {
            Form::Raw => true,
            Form::Layer => can_have && !name.starts_with(own) && !name.starts_with("trusted."),
        };
        let values = entry.attributes.iter().filter(|(name, _)| fits(name));
        values
            .filter_map(|(name, value)| {
                Some((format!("SCHILY.xattr.{name}"), BASE64.decode(value).ok()?))
            })
            // Neither may be in a record's key.
            .filter(|(name, _)| !name.contains(['=', '\n', '\\']))
            .collect()
    }

    fn skip(&mut self, entry: &Entry, reason: &str) {
        (self.gap)(Gap {
            what: text::shown(&entry.path),
            reason: reason.to_owned(),
        });
    }
}

fn open(tree: BorrowedFd<'_>, entry: &Entry) -> Result<Option<OwnedFd>> {
    if entry.kind != EntryKind::File {
        return Ok(None);
    }
    let opened = open_file(tree, &entry.path);
    let shown = text::shown(&entry.path);
    opened.map(Some).map_err(EvidenceError::io("open", shown))
}

fn extents(file: &OwnedFd, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            data => data?,
        };
        let end = seek(file, SeekFrom::Hole(data))?.min(size);
        extents.push((data, end - data));
        at = end;
    }
    if at < size || extents.is_empty() {
        // Readers learn the size from the last extent.
        extents.push((size, 0));
    }
    Ok(extents)
}

/// A part of a file.
struct Extent<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Extent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = rest.min(buffer.len());
        let length = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

pub(super) fn failed(error: io::Error) -> EvidenceError {
    EvidenceError::io("write", "the archive")(error)
}
