//! The walk of an upper directory against the plain truth: both trees, the image's and the merged
//! one, read through and compared path by path, after random actions on a real overlay.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use fs_err as fs;
use invar_drift::{Options, attributes};
use proptest::collection::vec;
use proptest::prelude::*;
use rustix::fs::{CWD, Mode, Timespec, Timestamps, XattrFlags};
use stage::{Stage, lines, open};

/// What can be done to a tree. Paths are few, so that actions meet each other.
#[derive(Debug, Clone)]
enum Action {
    Write(usize, u8),
    Append(usize),
    Truncate(usize),
    Chmod(usize, u32),
    Chown(usize, u32),
    RestoreTime(usize),
    Touch(usize),
    Remove(usize),
    RemoveTree(usize),
    Directory(usize),
    Rename(usize, usize),
    Symlink(usize, u8),
    Link(usize, usize),
    Fifo(usize),
    Attribute(usize, u8),
    OpenForWriting(usize),
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Names, names in directories, and names in directories of those.
const PATHS: usize = 4 + 16 + 64;

fn path(number: usize) -> PathBuf {
    let name = |digit: usize| NAMES[digit % 4];
    match number {
        0..4 => PathBuf::from(name(number)),
        4..20 => Path::new(name((number - 4) / 4)).join(name(number)),
        _ => Path::new(name((number - 20) / 16))
            .join(name((number - 20) / 4))
            .join(name(number)),
    }
}

fn action() -> impl Strategy<Value = Action> {
    let at = || prop_oneof![3 => 0..4_usize, 3 => 4..20_usize, 1 => 20..PATHS];
    prop_oneof![
        4 => (at(), 0..3_u8).prop_map(|(at, byte)| Action::Write(at, byte)),
        2 => at().prop_map(Action::Append),
        1 => at().prop_map(Action::Truncate),
        2 => (at(), prop::sample::select(vec![0o644, 0o600, 0o4755])).prop_map(|(at, mode)| Action::Chmod(at, mode)),
        1 => (at(), 0..2_u32).prop_map(|(at, owner)| Action::Chown(at, owner)),
        3 => at().prop_map(Action::RestoreTime),
        1 => at().prop_map(Action::Touch),
        2 => at().prop_map(Action::Remove),
        2 => at().prop_map(Action::RemoveTree),
        4 => at().prop_map(Action::Directory),
        4 => (at(), at()).prop_map(|(from, to)| Action::Rename(from, to)),
        1 => (at(), 0..3_u8).prop_map(|(at, target)| Action::Symlink(at, target)),
        2 => (at(), at()).prop_map(|(from, to)| Action::Link(from, to)),
        1 => at().prop_map(Action::Fifo),
        1 => (at(), 0..2_u8).prop_map(|(at, value)| Action::Attribute(at, value)),
        1 => at().prop_map(Action::OpenForWriting),
    ]
}

const IMAGE_TIME: Timespec = Timespec {
    tv_sec: 1_600_000_000,
    tv_nsec: 0,
};

/// Does it, or leaves it when it is not possible there.
fn act(root: &Path, action: &Action) {
    let at = |number: &usize| root.join(path(*number));
    let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_file());
    match action {
        Action::Write(to, byte) if is_file(&at(to)) || !at(to).exists() => {
            fs::write(at(to), [b'0' + byte; 3]).ok();
        }
        Action::Append(to) if is_file(&at(to)) => {
            let old = fs::read(at(to)).unwrap();
            fs::write(at(to), [&old[..], b"+"].concat()).unwrap();
        }
        Action::Truncate(to) if is_file(&at(to)) => fs::write(at(to), "").unwrap(),
        Action::Chmod(to, mode) if !at(to).is_symlink() && at(to).exists() => {
            let mode = if at(to).is_dir() {
                mode & 0o700 | 0o700
            } else {
                *mode
            };
            fs::set_permissions(at(to), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        Action::Chown(to, owner) => {
            std::os::unix::fs::lchown(at(to), Some(*owner), None).ok();
        }
        Action::RestoreTime(to) => set_time(&at(to), IMAGE_TIME),
        Action::Touch(to) => {
            let now = Timespec {
                tv_sec: 1_700_000_000,
                tv_nsec: 5,
            };
            set_time(&at(to), now);
        }
        Action::Remove(to) => {
            fs::remove_file(at(to)).ok();
        }
        Action::RemoveTree(to) => {
            fs::remove_dir_all(at(to)).ok();
        }
        Action::Directory(to) => {
            fs::create_dir(at(to)).ok();
        }
        Action::Rename(from, to) => rename(&at(from), &at(to)),
        Action::Symlink(to, target) => {
            symlink(["x", "y", "/etc/shadow"][usize::from(*target)], at(to)).ok();
        }
        Action::Link(from, to) => {
            fs::hard_link(at(from), at(to)).ok();
        }
        Action::Fifo(to) => {
            rustix::fs::mknodat(CWD, at(to), rustix::fs::FileType::Fifo, Mode::RUSR, 0).ok();
        }
        Action::Attribute(to, value) if !at(to).is_symlink() => {
            rustix::fs::lsetxattr(at(to), "user.x", &[*value], XattrFlags::empty()).ok();
        }
        Action::OpenForWriting(to) if is_file(&at(to)) => {
            drop(fs::OpenOptions::new().append(true).open(at(to)).unwrap());
        }
        _ => {}
    }
}

/// As mv does it: a directory that the overlay will not rename is copied.
fn rename(from: &Path, to: &Path) {
    let is_inside = to.starts_with(from);
    let is_directory = from.symlink_metadata().is_ok_and(|found| found.is_dir());
    if !is_inside && fs::rename(from, to).is_err() && is_directory && to.symlink_metadata().is_err()
    {
        let parent = to.parent().is_some_and(Path::is_dir);
        if parent {
            let mut mv = std::process::Command::new("mv");
            invar_testkit::checked(mv.arg("-T").arg(from).arg(to));
        }
    }
}

fn set_time(path: &Path, time: Timespec) {
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok();
}

/// All there is to know of a path.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    size: u64,
    mtime: (i64, i64),
    target: Option<PathBuf>,
    content: Option<Vec<u8>>,
    attributes: Vec<(CString, Vec<u8>)>,
}

impl Facts {
    fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

fn tree(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let handle = open(&root.join(&dir));
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let (name, metadata) = (entry.file_name(), entry.metadata().unwrap());
            let path = dir.join(&name);
            let name = CString::new(name.into_encoded_bytes()).unwrap();
            let is_directory = metadata.is_dir();
            let facts = Facts {
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                device: metadata.rdev(),
                size: if is_directory { 0 } else { metadata.size() },
                mtime: if is_directory {
                    (0, 0)
                } else {
                    (metadata.mtime(), metadata.mtime_nsec())
                },
                target: fs::read_link(entry.path()).ok(),
                content: metadata.is_file().then(|| fs::read(entry.path()).unwrap()),
                attributes: attributes(handle.as_fd(), &name).unwrap(),
            };
            if is_directory {
                dirs.push(path.clone());
            }
            found.insert(path, facts);
        }
    }
    found
}

/// Both verdicts by the plain rules of the table.
fn truth(old: &BTreeMap<PathBuf, Facts>, new: &BTreeMap<PathBuf, Facts>) -> [BTreeSet<String>; 2] {
    let mut compatible: BTreeMap<PathBuf, char> = BTreeMap::new();
    let mut actual = BTreeMap::new();
    for (path, now) in new {
        match old.get(path) {
            None => {
                actual.insert(path.clone(), 'A');
                compatible.insert(path.clone(), 'A');
            }
            Some(before) => {
                if before != now {
                    actual.insert(path.clone(), 'C');
                }
                if docker_sees(before, now) {
                    compatible.insert(path.clone(), 'C');
                }
            }
        }
    }
    for path in old.keys().filter(|path| !new.contains_key(*path)) {
        let parent = path.parent().unwrap();
        let is_top = parent == Path::new("") || new.get(parent).is_some_and(Facts::is_directory);
        if is_top {
            actual.insert(path.clone(), 'D');
            compatible.insert(path.clone(), 'D');
        }
    }
    for path in compatible.clone().into_keys() {
        for ancestor in path
            .ancestors()
            .skip(1)
            .filter(|path| *path != Path::new(""))
        {
            compatible.entry(ancestor.to_owned()).or_insert('C');
        }
    }
    [compatible, actual].map(|verdict| {
        let line = |(path, letter): (PathBuf, char)| format!("{letter} /{}", path.display());
        verdict.into_iter().map(line).collect()
    })
}

fn docker_sees(old: &Facts, new: &Facts) -> bool {
    let same_time = old.mtime.0 == new.mtime.0
        && (old.mtime.1 == new.mtime.1 || old.mtime.1 == 0 || new.mtime.1 == 0);
    let has_time = old.mode & 0o040_000 == 0;
    old.mode != new.mode
        || old.owner != new.owner
        || old.device != new.device
        || (has_time && (old.size != new.size || !same_time))
}

fn flags() -> Options {
    Options {
        content: true,
        detail: true,
        patch: true,
        ..Options::default()
    }
}

const MOUNTS: [&str; 5] = [
    "",
    "redirect_dir=on",
    "metacopy=on,redirect_dir=on",
    "index=on",
    "redirect_dir=on,metacopy=on,index=on",
];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_walk_of_upper_finds_what_comparing_both_trees_finds(
        image in vec(action(), 0..25),
        actions in vec(action(), 1..25),
        mount in prop::sample::select(MOUNTS.to_vec()),
    ) {
        let prepare = |root: &Path| {
            for action in &image {
                // What is written under a name that is then removed changes the file's other
                // names, and with an index only the overlay's work directory knows.
                let is_link = matches!(action, Action::Link(..));
                if !(is_link && mount.contains("index")) {
                    act(root, action);
                }
            }
            for path in tree(root).into_keys() {
                set_time(&root.join(path), IMAGE_TIME);
            }
        };
        let stage = Stage::with_options(mount, prepare, |_| {});
        for action in &actions {
            act(&stage.merged(), action);
        }
        let [compatible, actual] = truth(&tree(&stage.at("lower")), &tree(&stage.merged()));
        let found = stage.compare(&flags());
        prop_assert_eq!(lines(&found.changes, |change| change.actual), actual);
        prop_assert_eq!(lines(&found.changes, |change| change.compatible), compatible);
        prop_assert_eq!(found.unstable, 0);
        let options = Options { content: true, ..Options::default() };
        prop_assert_eq!(stage.compare_aside(&options), stage.compare(&options).changes);
    }
}
