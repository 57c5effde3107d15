//! Entry points for the fuzz targets in `/fuzz`, compiled for them alone.

use std::path::Path;

use crate::capture::below::Line;
use crate::capture::processes::Process;
use crate::capture::{changes, log, memory, mounted, processes, timeline};
use crate::header::{self, Header};
use crate::id::EvidenceId;
use crate::seal::key::PublicKey;
use crate::seal::{dsse, sums};
use crate::store::{Evidence, State};
use crate::tree::check;
use crate::tree::entry::Entry;
use crate::tree::list::Reader;
use crate::{archive, custody, report};

const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
    -----END PUBLIC KEY-----\n";

fn key() -> PublicKey {
    PublicKey::from_text(KEY.as_bytes()).expect("it is the key of RFC 8032's first test")
}

/// Reads bytes as an exported archive with a signature beside it.
pub fn archive(bytes: &[u8]) {
    let (signature, archive) = match bytes.split_first() {
        Some((length, rest)) if rest.len() >= usize::from(*length) => {
            rest.split_at(usize::from(*length))
        }
        _ => (&[][..], bytes),
    };
    let found = archive::verify_archive(&mut &*archive, Some(signature), &key());
    assert!(!found.expect("memory is read").is_valid(), "it was forged");
}

/// Reads bytes as each record of evidence.
pub fn records(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    match kind % 10 {
        0 => drop(Header::parse(bytes)),
        1 => drop(serde_json::from_slice::<Line>(bytes)),
        2 => drop(serde_json::from_slice::<Process>(bytes)),
        3 => drop(dsse::verify(&key(), bytes)),
        4 => drop(custody::check(&key(), bytes)),
        5 => memory::fuzz(bytes),
        6 => {
            if let Ok(sums) = sums::parse(bytes) {
                assert_eq!(
                    sums::parse(&sums::format(&sums)).expect("it was read"),
                    sums
                );
            }
        }
        7 => {
            if let Ok(entry) = serde_json::from_slice::<Entry>(bytes) {
                let line = serde_json::to_vec(&entry).expect("an entry is plain data");
                let again: Entry = serde_json::from_slice(&line).expect("it was just written");
                assert_eq!(again, entry);
            }
        }
        8 => with_file(log::NAME, bytes, |dir| drop(log::read(dir))),
        _ => with_file("upper.jsonl", bytes, |dir| {
            let listing = dir.join("upper.jsonl");
            drop(Reader::open(&listing).map(|reader| reader.take(100).count()));
            drop(check::check(dir, &listing, &mut |_, _| Ok(())));
        }),
    }
}

/// Makes a report of evidence whose records are these bytes, split at NUL.
pub fn report(bytes: &[u8]) {
    let names = [
        changes::NAME,
        processes::NAME,
        timeline::NAME,
        mounted::NAME,
        memory::NAME,
        header::NAME,
    ];
    let dir = tempfile::tempdir().expect("there is room");
    for (name, bytes) in names.iter().zip(bytes.split(|byte| *byte == 0)) {
        fs_err::write(dir.path().join(name), bytes).expect("there is room");
    }
    let network = dir.path().join("net/1");
    fs_err::create_dir_all(&network).expect("there is room");
    fs_err::write(network.join("tcp"), bytes).expect("there is room");
    let header = Header::read(dir.path()).ok();
    let evidence = Evidence {
        id: EvidenceId::parse("20260317-091500-3f9a1c").expect("it is one"),
        state: State::Incomplete,
        dir: dir.path().to_owned(),
        header: header.or_else(|| Header::parse(HEADER.as_bytes()).ok()),
    };
    let mut page = Vec::new();
    if report::report(&evidence, &mut page).is_ok() {
        let page = String::from_utf8(page).expect("a page is text");
        for forbidden in ["<script", "href=", "src=", "<img", "\u{1b}"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }
}

const HEADER: &str = r#"{"format":"invar-evidence","version":1,"id":"20260317-091500-3f9a1c",
"container":{"id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","name":"web",
"engine":"embedded","image":"sha256:x","image_name":"x","revision":"r","state":"running",
"created_at":"2026-03-17T09:15:00Z","started_at":null},"plan":{"stop":false,"remove":false,
"tmpfs":true},"begun_at":"2026-03-17T09:15:00Z","booted_at":null,"host":"h","kernel":"k",
"tool":"t"}"#;

fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().expect("there is room");
    fs_err::write(dir.path().join(name), bytes).expect("there is room");
    read(dir.path());
}
