//! What is mounted in the container beside its root: temporary file systems, which are gone with
//! it, and, when asked for, volumes and directories of the host.
//!
//! A handle keeps a mount alive after its container was killed, so with `--stop` nothing is copied
//! while frozen. A volume outlives the container and others may write to it: it is always copied
//! after the container went on, and what changed meanwhile is named.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use invar_drift::open_beneath;
use invar_engine::{Container, MountKind};
use rustix::fs::{CWD, FileType, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::log::Log;
use super::mounts::Mounts;
use super::pace::Pace;
use super::upper::{RAW, found_listing};
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::header::{Volumes, Wanted};
use crate::limits::{Budget, Limits};
use crate::text;
use crate::tree::entry::Instant;
use crate::tree::list::{self, Writer};
use crate::tree::take::{self, How, Method, Taken};
use crate::tree::{file_type, name, open_dir, stat};

/// Which tree is which mount; its name in the evidence.
pub(crate) const NAME: &str = "mounts.jsonl";
/// Below these, temporary file systems only hide what is there.
const MASKS: &[&[u8]] = &[b"/proc/", b"/sys/"];

/// What a mount is to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Memory, gone with the container.
    Tmpfs,
    /// Kept by the engine.
    Volume,
    /// A directory or file of the host.
    Bind,
}

impl Held {
    /// Whether it is gone with the container.
    pub(crate) fn is_lost(&self) -> bool {
        self.kind == Kind::Tmpfs
    }
}

impl Kind {
    /// How the trees of this kind are called in the evidence, before their number.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Volume => "volume",
            Self::Bind => "bind",
        }
    }
}

/// One line of the index.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Name of the tree below `raw/`, and of its listing.
    pub(crate) tree: String,
    pub(crate) kind: Kind,
    pub(crate) mounted_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mounted_at_hex: Option<String>,
    #[serde(flatten)]
    pub(crate) taken: Taken,
}

/// A mount that was decided about.
#[derive(Debug)]
struct Point {
    at: Vec<u8>,
    kind: Kind,
    /// Only what changed since the container was created.
    changed_only: bool,
    /// Why it is not taken.
    refused: Option<&'static str>,
}

/// A mount held by a handle.
#[derive(Debug)]
pub(crate) struct Held {
    at: Vec<u8>,
    kind: Kind,
    since: Option<Instant>,
    /// What the container's id 0 is outside.
    first: u32,
    handle: OwnedFd,
}

/// Whether a container has a mount at each of these places; the first that it has not.
pub(crate) fn missing<'a>(init: u32, wanted: &'a Wanted, limits: &Limits) -> Option<&'a str> {
    let path = format!("/proc/{init}/mountinfo");
    let (text, _) = files::read_start(path.as_ref(), limits.proc_file).ok()?;
    let mounts = Mounts::parse(&text);
    let mut asked = wanted.mounts.iter().map(String::as_str);
    asked.find(|at| mounts.at(at.as_bytes()).is_none())
}

/// Everything mounted that a reader may expect, in the order of the paths.
fn points(mounts: &Mounts, container: &Container, wanted: &Wanted) -> Vec<Point> {
    let mut points = Vec::new();
    for mount in mounts.visible() {
        let at = mount.point.as_slice();
        let is_asked = wanted.mounts.iter().any(|asked| asked.as_bytes() == at);
        let of_config = container
            .config
            .mounts
            .iter()
            .find(|of_config| of_config.target.as_os_str().as_encoded_bytes() == at)
            .map(|of_config| &of_config.kind);
        let hides_kernels = MASKS.iter().any(|mask| at.starts_with(mask));
        let kind = match of_config {
            Some(MountKind::Bind { .. }) => Kind::Bind,
            Some(MountKind::Volume { .. }) => Kind::Volume,
            // An engine mounts single files, `/etc/hosts` among them, out of one of its own.
            _ if mount.kind == "tmpfs" && mount.is_whole && !hides_kernels => Kind::Tmpfs,
            _ if is_asked => Kind::Bind,
            _ => continue,
        };
        let refused = match kind {
            _ if is_asked => None,
            Kind::Tmpfs if wanted.tmpfs => None,
            Kind::Volume if wanted.volumes != Volumes::None => None,
            Kind::Tmpfs => Some("temporary file system: left out (--no-tmpfs)"),
            Kind::Volume => {
                Some("a volume, which outlives the container: not asked for (--volumes)")
            }
            Kind::Bind => Some(
                "a directory of the host, not a part of the container: not asked for \
                      (--include-mount)",
            ),
        };
        points.push(Point {
            at: at.to_vec(),
            kind,
            changed_only: kind == Kind::Volume && !is_asked && wanted.volumes == Volumes::Changed,
            refused,
        });
    }
    points
}

/// Opens what is wanted as the container's first process sees it, and names what is not.
pub(crate) fn hold(
    init: u32,
    mounts: &Mounts,
    container: &Container,
    wanted: &Wanted,
    log: &mut Log,
) -> Result<Vec<Held>> {
    let path = format!("/proc/{init}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &path, flags, Mode::empty()).map_err(EvidenceError::io("open", path))?;
    let created = container.created_at;
    let created = Instant(
        created.as_second(),
        u32::try_from(created.subsec_nanosecond()).unwrap_or(0),
    );
    let first = invar_sys::userns::first_of(init)
        .map_err(EvidenceError::io("read", format!("/proc/{init}/uid_map")))?;
    let mut held = Vec::new();
    for point in points(mounts, container, wanted) {
        if let Some(reason) = point.refused {
            log.not_captured(&point.at, reason)?;
            continue;
        }
        if !mounts.is_reached_locally(&point.at) {
            log.not_captured(&point.at, "a mount on the way to it may ask a process")?;
            continue;
        }
        match open(&root, &point.at) {
            Ok(handle) => held.push(Held {
                since: point.changed_only.then_some(created),
                at: point.at,
                kind: point.kind,
                first,
                handle,
            }),
            Err(errno) => log.not_captured(&point.at, std::io::Error::from(errno))?,
        }
    }
    Ok(held)
}

/// A directory for listing; of anything else only a handle.
fn open(root: &OwnedFd, at: &[u8]) -> rustix::io::Result<OwnedFd> {
    let seen = open_beneath(root.as_fd(), at, OFlags::PATH | OFlags::NOFOLLOW)?;
    if file_type(&stat(seen.as_fd(), c"")?) != FileType::Directory {
        return Ok(seen);
    }
    open_beneath(seen.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Copies mounts into the evidence as `raw/tmpfs-0`, `raw/volume-1`, … and writes which is which.
/// All of `held` together may have `part` bytes of the budget.
pub(crate) fn keep(
    held: &[Held],
    dir: &Path,
    (limits, part): (&Limits, u64),
    budget: &mut Budget,
    pace: &mut Pace<'_>,
    log: &mut Log,
) -> Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    let earlier = read(dir)?;
    let mut index = match earlier.len() {
        0 => Vec::new(),
        _ => files::read(&dir.join(NAME), LONGEST)?,
    };
    // A capture that was killed has taken those already.
    let is_new = |mount: &&Held| {
        let at = text::shown(&mount.at);
        !earlier.iter().any(|line| line.mounted_at == at)
    };
    budget.part(part);
    for (number, mount) in (earlier.len()..).zip(held.iter().filter(is_new)) {
        let tree = format!("{}-{number}", mount.kind.name());
        log.set_base(&mount.at);
        let taken = one(mount, &tree, dir, limits, budget, pace, log);
        log.set_base(b"");
        let taken = taken?;
        if taken.left_out > 0 {
            let reason = format!(
                "{} entries that had not changed since the container was created (--volumes \
                 changed)",
                taken.left_out
            );
            log.not_captured(&mount.at, reason)?;
        }
        let (mounted_at, mounted_at_hex) = text::to_text(&mount.at);
        let line = Line {
            tree,
            kind: mount.kind,
            mounted_at,
            mounted_at_hex,
            taken,
        };
        serde_json::to_writer(&mut index, &line).expect("a line is plain data");
        index.push(b'\n');
        // Whole lines at any time: the capture may be killed.
        files::replace(&dir.join(NAME), &index)?;
    }
    budget.part(u64::MAX);
    Ok(())
}

fn one(
    mount: &Held,
    tree: &str,
    dir: &Path,
    limits: &Limits,
    budget: &mut Budget,
    pace: &mut Pace<'_>,
    log: &mut Log,
) -> Result<Taken> {
    let target = dir.join(RAW).join(tree);
    files::private_dir(&target)?;
    let to = open_dir(&target).map_err(EvidenceError::io("open", &target))?;
    let top = stat(mount.handle.as_fd(), c"").map_err(EvidenceError::io("look at", &target))?;
    match file_type(&top) {
        FileType::Directory => {}
        FileType::RegularFile => {
            let called = name(&mount.at);
            let file = (mount.handle.as_fd(), mount.first);
            return take::single(file, to.as_fd(), called, budget, log);
        }
        _ => {
            log.not_captured(b"/", "it is neither a directory nor a regular file")?;
            return Ok(Taken::none(Method::Copied));
        }
    }
    let listing = found_listing(dir, tree);
    let mut writer = Writer::create(&listing)?;
    let how = How {
        method: Method::Copied,
        since: mount.since,
        most: limits.entries,
        first: mount.first,
    };
    let from = mount.handle.as_fd();
    let taken = take::tree(from, to.as_fd(), how, budget, &mut writer, pace, log)?;
    writer.finish()?;
    if taken.taken_live > 0 {
        list::reconcile(to.as_fd(), &listing)?;
    }
    Ok(taken)
}

/// Throws away what a capture that was killed had not copied to the end, and names it.
pub(crate) fn drop_unfinished(dir: &Path, log: &mut Log) -> Result<()> {
    let raw = dir.join(RAW);
    if !raw.exists() {
        return Ok(());
    }
    let whole = read(dir)?;
    for entry in fs_err::read_dir(&raw).map_err(EvidenceError::io("list", &raw))? {
        let name = entry.map_err(EvidenceError::io("list", &raw))?.file_name();
        let Some(name) = name.to_str().filter(|name| is_tree(name)) else {
            continue;
        };
        if whole.iter().any(|line| line.tree == name) {
            continue;
        }
        let place = raw.join(name);
        invar_sys::tree::remove(&place).map_err(EvidenceError::io("remove", &place))?;
        let listing = found_listing(dir, name);
        if listing.exists() {
            fs_err::remove_file(&listing).map_err(EvidenceError::io("remove", &listing))?;
        }
        let reason = "the capture was killed while it was copied";
        log.not_captured(name.as_bytes(), reason)?;
    }
    Ok(())
}

/// The trees of mounts in the evidence, as the index has them; none when there is no index.
pub(crate) fn read(dir: &Path) -> Result<Vec<Line>> {
    crate::lines::Lines::open(&dir.join(NAME))?
        .take(MOST_READ)
        .collect()
}

/// Longest index.
const LONGEST: u64 = 64 << 20;
/// Most lines read of an index: the kernel's limit on mounts (`fs.mount-max`).
const MOST_READ: usize = 100_000;

/// Whether a name is one of a tree of a mount.
pub(crate) fn is_tree(name: &str) -> bool {
    let kinds = [Kind::Tmpfs, Kind::Volume, Kind::Bind];
    kinds.iter().any(|kind| {
        let number = name
            .strip_prefix(kind.name())
            .and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_capture_gives_are_trees_of_mounts() {
        for (name, expected) in [
            ("tmpfs-0", true),
            ("volume-12", true),
            ("bind-3", true),
            ("tmpfs-", false),
            ("bind-3/..", false),
            ("upper", false),
            ("volume", false),
        ] {
            assert_eq!(is_tree(name), expected, "{name}");
        }
    }
}
