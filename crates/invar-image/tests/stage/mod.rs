//! What the tests of views share: a mounted image, and a listing of a tree to compare.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use invar_image::{Image, ImageStore, ViewForm};
use invar_sys::mount::{self, Overlay};
use invar_testkit::{checked, require_root};
use tempfile::TempDir;

/// A store of its own, not on a tmpfs: it must keep extended attributes.
pub(crate) fn store() -> (TempDir, ImageStore) {
    require_root();
    let root = directory();
    let store = ImageStore::open(root.path()).unwrap();
    (root, store)
}

pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("invar-test-")
        .tempdir_in("/var/tmp")
        .unwrap()
}

/// An image's view, mounted as a container's read-only root would be.
pub(crate) struct Mounted {
    target: TempDir,
    /// The second lower of a plain view.
    _empty: TempDir,
}

impl Mounted {
    pub(crate) fn new(store: &ImageStore, image: &Image) -> Self {
        let view = store.open_view(&image.id).unwrap();
        let empty = directory();
        // The kernel refuses an overlay of one directory.
        let second = fs::File::open(empty.path()).unwrap();
        let mut lowers: Vec<_> = view.lowers.iter().map(AsFd::as_fd).collect();
        if view.data.is_empty() {
            lowers.push(second.file().as_fd());
        }
        let overlay = Overlay {
            source: "invar-test",
            lowers,
            data: view.data.iter().map(AsFd::as_fd).collect(),
            upper: None,
        };
        let target = directory();
        mount::attach(overlay.mount().unwrap(), target.path()).unwrap();
        Self {
            target,
            _empty: empty,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.target.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        checked(Command::new("umount").arg(self.target.path()));
    }
}

/// Both forms of a view.
pub(crate) const FORMS: [ViewForm; 2] = [ViewForm::Best, ViewForm::Plain];

/// Everything about every file of a tree that a container can see, one line each.
pub(crate) fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut links: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let name = path.strip_prefix(root).unwrap().as_os_str();
        let name = name.as_bytes().escape_ascii().to_string();
        let content = if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            target.as_os_str().as_bytes().escape_ascii().to_string()
        } else if kind.is_file() {
            invar_image::Digest::of(&fs::read(&path).unwrap()).to_string()
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {}", metadata.rdev())
        } else {
            String::new()
        };
        if kind.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            left.extend(entries.map(|entry| entry.unwrap().path()));
        } else if metadata.nlink() > 1 {
            links.entry(metadata.ino()).or_default().push(name.clone());
        }
        // Sizes of directories are the file system's own business.
        let size = if kind.is_dir() { 0 } else { metadata.size() };
        all.insert(
            name,
            format!(
                "{:o} {}:{} {}.{:09} {size} {content} {:?}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                attributes(&path),
            ),
        );
    }
    for mut names in links.into_values() {
        names.sort();
        for name in &names {
            let line = all.get_mut(name).unwrap();
            write!(line, " same as {names:?}").unwrap();
        }
    }
    all
}

/// Extended attributes, without those of the host.
fn attributes(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..length].split(|byte| *byte == 0);
    names
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted."))
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            let value = value[..length].escape_ascii().to_string();
            (name.escape_ascii().to_string(), value)
        })
        .collect()
}

/// Fails with the lines that differ.
pub(crate) fn assert_same(what: &str, found: &Path, expected: &Path) {
    let (found, expected) = (listing(found), listing(expected));
    let differing: Vec<_> = expected
        .keys()
        .chain(found.keys())
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| {
            format!(
                "{path}\n  expected {:?}\n  found    {:?}",
                expected.get(path),
                found.get(path)
            )
        })
        .collect();
    assert!(differing.is_empty(), "{what}:\n{}", differing.join("\n"));
}

/// Unpacks an archive with GNU tar, as the reference.
pub(crate) fn unpacked(tar: &Path) -> TempDir {
    let target = directory();
    checked(
        Command::new("tar")
            .args(["--extract", "--preserve-permissions", "--numeric-owner"])
            .args([
                "--xattrs",
                "--xattrs-include=*",
                "--delay-directory-restore",
            ])
            .arg("--file")
            .arg(tar)
            .arg("--directory")
            .arg(target.path()),
    );
    target
}

/// Runs a shell script in a directory.
pub(crate) fn shell(directory: &Path, script: &str) {
    checked(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(directory),
    );
}

/// A tar of a directory's content, written by GNU tar.
pub(crate) fn packed(directory: &Path, options: &[&str]) -> PathBuf {
    let tar = directory.with_extension("tar");
    checked(
        Command::new("tar")
            .args(["--create", "--numeric-owner", "--sort=name", "--file"])
            .arg(&tar)
            .args(options)
            .arg("--directory")
            .arg(directory)
            .arg("."),
    );
    tar
}
