//! A tar archive's members, one after the other, read strictly: where programs disagree on what an
//! archive says, it is refused, so that nothing can hide from one of them.
//!
//! ```text
//! block ─▶ header (ustar, GNU, V7) ─┐
//!   'x' ─▶ pax records ─────────────┼─▶ Member ─▶ content, at most `size` bytes
//!   'L' 'K' ─▶ GNU long names ──────┘      └─ sparse map
//! ```
//!
//! Written for layers and image archives instead of using a general reader: it bounds what it
//! keeps in memory *before* reading it, keeps every byte of names and attributes (also newlines
//! and backslashes), knows every sparse form, and is fuzzed. Follows POSIX.1-2017 `pax`,
//! "ustar Interchange Format" and "pax Extended Header", and GNU tar's "Basic Tar Format".

mod header;
mod pax;
pub(crate) mod sparse;

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::error::{ImageError, Result};
use header::{BLOCK, Block, Header};
use pax::Records;
use sparse::SparseForm;

/// Where an archive's bytes come from.
pub(crate) trait Source: Read {
    /// Passes over exactly so many bytes; an error when there are fewer.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Hardlink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// Anything else, by its letter.
    Other(u8),
}

/// A file or link as the archive describes it. Nothing in it was checked for what it would do.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    /// Target of a symbolic or hard link, else empty.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Major and minor number of a device.
    pub(crate) device: (u64, u64),
    /// Bytes of content in the archive.
    pub(crate) size: u64,
    /// How the content is spread over the file, unless it is the file.
    pub(crate) sparse: Option<SparseForm>,
    /// `SCHILY.xattr` records.
    pub(crate) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Reads an archive.
pub(crate) struct Tar<S> {
    source: S,
    name: String,
    position: u64,
    /// Content of the current member not yet read, and the padding behind it.
    content: u64,
    padding: u64,
    headers: u64,
    most_headers: u64,
}

/// What extension members say of the next member.
#[derive(Default)]
struct Extensions {
    records: Option<Records>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<S: Source> Tar<S> {
    /// `name` is what errors call the archive. The headers of one member, its long names and
    /// extended records together, may have `most_headers` bytes: they are kept in memory.
    pub(crate) fn new(source: S, name: &str, most_headers: u64) -> Self {
        Self {
            source,
            name: name.to_owned(),
            position: 0,
            content: 0,
            padding: 0,
            headers: 0,
            most_headers,
        }
    }

    /// The next member, or `None` at the end marker or the end of the bytes.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        self.pass(self.content)?;
        self.pass(self.padding)?;
        (self.content, self.padding, self.headers) = (0, 0, 0);
        let mut extensions = Extensions::default();
        let mut is_extended = false;
        loop {
            let Some(header) = self.header()? else {
                if is_extended {
                    return Err(self.wrong("it ends after a long name or extended header"));
                }
                return Ok(None);
            };
            match header.type_flag() {
                b'x' => {
                    let records = self.records(&header)?;
                    self.once(&mut extensions.records, records, "extended headers")?;
                }
                b'g' => self.records(&header)?.refuse_global(&self.name)?,
                b'L' => {
                    let path = self.long_name(&header)?;
                    self.once(&mut extensions.path, path, "long names")?;
                }
                b'K' => {
                    let link = self.long_name(&header)?;
                    self.once(&mut extensions.link, link, "long link names")?;
                }
                _ => return self.member(&header, extensions).map(Some),
            }
            is_extended = header.type_flag() != b'g';
        }
    }

    /// The content of the current member as the archive has it.
    pub(crate) fn content(&mut self) -> Content<'_, S> {
        Content(self)
    }

    /// Where the current member's content begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Where the bytes come from; reading from it leaves the current member.
    pub(crate) fn source(&mut self) -> &mut S {
        &mut self.source
    }

    pub(crate) fn into_source(self) -> S {
        self.source
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member> {
        let records = extensions.records.unwrap_or_default();
        let shown = records.path.as_ref().or(extensions.path.as_ref());
        let shown = shown.map_or_else(|| header.path(), Clone::clone);
        let shown = shown.escape_ascii().to_string();
        let refused = |reason: String| ImageError::Entry {
            entry: shown.clone(),
            reason,
        };
        if (extensions.path.is_some() && records.path.is_some())
            || (extensions.link.is_some() && records.link.is_some())
        {
            return Err(refused("it has two long names".to_owned()));
        }
        let mut member = header.member(records).map_err(refused)?;
        if let Some(path) = extensions.path {
            member.path = path;
        }
        if let Some(link) = extensions.link {
            member.link = link;
        }
        if header.is_gnu_sparse() {
            let map = self.old_sparse(header).map_err(|error| match error {
                ImageError::Malformed { reason, .. } => refused(reason),
                other => other,
            })?;
            member.sparse = Some(map);
        }
        // Old archives mark a directory by its name alone.
        if member.kind == Kind::Regular && member.sparse.is_none() && member.path.ends_with(b"/") {
            member.kind = Kind::Directory;
        }
        // GNU tar and Go see no content behind such a header, other programs do: the next header
        // would be in two places.
        if !matches!(member.kind, Kind::Regular | Kind::Other(_)) && member.size != 0 {
            return Err(refused(format!(
                "it is not a regular file but has {} bytes of content",
                member.size
            )));
        }
        self.content = member.size;
        self.padding = (BLOCK - member.size % BLOCK) % BLOCK;
        Ok(member)
    }

    /// The next header; `None` at the end marker or where the bytes end.
    fn header(&mut self) -> Result<Option<Header>> {
        let Some(block) = self.block(true)? else {
            return Ok(None);
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        Header::new(&block).map(Some).map_err(|r| self.wrong(r))
    }

    fn block(&mut self, may_end: bool) -> Result<Option<Block>> {
        let mut block: Block = [0; 512];
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 && may_end => return Ok(None),
                Ok(0) => return Err(self.wrong("it ends inside a header")),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.wrong(error)),
            }
        }
        self.position += BLOCK;
        self.charge(BLOCK)?;
        Ok(Some(block))
    }

    /// The content of an extension member, in memory.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.size().map_err(|reason| self.wrong(reason))?;
        self.charge(size)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let read = (&mut self.source).take(size).read_to_end(&mut bytes);
        let read = read.map_err(|error| self.wrong(error))? as u64;
        self.position += read;
        if read < size {
            return Err(self.wrong("it ends inside an extended header"));
        }
        self.pass((BLOCK - size % BLOCK) % BLOCK)?;
        Ok(bytes)
    }

    fn records(&mut self, header: &Header) -> Result<Records> {
        let bytes = self.extension(header)?;
        Records::parse(&bytes).map_err(|reason| self.wrong(format!("extended header: {reason}")))
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>> {
        let mut bytes = self.extension(header)?;
        // It ends with a NUL byte, as GNU tar reads it.
        let end = bytes.iter().position(|byte| *byte == 0);
        bytes.truncate(end.unwrap_or(bytes.len()));
        Ok(bytes)
    }

    fn old_sparse(&mut self, header: &Header) -> Result<SparseForm> {
        let mut segments = Vec::new();
        let wrong = |tar: &Self, reason: String| tar.wrong(reason);
        let mut more = header
            .sparse_segments(&mut segments)
            .map_err(|reason| wrong(self, reason))?;
        while more {
            let block = self.block(false)?.expect("it may not end here");
            more = header::more_sparse_segments(&block, &mut segments)
                .map_err(|reason| wrong(self, reason))?;
        }
        let size = header.real_size().map_err(|reason| wrong(self, reason))?;
        Ok(SparseForm::Map { segments, size })
    }

    fn once<T>(&self, place: &mut Option<T>, value: T, what: &str) -> Result<()> {
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.wrong(format!("two {what} for one member"))),
        }
    }

    fn charge(&mut self, bytes: u64) -> Result<()> {
        self.headers = self.headers.saturating_add(bytes);
        if self.headers > self.most_headers {
            return Err(ImageError::TooLarge {
                what: format!("{}: the headers of one entry", self.name),
                limit: format!("{} bytes", self.most_headers),
            });
        }
        Ok(())
    }

    fn pass(&mut self, count: u64) -> Result<()> {
        if count > 0 {
            let passed = self.source.skip(count);
            passed.map_err(|error| self.wrong(error))?;
            self.position += count;
        }
        Ok(())
    }

    fn wrong(&self, reason: impl std::fmt::Display) -> ImageError {
        ImageError::malformed(
            self.name.as_str(),
            format!("{reason} (byte {})", self.position),
        )
    }
}

/// Reads the current member's content; an error when the archive ends inside it.
pub(crate) struct Content<'a, S>(&'a mut Tar<S>);

impl<S: Source> Read for Content<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let tar = &mut *self.0;
        let most = usize::try_from(tar.content).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let length = tar.source.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends inside it",
            ));
        }
        tar.content -= length as u64;
        tar.position += length as u64;
        Ok(length)
    }
}
