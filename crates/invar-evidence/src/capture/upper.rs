//! Taking the upper directory: moved when Invar owns it, linked when its container goes, copied
//! otherwise.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use fs_err as fs;
use invar_engine::Upper;

use super::log::{Log, Step};
use super::pace::Pace;
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::limits::Budget;
use crate::tree::list::{self, Writer};
use crate::tree::take::{self, How, Method, Taken};
use crate::tree::{self, open_dir};

/// The directory of trees in the evidence, and the upper directory's name in it.
pub(crate) const RAW: &str = "raw";
const UPPER: &str = "upper";

/// The upper directory in the evidence.
pub(crate) fn place(dir: &Path) -> PathBuf {
    dir.join(RAW).join(UPPER)
}

/// A tree's listing as it was found, before its files were hashed.
pub(crate) fn found_listing(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.found.jsonl"))
}

/// A tree's listing with hashes.
pub(crate) fn listing(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.jsonl"))
}

/// Takes the upper directory into the evidence at `dir`.
pub(crate) fn take(
    upper: &Upper,
    dir: &Path,
    method: Method,
    budget: &mut Budget,
    pace: &mut Pace<'_>,
    log: &mut Log,
) -> Result<Taken> {
    log.step(Step::Taking { method })?;
    files::private_dir(&dir.join(RAW))?;
    let target = place(dir);
    let taken = if method == Method::Renamed {
        check_same(upper)?;
        rename(&upper.path, &target)?;
        Taken::none(method)
    } else {
        let mut writer = Writer::create(&found_listing(dir, UPPER))?;
        fs::create_dir(&target).map_err(EvidenceError::io("create", &target))?;
        let to = open_dir(&target).map_err(EvidenceError::io("open", &target))?;
        let (from, to) = together(upper, &target, to)?;
        let from = from.as_ref().unwrap_or(&upper.dir).as_fd();
        let taken = take::tree(
            from,
            to.as_fd(),
            How::all(method),
            budget,
            &mut writer,
            pace,
            log,
        )?;
        writer.finish()?;
        if taken.taken_live > 0 {
            list::reconcile(to.as_fd(), &found_listing(dir, UPPER))?;
        }
        taken
    };
    log.step(Step::Taken(taken.clone()))?;
    Ok(taken)
}

/// Throws away what was taken of an upper directory that vanished meanwhile.
pub(crate) fn drop_unfinished(dir: &Path) -> Result<()> {
    let place = place(dir);
    if place.exists() {
        invar_sys::tree::remove(&place).map_err(EvidenceError::io("remove", &place))?;
    }
    let listing = found_listing(dir, UPPER);
    if listing.exists() {
        fs::remove_file(&listing).map_err(EvidenceError::io("remove", &listing))?;
    }
    Ok(())
}

/// Moves a directory, also from one mount to another of the same file system.
fn rename(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {}
        moved => return moved.map_err(EvidenceError::io("move", from)),
    }
    let failed = || EvidenceError::io("move", from);
    let (Some(source), Some(target)) = (from.parent(), to.parent()) else {
        return Err(failed()(rustix::io::Errno::XDEV.into()));
    };
    let together = invar_sys::together::open(source, target).map_err(failed())?;
    let (source, target) = together.ok_or_else(|| failed()(rustix::io::Errno::XDEV.into()))?;
    let (Some(name), Some(new_name)) = (from.file_name(), to.file_name()) else {
        return Err(failed()(rustix::io::Errno::INVAL.into()));
    };
    rustix::fs::renameat(&source, name, &target, new_name).map_err(EvidenceError::io("move", from))
}

/// Handles of both directories between which files can be linked, where that is possible at all.
fn together(upper: &Upper, place: &Path, to: OwnedFd) -> Result<(Option<OwnedFd>, OwnedFd)> {
    check_same(upper)?;
    match invar_sys::together::open(&upper.path, place) {
        Ok(Some((from, to))) => Ok((Some(from), to)),
        // Files are copied then.
        Ok(None) | Err(_) => Ok((None, to)),
    }
}

/// A path may have been replaced since its handle was opened.
fn check_same(upper: &Upper) -> Result<()> {
    let failed = |path| EvidenceError::io::<rustix::io::Errno>("look at", path);
    let path = &upper.path;
    let named = open_dir(path).map_err(failed(path))?;
    let named = tree::stat(named.as_fd(), c"").map_err(failed(path))?;
    let held = tree::stat(upper.dir.as_fd(), c"").map_err(failed(path))?;
    let inode = |stat: &rustix::fs::Statx| (stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor);
    if inode(&named) == inode(&held) {
        return Ok(());
    }
    let reason = "it is not the directory that was opened a moment ago";
    Err(EvidenceError::malformed(path.display().to_string(), reason))
}

/// Completes the listing of every tree that was taken.
pub(crate) fn complete_listings(dir: &Path, log: &mut Log) -> Result<()> {
    let raw = dir.join(RAW);
    if !raw.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&raw).map_err(EvidenceError::io("list", &raw))? {
        let name = entry.map_err(EvidenceError::io("list", &raw))?.file_name();
        if let Some(name) = name.to_str() {
            complete_listing(dir, name, log)?;
        }
    }
    Ok(())
}

/// Lists a tree that was moved here, and adds the hashes; does nothing when that is done.
fn complete_listing(dir: &Path, name: &str, log: &mut Log) -> Result<()> {
    let (found, done) = (found_listing(dir, name), listing(dir, name));
    if done.exists() {
        return Ok(());
    }
    let place = dir.join(RAW).join(name);
    let tree = open_dir(&place).map_err(EvidenceError::io("open", &place))?;
    if !found.exists() {
        list::record(tree.as_fd(), &found, log)?;
    }
    list::add_hashes(tree.as_fd(), &found, &done, log)?;
    fs::remove_file(&found).map_err(EvidenceError::io("remove", &found))
}

/// Gives a moved upper directory back to a container that could not be killed, and keeps a copy.
pub(crate) fn put_back(
    upper: &Upper,
    dir: &Path,
    budget: &mut Budget,
    log: &mut Log,
) -> Result<()> {
    let place = place(dir);
    rename(&place, &upper.path)?;
    log.step(Step::PutBack)?;
    take(upper, dir, Method::Copied, budget, &mut Pace::still(), log).map(drop)
}

/// Makes a copy of what was linked from a container that could not be killed.
pub(crate) fn copy_instead(
    upper: &Upper,
    dir: &Path,
    budget: &mut Budget,
    log: &mut Log,
) -> Result<()> {
    let place = place(dir);
    invar_sys::tree::remove(&place).map_err(EvidenceError::io("remove", &place))?;
    take(upper, dir, Method::Copied, budget, &mut Pace::still(), log).map(drop)
}

/// Makes the container's upper directory again from the one that was moved here.
pub(crate) fn copy_back(
    upper: &Upper,
    dir: &Path,
    budget: &mut Budget,
    log: &mut Log,
) -> Result<()> {
    copy(&place(dir), &upper.path, dir, budget, log)
}

/// Makes the files here independent of those of the container they are linked with.
pub(crate) fn unshare(dir: &Path, budget: &mut Budget, log: &mut Log) -> Result<()> {
    let place = place(dir);
    let private = dir.join(RAW).join("private");
    copy(&place, &private, dir, budget, log)?;
    invar_sys::tree::remove(&place).map_err(EvidenceError::io("remove", &place))?;
    fs::rename(&private, &place).map_err(EvidenceError::io("rename", &private))
}

/// Copies a tree whose listing exists already.
fn copy(from: &Path, to: &Path, dir: &Path, budget: &mut Budget, log: &mut Log) -> Result<()> {
    let source = open_dir(from).map_err(EvidenceError::io("open", from))?;
    fs::create_dir(to).map_err(EvidenceError::io("create", to))?;
    let target = open_dir(to).map_err(EvidenceError::io("open", to))?;
    let scratch = dir.join("copy.unfinished");
    let mut writer = Writer::create(&scratch)?;
    take::tree(
        source.as_fd(),
        target.as_fd(),
        How::all(Method::Copied),
        budget,
        &mut writer,
        &mut Pace::still(),
        log,
    )?;
    fs::remove_file(&scratch).map_err(EvidenceError::io("remove", &scratch))
}
