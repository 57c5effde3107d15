//! `SHA256SUMS`: every file of the evidence, as `sha256sum` writes and checks it.
//!
//! The trees below `raw/` are covered through their listings, which are among these files.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use rayon::prelude::*;

use crate::custody;
use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::seal::dsse;
use crate::store::LOCK;
use crate::tree::open_regular;

/// Its name in the evidence.
pub(crate) const NAME: &str = "SHA256SUMS";
/// Longest list.
pub(crate) const LONGEST: u64 = 64 << 20;
/// What is not in it: itself, what signs it, what is added to after sealing.
const APART: &[&str] = &[
    NAME,
    dsse::NAME,
    custody::NAME,
    LOCK,
    crate::capture::upper::RAW,
];
/// Directories in the evidence, apart from `raw/`, are at most so deep.
const DEEPEST: usize = 4;

/// Relative names and their SHA-256.
pub(crate) type Sums = BTreeMap<String, String>;

/// Hashes every file of the evidence.
pub(crate) fn compute(dir: &Path) -> Result<Sums> {
    let names = list(dir)?;
    names
        .into_par_iter()
        .map(|name| {
            let digest = hash(&dir.join(&name))?;
            Ok((name, digest))
        })
        .collect()
}

pub(crate) fn hash(path: &Path) -> Result<String> {
    let file = open_regular(path)?;
    let reader = file
        .as_fd()
        .try_clone_to_owned()
        .map_err(EvidenceError::io("read", path))?;
    let (digest, _) = digest::sha256_reader(std::fs::File::from(reader))
        .map_err(EvidenceError::io("read", path))?;
    Ok(digest)
}

/// The names of everything but directories, sorted. Links are listed, not followed: hashing
/// refuses them.
pub(crate) fn list(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut pending = vec![(PathBuf::new(), 0)];
    while let Some((below, depth)) = pending.pop() {
        let place = dir.join(&below);
        let failed = || EvidenceError::io("list", &place);
        for entry in fs::read_dir(&place).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let file_name = entry.file_name();
            let Some(name) = below.join(&file_name).to_str().map(str::to_owned) else {
                return Err(strange(&below.join(&file_name)));
            };
            if depth == 0 && APART.contains(&name.as_str()) {
                continue;
            }
            if name.contains(['\n', '\\', '\r']) {
                return Err(strange(&below.join(&file_name)));
            }
            if entry.file_type().map_err(failed())?.is_dir() {
                if depth >= DEEPEST {
                    return Err(strange(&below.join(&file_name)));
                }
                pending.push((below.join(&file_name), depth + 1));
            } else {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

fn strange(name: &Path) -> EvidenceError {
    let shown = name.as_os_str().as_encoded_bytes().escape_ascii();
    EvidenceError::malformed(shown.to_string(), "no capture makes such a name")
}

/// The text of the list.
pub(crate) fn format(sums: &Sums) -> Vec<u8> {
    let mut text = String::new();
    for (name, digest) in sums {
        text.push_str(digest);
        text.push_str("  ");
        text.push_str(name);
        text.push('\n');
    }
    text.into_bytes()
}

/// Reads a list strictly: sorted, no name twice, nothing that leads out of the evidence.
pub(crate) fn parse(bytes: &[u8]) -> Result<Sums> {
    let malformed = |reason: String| EvidenceError::malformed(NAME, reason);
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    let mut sums = Sums::new();
    for (index, line) in text.lines().enumerate() {
        let parsed = line.split_once("  ").filter(|(digest, name)| {
            let is_plain = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
            digest::is_sha256(digest) && is_plain && !APART.contains(name)
        });
        let Some((digest, name)) = parsed else {
            return Err(malformed(format!("line {} is not a sum", index + 1)));
        };
        if sums
            .last_key_value()
            .is_some_and(|(last, _)| last.as_str() >= name)
        {
            return Err(malformed(format!("line {} is out of order", index + 1)));
        }
        sums.insert(name.to_owned(), digest.to_owned());
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_lists_are_refused() {
        let sum = "ab".repeat(32);
        for text in [
            format!("{sum}  ../../etc/passwd\n"),
            format!("{sum}  /etc/passwd\n"),
            format!("{sum}  a//b\n"),
            format!("{sum}  b\n{sum}  a\n"),
            format!("{sum}  a\n{sum}  a\n"),
            format!("{sum}  SHA256SUMS\n"),
            format!("{sum} a\n"),
            "zz  a\n".to_owned(),
            "\n".to_owned(),
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_an_error(bytes: Vec<u8>) {
            if let Ok(sums) = parse(&bytes) {
                prop_assert_eq!(parse(&format(&sums)).unwrap(), sums);
            }
        }
    }
}
