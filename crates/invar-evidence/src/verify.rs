//! Whether evidence is, byte for byte, what was sealed.
//!
//! Everything is looked at, and every difference is reported: a flipped, missing or added byte or
//! file, changed metadata, a rewritten custody log, a signature of another key.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use crate::capture::mounted;
use crate::capture::upper::{RAW, listing};
use crate::custody;
use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::header::{self, Header};
use crate::seal::dsse;
use crate::seal::key::PublicKey;
use crate::seal::sums::{self, Sums};
use crate::store::{Evidence, EvidenceStore, State};
use crate::tree::check;

/// Most problems reported; one is enough to make evidence invalid.
const MOST: usize = 1000;

/// What a verification found.
#[derive(Debug, Default, Serialize)]
pub struct Verification {
    /// What is wrong; none when the evidence is what was sealed.
    pub problems: Vec<Problem>,
    /// Whether there are more problems than are listed.
    pub has_more: bool,
    /// Files checked, those of the container included.
    pub files: u64,
    /// Entries of the custody log.
    pub custody: usize,
    /// The key it was checked with.
    pub key: String,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A file of the evidence, or a path of the container in one of its trees; escaped.
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn add(&mut self, what: &str, reason: impl Into<String>) {
        if self.problems.len() < MOST {
            self.problems.push(Problem {
                what: what.to_owned(),
                reason: reason.into(),
            });
        } else {
            self.has_more = true;
        }
    }
}

/// Verifies sealed evidence of a store with this key.
pub fn verify(store: &EvidenceStore, evidence: &Evidence, key: &PublicKey) -> Result<Verification> {
    if evidence.state != State::Sealed {
        return Err(EvidenceError::NotSealed {
            id: evidence.id.to_string(),
        });
    }
    let mut found = Verification {
        key: key.id(),
        ..Verification::default()
    };
    let dir = &evidence.dir;
    match Header::read(dir) {
        Ok(header) if header.id != evidence.id => {
            found.add(header::NAME, format!("it is of evidence {}", header.id));
        }
        // What is wrong with its bytes is found below; a newer format cannot be judged at all.
        Err(error @ EvidenceError::TooNew { .. }) => return Err(error),
        _ => {}
    }
    let sums = signed(dir, key, &mut found);
    if let Some(sums) = &sums {
        compare_files(dir, sums, &mut found)?;
        compare_trees(dir, sums, &mut found)?;
    }
    let entries = custody_log(dir, evidence, key, &mut found);
    match custody::in_ledger(store, key, &evidence.id) {
        Ok(Some(last)) if !entries.contains(&last) => {
            found.add(custody::NAME, "its end was cut off: the ledger knows more");
        }
        Ok(_) => {}
        Err(error) => found.add("ledger.jsonl", error.chain()),
    }
    Ok(found)
}

/// The list of sums, if the signature says it is the sealed one.
fn signed(dir: &Path, key: &PublicKey, found: &mut Verification) -> Option<Sums> {
    let envelope = files::read(&dir.join(dsse::NAME), dsse::LONGEST);
    let sealed = match envelope.and_then(|bytes| dsse::verify(key, &bytes)) {
        Ok(sealed) => sealed,
        Err(error) => {
            found.add(dsse::NAME, error.chain());
            return None;
        }
    };
    let mut sums = None;
    for name in [sums::NAME, header::NAME] {
        let signed = sealed.subjects.iter().find(|(subject, _)| subject == name);
        let actual = files::read(&dir.join(name), sums::LONGEST);
        match (signed, actual) {
            (Some((_, expected)), Ok(bytes)) if digest::sha256(&bytes) == *expected => {
                if name == sums::NAME {
                    sums = Some(bytes);
                }
            }
            (_, Ok(_)) => found.add(name, "it is not what was signed"),
            (_, Err(error)) => found.add(name, error.chain()),
        }
    }
    match sums::parse(&sums?) {
        Ok(sums) => Some(sums),
        Err(error) => {
            found.add(sums::NAME, error.chain());
            None
        }
    }
}

fn compare_files(dir: &Path, sums: &Sums, found: &mut Verification) -> Result<()> {
    let wrong: Vec<(&String, String)> = sums
        .par_iter()
        .filter_map(|(name, expected)| match sums::hash(&dir.join(name)) {
            Ok(actual) if actual == *expected => None,
            Ok(_) => Some((name, "changed".to_owned())),
            Err(_) if !dir.join(name).exists() => Some((name, "missing".to_owned())),
            Err(error) => Some((name, error.chain())),
        })
        .collect();
    for (name, reason) in wrong {
        found.add(name, reason);
    }
    found.files += sums.len() as u64;
    match sums::list(dir) {
        Ok(names) => {
            for name in names.iter().filter(|name| !sums.contains_key(*name)) {
                found.add(name, "not in the evidence as it was sealed");
            }
        }
        Err(error @ EvidenceError::Io { .. }) => return Err(error),
        Err(error) => found.add("files", error.chain()),
    }
    Ok(())
}

/// Every tree below `raw/` must be what its listing says, and have one.
fn compare_trees(dir: &Path, sums: &Sums, found: &mut Verification) -> Result<()> {
    let raw = dir.join(RAW);
    let mut trees: Vec<String> = Vec::new();
    for name in sums.keys() {
        let tree = name.strip_suffix(".jsonl").unwrap_or_default();
        if is_tree(tree) {
            trees.push(tree.to_owned());
        }
    }
    if raw.exists() {
        let entries = fs_err::read_dir(&raw).map_err(EvidenceError::io("list", &raw))?;
        for entry in entries {
            let name = entry.map_err(EvidenceError::io("list", &raw))?.file_name();
            if !trees.iter().any(|tree| name == tree.as_str()) {
                let shown = name.as_encoded_bytes().escape_ascii();
                found.add(
                    &format!("{RAW}/{shown}"),
                    "not in the evidence as it was sealed",
                );
            }
        }
    }
    for tree in trees {
        let checked = check::check(
            &raw.join(&tree),
            &listing(dir, &tree),
            &mut |path, reason| {
                let what = format!("{RAW}/{tree}{}", crate::text::shown(path));
                found.add(&what, reason);
                Ok(())
            },
        );
        match checked {
            Ok(checked) => found.files += checked,
            Err(error) => found.add(&format!("{tree}.jsonl"), error.chain()),
        }
    }
    Ok(())
}

/// Whether a listing of this name is one of a tree.
fn is_tree(name: &str) -> bool {
    name == "upper" || mounted::is_tree(name)
}

/// The hashes of the custody log's entries, as far as it is right.
fn custody_log(
    dir: &Path,
    evidence: &Evidence,
    key: &PublicKey,
    found: &mut Verification,
) -> Vec<String> {
    let log = files::read(&dir.join(custody::NAME), sums::LONGEST);
    let entries = match log.and_then(|bytes| custody::check(key, &bytes)) {
        Ok(entries) => entries,
        Err(error) => {
            found.add(custody::NAME, error.chain());
            return Vec::new();
        }
    };
    found.custody = entries.len();
    let sealed = sums::hash(&dir.join(sums::NAME)).ok();
    let is_of_this = entries.iter().all(|checked| {
        checked.entry.evidence == evidence.id && Some(&checked.entry.subject) == sealed.as_ref()
    });
    if entries.is_empty() {
        found.add(custody::NAME, "it is empty");
    } else if !is_of_this {
        found.add(custody::NAME, "it is of other evidence");
    }
    entries.into_iter().map(|checked| checked.hash).collect()
}
