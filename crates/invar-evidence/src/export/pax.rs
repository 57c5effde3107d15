//! Tar entries with PAX records (POSIX.1-2001), written byte by byte the same for the same input.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use crate::tree::entry::{Entry, EntryKind, Instant};

/// Tar's unit.
const BLOCK: usize = 512;
/// Bytes of a name that fit into a header.
pub(crate) const SHORT: usize = 100;

/// Writes entries; nothing is written at the end until [`Pax::finish`].
pub(crate) struct Pax<'a> {
    out: &'a mut dyn Write,
}

/// Further records of an entry.
pub(super) type Records = Vec<(String, Vec<u8>)>;

impl<'a> Pax<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// Writes what a container has under this name (no leading slash). `size` bytes of content
    /// follow with [`Pax::content`].
    pub(super) fn entry(
        &mut self,
        name: &[u8],
        entry: &Entry,
        size: u64,
        mut records: Records,
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(match entry.kind {
            EntryKind::File | EntryKind::Socket => EntryType::Regular,
            EntryKind::Directory => EntryType::Directory,
            EntryKind::Symlink => EntryType::Symlink,
            EntryKind::Character => EntryType::Char,
            EntryKind::Block => EntryType::Block,
            EntryKind::Fifo => EntryType::Fifo,
        });
        header.set_mode(entry.mode.into());
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(u64::try_from(entry.mtime.0).unwrap_or(0));
        let (major, minor) = entry.device.unwrap_or((0, 0));
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        if entry.mtime.1 != 0 || entry.mtime.0 < 0 {
            records.push(("mtime".to_owned(), seconds(entry.mtime).into_bytes()));
        }
        if let Some(target) = &entry.target {
            if target.len() <= SHORT {
                header.as_ustar_mut().expect("it was made as one").linkname[..target.len()]
                    .copy_from_slice(target);
            } else {
                records.push(("linkpath".to_owned(), target.clone()));
            }
        }
        let mut name = name.to_vec();
        if entry.kind == EntryKind::Directory {
            name.push(b'/');
        }
        self.write(&name, header, size, records)
    }

    /// Writes a file of our own.
    pub(crate) fn file(&mut self, name: &str, size: u64) -> io::Result<()> {
        self.write(name.as_bytes(), plain_header(), size, Vec::new())
    }

    fn write(
        &mut self,
        name: &[u8],
        mut header: Header,
        size: u64,
        mut records: Records,
    ) -> io::Result<()> {
        let short = &name[..name.len().min(SHORT)];
        header.as_ustar_mut().expect("it was made as one").name[..short.len()]
            .copy_from_slice(short);
        if name.len() > SHORT || std::str::from_utf8(name).is_err() {
            records.push(("path".to_owned(), name.to_vec()));
        }
        header.set_size(size);
        header.set_cksum();
        if !records.is_empty() {
            let mut body = Vec::new();
            for (key, value) in &records {
                record(&mut body, key, value);
            }
            let mut extended = Header::new_ustar();
            extended.set_path("PaxHeaders/entry")?;
            extended.set_entry_type(EntryType::XHeader);
            extended.set_mode(0o644);
            extended.set_size(body.len() as u64);
            extended.set_cksum();
            self.out.write_all(extended.as_bytes())?;
            self.out.write_all(&body)?;
            self.pad(body.len() as u64)?;
        }
        self.out.write_all(header.as_bytes())
    }

    /// Writes exactly `size` bytes and fills the last block.
    pub(crate) fn content(&mut self, source: &mut dyn Read, size: u64) -> io::Result<()> {
        let written = io::copy(&mut source.take(size), self.out)?;
        if written != size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a file became shorter while it was exported",
            ));
        }
        self.pad(size)
    }

    /// As [`Pax::content`], for what writes itself.
    pub(super) fn out(&mut self) -> &mut dyn Write {
        self.out
    }

    pub(super) fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size % BLOCK as u64).expect("less than a block");
        if rest > 0 {
            self.out.write_all(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }

    /// Two empty blocks end an archive.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])
    }
}

fn plain_header() -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The header that [`Pax::file`] writes for a short name.
pub(crate) fn own_header(name: &str, size: u64) -> Header {
    let mut header = plain_header();
    let name = &name.as_bytes()[..name.len().min(SHORT)];
    header.as_ustar_mut().expect("it was made as one").name[..name.len()].copy_from_slice(name);
    header.set_size(size);
    header.set_cksum();
    header
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(body: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    body.extend_from_slice(format!("{length} {key}=").as_bytes());
    body.extend_from_slice(value);
    body.push(b'\n');
}

/// A time as a decimal fraction, negative ones too.
fn seconds(Instant(seconds, nanoseconds): Instant) -> String {
    if seconds < 0 && nanoseconds > 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for (length, expected) in [(1, "6 a=x\n"), (93, ""), (94, "")] {
            let mut body = Vec::new();
            record(&mut body, "a", &vec![b'x'; length]);
            let text = String::from_utf8(body).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, text.len());
            assert!(expected.is_empty() || text == expected, "{text}");
        }
    }

    #[test]
    fn times_before_1970_are_negative() {
        assert_eq!(seconds(Instant(-2, 500_000_000)), "-1.500000000");
        assert_eq!(seconds(Instant(-1, 500_000_000)), "-0.500000000");
        assert_eq!(seconds(Instant(3, 7)), "3.000000007");
    }
}
