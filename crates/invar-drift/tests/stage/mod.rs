//! An overlay mounted for a test, and the rows every comparison is tried on.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared by several tests, in which a panic is the report"
)]

pub(crate) mod rows;

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use invar_drift::{Change, Comparison, Kind, Options};
use invar_sys::mount::{Overlay, attach};
use invar_testkit::{checked, require_root};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

/// A lower and an upper directory and the overlay of both, mounted.
#[derive(Debug)]
pub(crate) struct Stage {
    directory: TempDir,
}

impl Stage {
    /// `prepare` fills the lower directory before it is mounted.
    pub(crate) fn new(prepare: impl FnOnce(&Path)) -> Self {
        require_root();
        // Not on a tmpfs, which keeps no user.* attributes.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let stage = Self { directory };
        for name in ["lower", "empty", "upper", "work", "merged"] {
            fs::create_dir(stage.at(name)).unwrap();
        }
        prepare(&stage.at("lower"));
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| open(&stage.at(name)));
        let overlay = Overlay {
            source: "invar-test",
            lowers: vec![lower.as_fd()],
            data: Vec::new(),
            upper: Some((upper.as_fd(), work.as_fd())),
        };
        attach(overlay.mount().unwrap(), &stage.merged()).unwrap();
        stage
    }

    /// The same with options for `mount -t overlay`; `mark` may prepare the upper directory.
    pub(crate) fn with_options(
        options: &str,
        prepare: impl FnOnce(&Path),
        mark: impl FnOnce(&Path),
    ) -> Self {
        require_root();
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let stage = Self { directory };
        for name in ["lower", "empty", "upper", "work", "merged"] {
            fs::create_dir(stage.at(name)).unwrap();
        }
        prepare(&stage.at("lower"));
        mark(&stage.at("upper"));
        let mut all = format!(
            "lowerdir={},upperdir={},workdir={}",
            stage.at("lower").display(),
            stage.at("upper").display(),
            stage.at("work").display()
        );
        if !options.is_empty() {
            all = format!("{all},{options}");
        }
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "overlay", "overlay", "-o", &all])
            .arg(stage.merged());
        checked(&mut mount);
        stage
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where changes are made.
    pub(crate) fn merged(&self) -> PathBuf {
        self.at("merged")
    }

    pub(crate) fn compare(&self, options: &Options) -> Comparison {
        let lower = open(&self.at("lower"));
        let upper = open(&self.at("upper"));
        invar_drift::compare(lower.as_fd(), upper.as_fd(), options).unwrap()
    }

    pub(crate) fn compare_aside(&self, options: &Options) -> Vec<Change> {
        let lower = open(&self.at("lower"));
        let upper = open(&self.at("upper"));
        let scratch = Path::new("/var/tmp");
        let found = invar_drift::compare_aside(lower.as_fd(), upper.as_fd(), options, scratch);
        found.unwrap().map(|change| change.unwrap()).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A stage that failed half-way is not mounted.
        unmount(self.merged(), UnmountFlags::DETACH).ok();
    }
}

pub(crate) fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

/// Runs a shell script in a directory.
pub(crate) fn shell(dir: &Path, script: &str) {
    let script = format!("set -e; umask 022; {script}");
    checked(Command::new("bash").arg("-c").arg(script).current_dir(dir));
}

/// Lines as `docker diff` prints them, of what was changed in one top directory.
pub(crate) fn lines(
    changes: &[Change],
    verdict: impl Fn(&Change) -> Option<Kind>,
) -> BTreeSet<String> {
    changes
        .iter()
        .filter_map(|change| {
            let path = String::from_utf8_lossy(&change.path);
            verdict(change).map(|kind| format!("{} {path}", kind.letter()))
        })
        .collect()
}
