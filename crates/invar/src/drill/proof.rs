//! The attacked container becomes evidence, a fresh one takes its place, and the evidence is put
//! to the test.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use fs_err as fs;
use invar_engine::{Engine as _, EngineError};
use invar_evidence::{
    Evidence, EvidenceId, EvidenceStore, Order, PublicKey, ReplaceOptions, Replacement,
    Verification,
};
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};

use super::attack::PROGRAM;
use super::comparison;
use super::report::Step;
use super::site::Site;
use super::stage::Stage;
use super::target::Target;

/// What the container had written, in its evidence.
const UPPER: &str = "raw/upper";
/// The kernel's limit on an entry's attributes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const LONGEST_ATTRIBUTES: usize = 64 * 1024;

/// Captures the attacked container and puts a fresh one in its place; the evidence and the fresh
/// one.
pub(super) fn replace<'e>(
    stage: &Stage,
    target: &Target,
    attacked: &Site<'e>,
    step: &mut Step,
) -> anyhow::Result<(EvidenceId, Site<'e>)> {
    stage.go_on()?;
    let engine = stage.engine();
    let store = EvidenceStore::open(stage.root())?;
    let old = engine.inspect(attacked.id().as_str())?;
    let done = invar_evidence::replace(
        &store,
        &**engine,
        &old,
        &ReplaceOptions::default(),
        None,
        &mut |_| {},
    )?;
    let new = engine.inspect(done.new.as_str())?;
    let fresh = attacked.replaced_by(new.id.clone());
    let evidence = done.evidence.clone();
    show_times(&done, step);
    step.claim(evidence.is_some(), "what was there is kept as evidence");
    step.claim(
        new.revision == old.revision && new.name == old.name,
        "the fresh container has its name and its revision",
    );
    step.claim(
        fresh.serves(target.page_content()),
        "visitors get the page as built again",
    );
    step.claim(
        comparison::changes(target, &fresh)?.is_empty(),
        "nothing of the attack is in it",
    );
    let gone = engine.inspect(old.id.as_str());
    step.claim(
        matches!(gone, Err(EngineError::NotFound { .. })),
        "the attacked container is gone",
    );
    let evidence = evidence.context("the replacement kept no evidence")?;
    Ok((evidence, fresh))
}

fn show_times(done: &Replacement, step: &mut Step) {
    if let Some(evidence) = &done.evidence {
        step.show(&format!("evidence {evidence}"));
    }
    if let Some(frozen) = done.frozen_ms {
        step.show(&format!(
            "frozen for {frozen} ms, then killed without a chance to clean up"
        ));
    }
    let gap = match &done.order {
        Order::FreshFirst => "no gap".to_owned(),
        Order::OldFirst { because } => format!("gap of {} ms, because {because}", done.gap_ms),
    };
    step.show(&format!(
        "fresh container up after {} ms, {gap}",
        done.fresh_ms
    ));
}

/// Checks the evidence, and that the attacker's program is in it byte for byte.
pub(super) fn verify(stage: &Stage, id: &EvidenceId, step: &mut Step) -> anyhow::Result<()> {
    stage.go_on()?;
    let (store, evidence) = open(stage.root(), id)?;
    let key = key(stage)?;
    let found = invar_evidence::verify(&store, &evidence, &key)?;
    step.claim(
        found.is_valid(),
        format!("every byte is as it was sealed: {} files", found.files),
    );
    let kept = fs::read(
        evidence
            .dir
            .join(UPPER)
            .join(PROGRAM.trim_start_matches('/')),
    )?;
    step.claim(
        kept == fs::read("/proc/self/exe")?,
        "the program that was dropped is in it, byte for byte",
    );
    Ok(())
}

/// One way to falsify evidence: in words, the file, and what is done to it.
struct Forgery {
    text: &'static str,
    file: String,
    forge: fn(&Path) -> io::Result<()>,
}

fn forgeries(target: &Target) -> Vec<Forgery> {
    vec![
        Forgery {
            text: "one bit of the edited page",
            file: format!("{UPPER}{}", target.page()),
            forge: flip_bit,
        },
        Forgery {
            text: "a line of the list of changes",
            file: "changes.jsonl".to_owned(),
            forge: cut_last_line,
        },
        Forgery {
            text: "the log of who had it",
            file: "custody.jsonl".to_owned(),
            forge: cut_last_line,
        },
    ]
}

/// Falsifies a copy in several ways; each must be noticed and named.
pub(super) fn tamper(
    stage: &Stage,
    target: &Target,
    id: &EvidenceId,
    step: &mut Step,
) -> anyhow::Result<()> {
    let copy_root = stage.root().join("copy");
    copy(&stage.root().join("evidence"), &copy_root.join("evidence"))?;
    let (store, evidence) = open(&copy_root, id)?;
    let key = key(stage)?;
    let check = || -> anyhow::Result<Verification> {
        stage.go_on()?;
        Ok(invar_evidence::verify(&store, &evidence, &key)?)
    };
    step.claim(check()?.is_valid(), "a copy is as good as the original");
    let forgeries = forgeries(target);
    for forgery in &forgeries {
        (forgery.forge)(&evidence.dir.join(&forgery.file))?;
    }
    let found = check()?;
    for problem in &found.problems {
        step.show(&format!("{}: {}", problem.what, problem.reason));
    }
    for forgery in &forgeries {
        let name = forgery.file.as_str();
        let is_named = found
            .problems
            .iter()
            .any(|problem| names(&problem.what, name));
        step.claim(is_named, format!("{} forged: noticed", forgery.text));
    }
    Ok(())
}

fn names(what: &str, file: &str) -> bool {
    what == file || file.ends_with(what)
}

fn open(root: &Path, id: &EvidenceId) -> anyhow::Result<(EvidenceStore, Evidence)> {
    let store = EvidenceStore::open(root)?;
    let evidence = store.find(id.as_str())?;
    Ok((store, evidence))
}

fn key(stage: &Stage) -> anyhow::Result<PublicKey> {
    PublicKey::of_root(stage.root())?.context("the evidence was sealed without a key")
}

/// A copy with everything, what the overlay wrote down included, which an ordinary copy leaves out.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    let handles = (fs::File::open(from)?, fs::File::open(to)?);
    invar_sys::copy::tree(handles.0.as_fd(), handles.1.as_fd())
        .and_then(|()| copy_marks(from, to))
        .context("could not copy the evidence")
}

fn copy_marks(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (original, copied) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_marks(&original, &copied)?;
        }
        let mut names = vec![0; LONGEST_ATTRIBUTES];
        let length = llistxattr(&original, &mut names[..])?;
        let marks = names[..length]
            .split(|byte| *byte == 0)
            .filter(|name| name.starts_with(b"trusted.overlay."));
        for mark in marks {
            let mut value = vec![0; LONGEST_ATTRIBUTES];
            let length = lgetxattr(&original, mark, &mut value[..])?;
            lsetxattr(&copied, mark, &value[..length], XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// As the attacker would: size and time stay.
fn flip_bit(path: &Path) -> io::Result<()> {
    let before = fs::metadata(path)?.modified()?;
    let mut content = fs::read(path)?;
    if let Some(byte) = content.first_mut() {
        *byte ^= 1;
    }
    fs::write(path, content)?;
    fs::File::open(path)?.file().set_modified(before)
}

fn cut_last_line(path: &Path) -> io::Result<()> {
    let content = fs::read_to_string(path)?;
    let lines: Vec<&str> = content.lines().collect();
    let kept = lines.split_last().map_or(&[][..], |(_, kept)| kept);
    fs::write(path, kept.join("\n"))
}
