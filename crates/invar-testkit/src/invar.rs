//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::tool::{checked, require_root};

/// `invar` with a state root of its own. Dropping it removes every container of that root first,
/// so that no process or mount stays behind a test that failed.
#[derive(Debug)]
pub struct Invar {
    binary: PathBuf,
    root: TempDir,
}

impl Invar {
    /// Takes the binary's path: `env!("CARGO_BIN_EXE_invar")`.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        require_root();
        // Not on a tmpfs: an overlay's upper directory needs the extended attributes of a real
        // file system, and evidence is kept by renaming.
        let root = tempfile::Builder::new()
            .prefix("invar-test-")
            .tempdir_in("/var/tmp")
            .unwrap();
        Self {
            binary: binary.into(),
            root,
        }
    }

    /// The state root.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// `invar ARGS`, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        // Tests of everything else need no network; those that do say which.
        command
            .env("INVAR_ROOT", self.root())
            .env("INVAR_NETWORK", "none")
            // What a test looks at next is sealed; `env_remove` where sealing goes on by itself.
            .env("INVAR_WAIT", "true")
            .args(args);
        command
    }

    /// Runs `invar ARGS`, whatever comes of it.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs `invar ARGS`, which must succeed; its standard output without the last newline.
    pub fn run(&self, args: &[&str]) -> String {
        let output = checked(&mut self.command(args));
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// Imports a root file system.
    pub fn import(&self, name: &str, tar: &Path) {
        checked(self.command(&["import", name]).arg(tar));
    }
}

impl Drop for Invar {
    fn drop(&mut self) {
        // Only its own: another engine's containers on this machine are somebody's work.
        let listing = self.output(&["ps", "--all", "--quiet", "--engine", "embedded"]);
        for id in String::from_utf8_lossy(&listing.stdout).lines() {
            drop(self.output(&["rm", "--force", &format!("embedded:{id}")]));
        }
        drop(self.output(&["network", "prune"]));
    }
}
