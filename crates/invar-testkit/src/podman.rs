//! A Podman with storage of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::patience::eventually;
use crate::tool::{checked, require, require_root};

/// Flags for `podman run` with which a container starts also where limits must not be raised.
pub const RUN: [&str; 3] = [
    "--network=none",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1000:1000",
];

/// A Podman with its own images and containers; gone when dropped.
#[derive(Debug)]
pub struct PrivatePodman {
    directory: TempDir,
    service: Option<Child>,
}

impl PrivatePodman {
    /// Prepares it; nothing runs yet.
    pub fn new() -> Self {
        require_root();
        require("podman", "podman");
        // Not on a tmpfs: the containers' upper directories lie there.
        let directory = tempfile::Builder::new()
            .prefix("invar-podman-")
            .tempdir_in("/var/tmp")
            .unwrap();
        Self {
            directory,
            service: None,
        }
    }

    /// Starts its Docker-compatible API; the value for `CONTAINER_HOST`.
    pub fn serve(&mut self) -> String {
        let socket = self.socket();
        let host = format!("unix://{}", socket.display());
        if self.service.is_none() {
            // Where limits must not be raised; who asks over the API cannot say so.
            let limits = self.directory.path().join("containers.conf");
            let text =
                "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n";
            fs_err::write(&limits, text).unwrap();
            let mut command = self.command();
            command.env("CONTAINERS_CONF", &limits);
            command.args(["system", "service", "--time=0", &host]);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            self.service = Some(command.spawn().unwrap());
            eventually("the API of podman answers", || {
                std::os::unix::net::UnixStream::connect(&socket).ok()
            });
        }
        host
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The `podman` command with this storage.
    pub fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(self.directory.path().join("root"))
            .arg("--runroot")
            .arg(self.directory.path().join("run"))
            .args([
                "--runtime=runc",
                // crun refuses a host with both versions of control groups.
                "--runtime=runc",
                "--cgroup-manager=cgroupfs",
                "--storage-driver=overlay",
                "--events-backend=none",
            ]);
        command
    }

    /// Runs `podman ARGS`, which must succeed; its standard output without the last newline.
    pub fn run(&self, args: &[&str]) -> String {
        let output = checked(self.command().args(args));
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// Makes an image from a root file system's tar.
    pub fn import(&self, tar: &Path, name: &str) -> Output {
        checked(self.command().arg("import").arg(tar).arg(name))
    }
}

impl Default for PrivatePodman {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PrivatePodman {
    fn drop(&mut self) {
        for args in [
            &["rm", "--all", "--force", "--time=0"][..],
            &["rmi", "--all", "--force"],
        ] {
            drop(self.command().args(args).output());
        }
        if let Some(service) = &mut self.service {
            // It may have ended by itself; waiting is right either way.
            service.kill().ok();
            service.wait().ok();
        }
        // The storage is a mount of its own, which keeps the directory from being removed.
        let storage = self.directory.path().join("root/overlay");
        rustix::mount::unmount(&storage, rustix::mount::UnmountFlags::DETACH).ok();
    }
}
