//! Who did what with the evidence: `custody.jsonl`, one signed entry a line, each with the hash of
//! the one before it.
//!
//! The store keeps a second log of the same form, `ledger.jsonl`, with the hash of every entry of
//! every evidence: cutting the end off a custody log, or removing evidence without a trace, shows
//! there.

use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::id::EvidenceId;
use crate::seal::dsse;
use crate::seal::key::{PrivateKey, PublicKey};
use crate::seal::sums;
use crate::store::{Evidence, EvidenceStore};

/// The log's name in the evidence.
pub(crate) const NAME: &str = "custody.jsonl";
/// The store's log.
const LEDGER: &str = "ledger.jsonl";
const PAYLOAD_TYPE: &str = "application/vnd.invar.custody.v1+json";
/// Longest log.
const LONGEST: u64 = 64 << 20;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It was sealed.
    Sealed,
    /// Every byte of it was checked.
    Verified,
    /// It was mounted to be looked at.
    Opened,
    /// A copy of it was written.
    Exported,
    /// A copy without secrets was made.
    Redacted,
    /// It was removed.
    Removed,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Counts from 0.
    pub(crate) number: u64,
    /// When.
    pub(crate) at: Timestamp,
    /// What was done.
    pub(crate) action: Action,
    /// With which evidence.
    pub(crate) evidence: EvidenceId,
    /// SHA-256 of what this entry vouches for: the evidence's `SHA256SUMS`, or, in the ledger, the
    /// entry of the evidence's own log.
    pub(crate) subject: String,
    /// Who: user id, and the id of the login session's user where the kernel knows it.
    pub(crate) by: String,
    /// On which host.
    pub(crate) host: String,
    /// SHA-256 of the entry before it.
    pub(crate) previous: Option<String>,
}

/// A line: the entry's exact bytes, and the signature over them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    entry: &'a RawValue,
    keyid: String,
    sig: String,
}

/// An entry that was checked, and its hash.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) entry: Entry,
    pub(crate) hash: String,
}

/// Starts the log of evidence that is being sealed. A log left by a sealing that was killed was
/// never part of anything and is thrown away.
pub(crate) fn start(
    store: &EvidenceStore,
    key: &PrivateKey,
    dir: &Path,
    id: &EvidenceId,
    sums: &str,
) -> Result<()> {
    let mut ledger = Opened::open(&store.dir().join(LEDGER))?;
    let path = dir.join(NAME);
    files::write(&path, b"")?;
    let hash = Opened::open(&path)?.append(key, id, Action::Sealed, sums)?;
    ledger.append(key, id, Action::Sealed, &hash).map(drop)
}

/// Adds an entry to the log of sealed evidence.
pub(crate) fn append(
    store: &EvidenceStore,
    key: &PrivateKey,
    evidence: &Evidence,
    action: Action,
) -> Result<()> {
    let mut ledger = Opened::open(&store.dir().join(LEDGER))?;
    let sums = sums::hash(&evidence.dir.join(sums::NAME))?;
    let mut log = Opened::open(&evidence.dir.join(NAME))?;
    let hash = log.append(key, &evidence.id, action, &sums)?;
    ledger.append(key, &evidence.id, action, &hash).map(drop)
}

/// The hash the ledger last recorded for this evidence; `None` when it knows nothing of it.
pub(crate) fn in_ledger(
    store: &EvidenceStore,
    key: &PublicKey,
    id: &EvidenceId,
) -> Result<Option<String>> {
    let path = store.dir().join(LEDGER);
    if !path.exists() {
        return Ok(None);
    }
    let entries = check(key, &files::read(&path, LONGEST)?)?;
    let mut of_this = entries.into_iter().map(|checked| checked.entry);
    Ok(of_this
        .rfind(|entry| entry.evidence == *id)
        .map(|entry| entry.subject))
}

/// Reads a log and checks its order, hashes and signatures.
pub(crate) fn check(key: &PublicKey, bytes: &[u8]) -> Result<Vec<Checked>> {
    let mut checked: Vec<Checked> = Vec::new();
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let wrong =
            |reason: String| EvidenceError::malformed(format!("custody log entry {index}"), reason);
        if !line.ends_with(b"\n") {
            return Err(wrong("it is cut off".to_owned()));
        }
        let (line, entry) = parse(line).map_err(|error| wrong(error.to_string()))?;
        let body = line.entry.get().as_bytes();
        let is_signed = BASE64
            .decode(&line.sig)
            .is_ok_and(|sig| key.verify(&dsse::encode(PAYLOAD_TYPE, body), &sig));
        if !is_signed {
            return Err(wrong(format!("it is not signed with the key {}", key.id())));
        }
        let previous = checked.last().map(|checked| &checked.hash);
        if entry.number != index as u64 || entry.previous.as_ref() != previous {
            return Err(wrong("it does not follow the one before it".to_owned()));
        }
        checked.push(Checked {
            entry,
            hash: digest::sha256(body),
        });
    }
    Ok(checked)
}

fn parse(line: &[u8]) -> serde_json::Result<(Line<'_>, Entry)> {
    let line: Line<'_> = serde_json::from_slice(line)?;
    let entry = serde_json::from_str(line.entry.get())?;
    Ok((line, entry))
}

/// A log opened to be added to; nobody else adds meanwhile.
struct Opened {
    file: fs::File,
    next: u64,
    previous: Option<String>,
}

impl Opened {
    fn open(path: &Path) -> Result<Self> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true);
        options.mode(0o600);
        let mut file = options
            .open(path)
            .map_err(EvidenceError::io("open", path))?;
        wait_for_lock(&file).map_err(EvidenceError::io("lock", path))?;
        let mut bytes = Vec::new();
        (&mut file)
            .take(LONGEST)
            .read_to_end(&mut bytes)
            .map_err(EvidenceError::io("read", path))?;
        // An append that a power cut tore has never happened.
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        file.set_len(whole as u64)
            .and_then(|()| file.seek(std::io::SeekFrom::End(0)))
            .map_err(EvidenceError::io("write", path))?;
        let last = bytes[..whole]
            .split_inclusive(|byte| *byte == b'\n')
            .next_back();
        let (next, previous) = match last {
            None => (0, None),
            Some(line) => {
                let (line, entry) = parse(line)
                    .map_err(|error| EvidenceError::malformed(path.display().to_string(), error))?;
                let hash = digest::sha256(line.entry.get().as_bytes());
                (entry.number + 1, Some(hash))
            }
        };
        Ok(Self {
            file,
            next,
            previous,
        })
    }

    /// Adds an entry; its hash.
    fn append(
        &mut self,
        key: &PrivateKey,
        id: &EvidenceId,
        action: Action,
        subject: &str,
    ) -> Result<String> {
        let entry = Entry {
            number: self.next,
            at: Timestamp::now(),
            action,
            evidence: id.clone(),
            subject: subject.to_owned(),
            by: who(),
            host: host(),
            previous: self.previous.clone(),
        };
        let body = serde_json::to_string(&entry).expect("an entry is plain data");
        let signature = key.sign(&dsse::encode(PAYLOAD_TYPE, body.as_bytes()));
        let hash = digest::sha256(body.as_bytes());
        let line = Line {
            entry: &RawValue::from_string(body).expect("it was just written as JSON"),
            keyid: key.public().id(),
            sig: BASE64.encode(signature),
        };
        let mut bytes = serde_json::to_vec(&line).expect("a line is plain data");
        bytes.push(b'\n');
        self.file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_all())
            .map_err(EvidenceError::io("write", self.file.path()))?;
        self.next += 1;
        self.previous = Some(hash.clone());
        Ok(hash)
    }
}

/// Locks are held for the time of two short writes.
fn wait_for_lock(file: &fs::File) -> std::io::Result<()> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !invar_sys::lock::try_lock(file)? {
        if std::time::Instant::now() > deadline {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

fn who() -> String {
    let uid = rustix::process::getuid().as_raw();
    let login = files::read_start("/proc/self/loginuid".as_ref(), 32)
        .ok()
        .and_then(|(text, _)| String::from_utf8(text).ok()?.trim().parse::<u32>().ok())
        // The kernel's "not set".
        .filter(|login| *login != u32::MAX);
    match login {
        Some(login) => format!("uid {uid}, logged in as uid {login}"),
        None => format!("uid {uid}"),
    }
}

fn host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_of(count: usize) -> (tempfile::TempDir, PublicKey, Vec<String>) {
        let stage = tempfile::tempdir().unwrap();
        let key = PrivateKey::load_or_create(stage.path()).unwrap();
        let id = EvidenceId::at(Timestamp::UNIX_EPOCH);
        let path = stage.path().join(NAME);
        for _ in 0..count {
            let mut log = Opened::open(&path).unwrap();
            log.append(&key, &id, Action::Verified, "subject").unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.split_inclusive('\n').map(str::to_owned).collect();
        (stage, key.public(), lines)
    }

    #[test]
    fn a_rewritten_log_is_detected() {
        let (_stage, key, lines) = log_of(3);
        let whole = lines.concat();
        assert_eq!(check(&key, whole.as_bytes()).unwrap().len(), 3);
        let table = [
            ("an entry edited", whole.replacen("verified", "exported", 1)),
            ("the first removed", lines[1..].concat()),
            ("the middle removed", format!("{}{}", lines[0], lines[2])),
            (
                "two swapped",
                format!("{}{}{}", lines[0], lines[2], lines[1]),
            ),
            ("one repeated", format!("{}{}", lines[0], whole)),
            ("cut off", whole.trim_end().to_owned()),
            (
                "spaces added",
                whole.replacen("\"entry\":{", "\"entry\":{ ", 1),
            ),
        ];
        for (what, text) in table {
            assert!(check(&key, text.as_bytes()).is_err(), "{what}");
        }
    }

    #[test]
    fn an_append_torn_by_a_power_cut_is_taken_back() {
        let (stage, key, lines) = log_of(2);
        let path = stage.path().join(NAME);
        fs::write(&path, format!("{}{}", lines[0], &lines[1][..40])).unwrap();
        let private = PrivateKey::load_or_create(stage.path()).unwrap();
        let id = EvidenceId::at(Timestamp::UNIX_EPOCH);
        let mut log = Opened::open(&path).unwrap();
        log.append(&private, &id, Action::Opened, "subject")
            .unwrap();
        assert_eq!(check(&key, &fs::read(&path).unwrap()).unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_log_or_an_error(bytes: Vec<u8>) {
            let trust = tempfile::tempdir().unwrap();
            let key = PrivateKey::load_or_create(trust.path()).unwrap().public();
            prop_assert!(check(&key, &bytes).is_err() || bytes.is_empty());
        }
    }
}
