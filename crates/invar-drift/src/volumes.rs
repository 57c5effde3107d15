//! The files of volumes and tmpfs. There is no image to compare them with: what is there is
//! listed and judged as if it had been added.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Statx, openat2};
use rustix::io::{Errno, Result};
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::change::{Kind, Severity};
use crate::compare::{CAPABILITY, Entry};
use crate::content::Sniff;
use crate::detail::{Digest, State};
use crate::dir::{file_type, get_attribute, has_changed, names, open_dir, open_file, stat};
use crate::judge::{self, Facts, Need};
use crate::mounts::{Mount, ProcessRoot, is_served, open_target};
use crate::overlay::{join, parent};
use crate::rules::{Candidates, Finding, Rules};
use crate::text::{escape, hex};
use crate::{Namespace, Options};

/// Entries of one mount that are listed.
const MOST: usize = 1_000_000;
/// What every container has in /dev: null, zero, full, random, urandom, tty, console, ptmx.
const DEVICES: [(u32, u32); 8] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
];

/// The files of one mount.
#[derive(Debug)]
pub struct Listing {
    /// Which mount.
    pub mount: Mount,
    /// What is in it, each directory before its entries.
    pub files: Vec<Present>,
    /// Paths that vanished while they were looked at.
    pub unstable: u64,
    /// Why not everything is listed.
    pub omitted: Option<&'static str>,
}

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Absolute path inside the container.
    pub path: Vec<u8>,
    /// What it is.
    pub state: State,
    /// How bad it looks.
    pub severity: Severity,
    /// Which rule says so.
    pub finding: Option<Arc<Finding>>,
}

impl Serialize for Present {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Present", 5)?;
        let path = escape(&self.path);
        fields.serialize_field("path", &path)?;
        if matches!(path, std::borrow::Cow::Owned(_)) {
            fields.serialize_field("path_hex", &hex(&self.path))?;
        }
        fields.serialize_field("severity", &self.severity)?;
        if let Some(finding) = &self.finding {
            fields.serialize_field("finding", &**finding)?;
        }
        fields.serialize_field("state", &self.state)?;
        fields.end()
    }
}

/// Lists the files of a mount as the process sees it. Other mounts inside of it are left to their
/// own listing. Links are not followed.
pub fn list(root: &ProcessRoot, mount: &Mount, options: &Options) -> crate::Result<Listing> {
    let mut listing = Listing {
        mount: mount.clone(),
        files: Vec::new(),
        unstable: 0,
        omitted: None,
    };
    if is_served(mount) {
        listing.omitted = Some("a program serves it, and reading could wait for ever");
        return Ok(listing);
    }
    let fail = |errno: Errno| crate::walk::read_error("look at the mount", &mount.target, errno);
    let top = open_target(root, mount).map_err(fail)?;
    let rules = options.rules.clone().unwrap_or_else(Rules::builtin);
    let mut walk = Walk {
        top: top.as_fd(),
        rules: &rules,
        options,
        listing: &mut listing,
    };
    let top_stat = stat(walk.top, c"").map_err(fail)?;
    if file_type(&top_stat) != FileType::Directory {
        walk.single(root, &top_stat).map_err(fail)?;
        return Ok(listing);
    }
    let mut dirs = vec![Vec::new()];
    while let Some(dir) = dirs.pop() {
        match walk.directory(&dir, &mut dirs) {
            Ok(()) => {}
            Err(errno) if has_changed(errno) && !dir.is_empty() => walk.listing.unstable += 1,
            Err(errno) => return Err(fail(errno)),
        }
        if walk.listing.files.len() >= MOST {
            listing.omitted = Some("there are more files than are listed");
            break;
        }
    }
    listing
        .files
        .sort_by(|a, b| crate::ancestors::tree_order(&a.path, &b.path));
    Ok(listing)
}

struct Walk<'a> {
    top: BorrowedFd<'a>,
    rules: &'a Rules,
    options: &'a Options,
    listing: &'a mut Listing,
}

impl Walk<'_> {
    /// `dir` is relative to the mount; empty for its top.
    fn directory(&mut self, dir: &[u8], dirs: &mut Vec<Vec<u8>>) -> Result<()> {
        let handle = self.open(dir)?;
        let path = match dir {
            b"" => self.listing.mount.target.clone(),
            dir => join(&self.listing.mount.target, dir),
        };
        let candidates = self.rules.in_directory(&path);
        for (name, _) in names(&handle)?.iter() {
            let looked = stat(handle.as_fd(), name).and_then(|stat| {
                let entry = Entry {
                    dir: handle.as_fd(),
                    name,
                    stat: &stat,
                };
                if is_mount_root(&stat) {
                    return Ok(());
                }
                self.entry(join(&path, name.to_bytes()), entry, &candidates)?;
                if file_type(&stat) == FileType::Directory {
                    dirs.push(match dir {
                        b"" => name.to_bytes().to_vec(),
                        dir => join(dir, name.to_bytes()),
                    });
                }
                Ok(())
            });
            match looked {
                Ok(()) => {}
                Err(errno) if has_changed(errno) => self.listing.unstable += 1,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Opens a directory of the mount, never another mount's.
    fn open(&self, dir: &[u8]) -> Result<OwnedFd> {
        if dir.len() > 4000 {
            return open_dir(self.top, dir);
        }
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = if dir.is_empty() { b"." } else { dir };
        match openat2(self.top, dir, flags, Mode::empty(), resolve) {
            // Mounted over since it was listed.
            Err(Errno::XDEV) => Err(Errno::NOENT),
            opened => opened,
        }
    }

    /// A mount that is one file.
    fn single(&mut self, root: &ProcessRoot, stat: &Statx) -> Result<()> {
        let target = self.listing.mount.target.clone();
        let dir = open_dir(root.root(), parent(&target))?;
        let name = target
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default();
        let name = std::ffi::CString::new(name).map_err(|_nul| Errno::INVAL)?;
        let candidates = self.rules.in_directory(parent(&target));
        let entry = Entry {
            dir: dir.as_fd(),
            name: &name,
            stat,
        };
        self.entry(target, entry, &candidates)
    }

    fn entry(
        &mut self,
        path: Vec<u8>,
        entry: Entry<'_>,
        candidates: &Candidates<'_>,
    ) -> Result<()> {
        let file_type = file_type(entry.stat);
        if is_usual_device(&path, entry.stat, file_type) {
            return Ok(());
        }
        let mut facts = Facts {
            file_type,
            mode: entry.stat.stx_mode,
            ..Facts::of_name(&path, Kind::Added)
        };
        if judge::is_program(facts.file_type, facts.mode) {
            facts.has_capability = get_attribute(entry.dir, entry.name, CAPABILITY)?.is_some();
        }
        let mut state = State::read(entry, Namespace::Trusted)?;
        let mut sniffed: Option<Sniff> = None;
        if self.options.content && file_type == FileType::RegularFile {
            match open_file(entry.dir, entry.name.to_bytes()) {
                Ok(content) => {
                    sniffed = match facts.need(candidates) {
                        Need::Nothing => None,
                        Need::Magic => content.sniff(None).ok(),
                        Need::Patterns => content.sniff(candidates.patterns).ok(),
                    };
                    if self.options.detail {
                        state.digest = content.digest();
                    }
                }
                Err(errno) if has_changed(errno) => state.digest = Digest::Unreadable,
                Err(errno) => return Err(errno),
            }
        }
        facts.sniff = sniffed.as_ref();
        let rule = facts.judge(candidates);
        self.listing.files.push(Present {
            severity: rule.map_or(Severity::Info, |rule| rule.severity),
            finding: rule.map(|rule| Arc::clone(&rule.finding)),
            state,
            path,
        });
        Ok(())
    }
}

fn is_mount_root(stat: &Statx) -> bool {
    stat.stx_attributes
        .contains(rustix::fs::StatxAttributes::MOUNT_ROOT)
}

/// What an engine puts into /dev of every container.
fn is_usual_device(path: &[u8], stat: &Statx, file_type: FileType) -> bool {
    if parent(path) != b"/dev" {
        return false;
    }
    match file_type {
        FileType::CharacterDevice => DEVICES.contains(&(stat.stx_rdev_major, stat.stx_rdev_minor)),
        FileType::Symlink => matches!(
            &path[5..],
            b"fd" | b"stdin" | b"stdout" | b"stderr" | b"core" | b"ptmx"
        ),
        _ => false,
    }
}
