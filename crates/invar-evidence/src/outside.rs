//! Every reader of what may come from outside: any bytes are a value or an error, and a changed
//! byte of something signed is never believed.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use crate::capture::below::Line;
use crate::capture::log::{self, Record};
use crate::capture::processes::Process;
use crate::digest::ContentDigest;
use crate::header::Header;
use crate::seal::dsse::{self, Sealed};
use crate::seal::key::PrivateKey;
use crate::tree::entry::{Entry, EntryKind, Instant};

fn entry(path: Vec<u8>, target: Option<Vec<u8>>) -> Entry {
    Entry {
        path,
        kind: EntryKind::Symlink,
        mode: 0o777,
        uid: 1,
        gid: 2,
        size: 3,
        device: None,
        mtime: Instant(-1, 999_999_999),
        atime: Instant(0, 0),
        ctime: Instant(i64::MAX, 0),
        btime: None,
        inode: u64::MAX,
        links: 1,
        attributes: [("user.\\xff".to_owned(), "eQ==".to_owned())].into(),
        target,
        digest: Some(ContentDigest::Sparse("ab".repeat(32))),
    }
}

/// A path as the walk makes them.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::collection::vec(
        any::<u8>().prop_filter("a name", |b| !b"/\0".contains(b)),
        1..9,
    )
    .prop_filter("no dots", |name| name != b"." && name != b"..");
    prop::collection::vec(name, 1..5).prop_map(|names| {
        let joined = names.join(&b'/');
        [b"/".as_slice(), &joined].concat()
    })
}

#[test]
fn a_header_of_a_newer_format_is_told_from_a_damaged_one() {
    let parse = |value: serde_json::Value| {
        let error = Header::parse(value.to_string().as_bytes()).unwrap_err();
        error.to_string()
    };
    let format = "invar-evidence";
    let newer = parse(json!({"format": format, "version": 2, "body": [1, 2, 3]}));
    assert!(newer.contains("needs a newer invar"), "{newer}");
    let features = json!({"incompatible": ["encrypted"]});
    let feature = parse(json!({"format": format, "version": 1, "features": features}));
    assert!(feature.contains("\"encrypted\""), "{feature}");
    let other = parse(json!({"format": "something", "version": 1}));
    assert!(other.contains("malformed"), "{other}");
}

proptest! {
    #[test]
    fn any_bytes_are_a_value_or_an_error(bytes: Vec<u8>) {
        drop(Header::parse(&bytes));
        drop(serde_json::from_slice::<Entry>(&bytes));
        drop(serde_json::from_slice::<Line>(&bytes));
        drop(serde_json::from_slice::<Process>(&bytes));
        drop(serde_json::from_slice::<Record>(&bytes));
        let stage = tempfile::tempdir().unwrap();
        fs_err::write(stage.path().join(log::NAME), &bytes).unwrap();
        drop(log::read(stage.path()));
    }

    #[test]
    fn an_entry_with_any_names_is_read_back(path in path(), target: Option<Vec<u8>>) {
        let entry = entry(path, target);
        let line = serde_json::to_vec(&entry).unwrap();
        prop_assert!(!line.contains(&b'\n'));
        prop_assert_eq!(serde_json::from_slice::<Entry>(&line).unwrap(), entry);
    }

    #[test]
    fn a_changed_byte_of_a_seal_is_never_believed(at: prop::sample::Index, flip in 1_u8..) {
        let trust = tempfile::tempdir().unwrap();
        let key = PrivateKey::load_or_create(trust.path()).unwrap();
        let sealed = Sealed {
            subjects: vec![("SHA256SUMS".to_owned(), "ab".repeat(32))],
            predicate: json!({"at": Timestamp::UNIX_EPOCH}),
        };
        let mut bytes = dsse::sign(&key, &sealed);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // The key's name is a hint, and so is white space: the same thing is said then.
        if let Ok(believed) = dsse::verify(&key.public(), &bytes) {
            prop_assert_eq!(believed, sealed);
        }
    }
}
