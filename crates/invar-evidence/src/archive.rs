//! Whether an exported archive is, byte for byte, what was written and signed.
//!
//! It is read once, from the beginning, and nothing is unpacked. Every byte is accounted for: the
//! headers have one form only, contents have their sums, the list of sums is signed, padding is
//! zero. A signature beside the archive says the same of the whole file.

use std::collections::BTreeMap;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use tar::Header;

use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::export::pax;
use crate::seal::dsse;
use crate::seal::key::PublicKey;
use crate::seal::sums;
use crate::verify::Verification;

/// The signature of the list of sums, in the archive.
pub(crate) const SIGNATURE: &str = "SHA256SUMS.dsse.json";
const INDEX: &str = "index.json";
/// Tar's unit.
const BLOCK: usize = 512;
/// Most entries read; an archive of evidence has a few dozen.
const MOST: usize = 100_000;
/// Longest signature beside an archive that is read.
pub const LONGEST_SIGNATURE: u64 = dsse::LONGEST;

/// Checks an archive with this key, and with the signature beside it when there is one.
pub fn verify_archive(
    archive: &mut dyn Read,
    signature: Option<&[u8]>,
    key: &PublicKey,
) -> Result<Verification> {
    let mut found = Verification {
        key: key.id(),
        ..Verification::default()
    };
    let mut reading = Reading {
        source: archive,
        hash: Sha256::new(),
    };
    let contents = match Contents::read(&mut reading) {
        Ok(contents) => contents,
        Err(Stop::Malformed(reason)) => {
            found.add("archive", reason);
            Contents::default()
        }
        Err(Stop::Unreadable(error)) => {
            return Err(EvidenceError::io("read", "the archive")(error));
        }
    };
    let whole = reading.finish();
    let whole = whole.map_err(EvidenceError::io("read", "the archive"))?;
    if found.is_valid() {
        contents.check(key, &mut found);
    }
    if let Some(signature) = signature {
        match dsse::verify(key, signature) {
            Ok(sealed) if sealed.subjects.iter().any(|(_, digest)| *digest == whole) => {}
            Ok(_) => found.add(
                "signature",
                "it is of another archive, or this one was changed",
            ),
            Err(error) => found.add("signature", error.chain()),
        }
    }
    Ok(found)
}

/// What is in an archive.
#[derive(Default)]
struct Contents {
    /// Names and SHA-256.
    files: BTreeMap<String, String>,
    sums: Vec<u8>,
    signature: Vec<u8>,
}

/// Why reading ended early.
enum Stop {
    Malformed(String),
    Unreadable(io::Error),
}

impl Contents {
    fn read(reading: &mut Reading<'_>) -> std::result::Result<Self, Stop> {
        let malformed = |reason: &str| Err(Stop::Malformed(reason.to_owned()));
        let mut contents = Self::default();
        while let Some((name, size)) = reading.entry()? {
            if contents.files.len() >= MOST {
                return malformed("it has more entries than any export");
            }
            let limit = match name.as_str() {
                sums::NAME => sums::LONGEST,
                SIGNATURE => dsse::LONGEST,
                _ => 0,
            };
            if limit > 0 && size > limit {
                return malformed("its list of sums or signature is too long");
            }
            let mut kept = Vec::new();
            let digest = reading.content(size, (limit > 0).then_some(&mut kept))?;
            match name.as_str() {
                sums::NAME => contents.sums = kept,
                SIGNATURE => contents.signature = kept,
                _ => {}
            }
            if contents.files.insert(name, digest).is_some() {
                return malformed("a name is in it twice");
            }
        }
        Ok(contents)
    }

    fn check(mut self, key: &PublicKey, found: &mut Verification) {
        let of_sums = self.files.remove(sums::NAME);
        self.files.remove(SIGNATURE);
        match dsse::verify(key, &self.signature) {
            Ok(sealed) => {
                let index = self.files.get(INDEX);
                for (name, actual) in [(sums::NAME, of_sums.as_ref()), (INDEX, index)] {
                    let mut signed = sealed.subjects.iter();
                    let signed = signed.find(|(subject, _)| subject == name);
                    if signed.map(|(_, digest)| digest) != actual || actual.is_none() {
                        found.add(name, "it is not what was signed");
                    }
                }
            }
            Err(error) => found.add(SIGNATURE, error.chain()),
        }
        let expected = match sums::parse(&self.sums) {
            Ok(expected) => expected,
            Err(error) => return found.add(sums::NAME, error.chain()),
        };
        found.files = self.files.len() as u64;
        for (name, digest) in &self.files {
            match expected.get(name) {
                Some(expected) if expected == digest => {}
                Some(_) => found.add(name, "changed"),
                None => found.add(name, "not in the archive as it was written"),
            }
            if let Some(named) = name.strip_prefix("blobs/sha256/")
                && named != digest
            {
                found.add(name, "its name is not the digest of its content");
            }
        }
        for name in expected
            .keys()
            .filter(|name| !self.files.contains_key(*name))
        {
            found.add(name, "missing");
        }
    }
}

/// Reads and hashes.
struct Reading<'a> {
    source: &'a mut dyn Read,
    hash: Sha256,
}

impl Reading<'_> {
    /// The name and size of the next entry; `None` at the end.
    fn entry(&mut self) -> std::result::Result<Option<(String, u64)>, Stop> {
        let malformed = |reason: &str| Stop::Malformed(reason.to_owned());
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        if block == [0; BLOCK] {
            self.fill(&mut block)?;
            let is_end = block == [0; BLOCK] && self.some(&mut [0; 1])? == 0;
            return if is_end {
                Ok(None)
            } else {
                Err(malformed("there is something after its end"))
            };
        }
        let header = Header::from_byte_slice(&block);
        let name = header.path_bytes();
        let name = std::str::from_utf8(&name).ok().map(str::to_owned);
        let name = name.filter(|name| name.is_ascii() && name.len() <= pax::SHORT);
        let (Some(name), Ok(size)) = (name, header.entry_size()) else {
            return Err(malformed("a header is not one of an export"));
        };
        // An export writes a name and size in one way only.
        if pax::own_header(&name, size).as_bytes() != &block {
            return Err(malformed("a header is not as an export writes it"));
        }
        Ok(Some((name, size)))
    }

    /// The digest of an entry's bytes, which are kept when asked for.
    fn content(
        &mut self,
        size: u64,
        mut kept: Option<&mut Vec<u8>>,
    ) -> std::result::Result<String, Stop> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let length = self.some(&mut buffer[..wanted])?;
            if length == 0 {
                return Err(Stop::Malformed("it was cut off".to_owned()));
            }
            hash.update(&buffer[..length]);
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(&buffer[..length]);
            }
            left -= length as u64;
        }
        let padding =
            usize::try_from(size.next_multiple_of(BLOCK as u64) - size).expect("less than a block");
        let mut zeros = [0; BLOCK];
        self.fill(&mut zeros[..padding])?;
        if zeros[..padding].iter().any(|byte| *byte != 0) {
            let reason = "there is something between two of its files";
            return Err(Stop::Malformed(reason.to_owned()));
        }
        Ok(digest::hex(&hash.finalize()))
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> std::result::Result<(), Stop> {
        while !buffer.is_empty() {
            let length = self.some(buffer)?;
            if length == 0 {
                return Err(Stop::Malformed("it was cut off".to_owned()));
            }
            buffer = &mut buffer[length..];
        }
        Ok(())
    }

    fn some(&mut self, buffer: &mut [u8]) -> std::result::Result<usize, Stop> {
        loop {
            match self.source.read(buffer) {
                Ok(length) => {
                    self.hash.update(&buffer[..length]);
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Unreadable(error)),
            }
        }
    }

    /// The digest of everything, also of what was not understood.
    fn finish(mut self) -> io::Result<String> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.some(&mut buffer) {
                Ok(0) => return Ok(digest::hex(&self.hash.finalize())),
                Ok(_) => {}
                Err(Stop::Unreadable(error)) => return Err(error),
                Err(Stop::Malformed(reason)) => return Err(io::Error::other(reason)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::export::pax::Pax;
    use crate::seal::dsse::Sealed;
    use crate::seal::key::PrivateKey;

    fn archive(key: &PrivateKey) -> Vec<u8> {
        let blob = b"some bytes".as_slice();
        let blob_name = format!("blobs/sha256/{}", digest::sha256(blob));
        let index = b"{}".as_slice();
        let sums: sums::Sums = [
            (blob_name.clone(), digest::sha256(blob)),
            (INDEX.to_owned(), digest::sha256(index)),
        ]
        .into();
        let list = sums::format(&sums);
        let sealed = Sealed {
            subjects: vec![
                (sums::NAME.to_owned(), digest::sha256(&list)),
                (INDEX.to_owned(), digest::sha256(index)),
            ],
            predicate: json!({}),
        };
        let signature = dsse::sign(key, &sealed);
        let mut bytes = Vec::new();
        let mut tar = Pax::new(&mut bytes);
        for (name, content) in [
            (blob_name.as_str(), blob),
            (INDEX, index),
            (sums::NAME, &list),
            (SIGNATURE, &signature),
        ] {
            let size = content.len() as u64;
            tar.file(name, size).unwrap();
            tar.content(&mut &*content, size).unwrap();
        }
        tar.finish().unwrap();
        bytes
    }

    #[test]
    fn a_flip_of_any_byte_outside_the_signatures_own_file_is_noticed() {
        let trust = tempfile::tempdir().unwrap();
        let key = PrivateKey::load_or_create(trust.path()).unwrap();
        let bytes = archive(&key);
        let public = key.public();
        let verify = |bytes: &[u8]| verify_archive(&mut &*bytes, None, &public).unwrap();
        assert!(verify(&bytes).is_valid(), "{:?}", verify(&bytes));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let is_noticed = !verify(&changed).is_valid();
            // The envelope's own form is not signed; what it says is.
            let in_signature = (4 * 1024..bytes.len() - 1024).contains(&at);
            assert!(is_noticed || in_signature, "byte {at}");
        }
        for end in [0, 1, 511, 512, bytes.len() - 512, bytes.len() - 1] {
            assert!(!verify(&bytes[..end]).is_valid(), "cut at {end}");
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        assert!(!verify(&longer).is_valid());
    }

    #[test]
    fn a_signature_beside_the_archive_covers_every_byte() {
        let trust = tempfile::tempdir().unwrap();
        let key = PrivateKey::load_or_create(trust.path()).unwrap();
        let bytes = archive(&key);
        let of = |bytes: &[u8]| {
            let subject = ("a.tar".to_owned(), digest::sha256(bytes));
            let sealed = Sealed {
                subjects: vec![subject],
                predicate: json!({}),
            };
            dsse::sign(&key, &sealed)
        };
        let verify = |signature: &[u8]| {
            verify_archive(&mut bytes.as_slice(), Some(signature), &key.public()).unwrap()
        };
        assert!(verify(&of(&bytes)).is_valid());
        assert!(!verify(&of(b"other")).is_valid());
        assert!(!verify(b"{}").is_valid());
    }
}
