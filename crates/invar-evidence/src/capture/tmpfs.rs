//! Temporary file systems of the container: memory that is gone with it.
//!
//! A handle keeps one alive after its container was killed, so with `--stop` nothing is copied
//! while frozen.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use invar_drift::open_beneath;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::log::Log;
use super::mounts::Mounts;
use super::upper::{RAW, found_listing};
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::limits::Budget;
use crate::text;
use crate::tree::list::Writer;
use crate::tree::open_dir;
use crate::tree::take::{self, Method};

/// Below these, temporary file systems only hide what is there.
const MASKS: &[&[u8]] = &[b"/proc/", b"/sys/"];

/// A temporary file system held by a handle.
#[derive(Debug)]
pub(crate) struct Tmpfs {
    point: Vec<u8>,
    handle: OwnedFd,
}

/// The mount points of the container's temporary file systems.
pub(crate) fn points(mounts: &Mounts) -> Vec<Vec<u8>> {
    let all = mounts.of_kind("tmpfs").into_iter();
    // An engine mounts single files, `/etc/hosts` among them, out of one of its own.
    all.filter(|mount| mount.is_whole)
        .map(|mount| mount.point.clone())
        .filter(|point| !MASKS.iter().any(|mask| point.starts_with(mask)))
        .collect()
}

/// Opens them as the container's first process sees them.
pub(crate) fn hold(init: u32, mounts: &Mounts, log: &mut Log) -> Result<Vec<Tmpfs>> {
    let path = format!("/proc/{init}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &path, flags, Mode::empty()).map_err(EvidenceError::io("open", path))?;
    let mut held = Vec::new();
    for point in points(mounts) {
        if !mounts.is_reached_locally(&point) {
            log.not_captured(&point, "a mount on the way to it may ask a process")?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match open_beneath(root.as_fd(), &point, flags) {
            Ok(handle) => held.push(Tmpfs { point, handle }),
            Err(errno) => log.not_captured(&point, std::io::Error::from(errno))?,
        }
    }
    Ok(held)
}

/// Copies them into the evidence as `raw/tmpfs-0`, `raw/tmpfs-1`, … and writes which is which.
pub(crate) fn keep(held: &[Tmpfs], dir: &Path, budget: &mut Budget, log: &mut Log) -> Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    let mut index = Vec::new();
    for (number, tmpfs) in held.iter().enumerate() {
        let name = format!("tmpfs-{number}");
        let place = dir.join(RAW).join(&name);
        files::private_dir(&place)?;
        let to = open_dir(&place).map_err(EvidenceError::io("open", &place))?;
        let mut writer = Writer::create(&found_listing(dir, &name))?;
        let from = tmpfs.handle.as_fd();
        log.set_base(&tmpfs.point);
        let copied = take::tree(from, to.as_fd(), Method::Copied, budget, &mut writer, log);
        log.set_base(b"");
        let copied = copied?;
        writer.finish()?;
        let (point, exact) = text::to_text(&tmpfs.point);
        let line = serde_json::json!({
            "tree": name,
            "mounted_at": point,
            "mounted_at_hex": exact,
            "entries": copied.entries,
            "bytes": copied.copied,
        });
        index.extend_from_slice(line.to_string().as_bytes());
        index.push(b'\n');
    }
    files::write(&dir.join("tmpfs.jsonl"), &index)
}
