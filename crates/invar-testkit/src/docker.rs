//! A private Docker Engine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::tool::{checked, require, require_root};

/// How long the daemon may take to answer; a loaded machine with two cores needs several seconds.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// A Docker Engine with its own data, socket and no network; gone when dropped.
#[derive(Debug)]
pub struct PrivateDocker {
    directory: TempDir,
    daemon: Child,
    args: Vec<String>,
}

impl PrivateDocker {
    /// Starts it and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more arguments for the daemon.
    pub fn start_with(args: &[&str]) -> Self {
        require_root();
        require("docker", "docker.io");
        let directory = tempfile::Builder::new()
            .prefix("invar-docker-")
            .tempdir()
            .unwrap();
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let docker = Self {
            daemon: daemon(&directory, &args),
            directory,
            args,
        };
        docker.wait_until_ready();
        docker
    }

    /// Ends the daemon. What its containers do then depends on its `--live-restore`.
    pub fn end_daemon(&mut self) {
        let id = i32::try_from(self.daemon.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may have ended by itself; waiting below is right either way.
            kill_process(id, Signal::TERM).ok();
        }
        self.daemon.wait().ok();
    }

    /// Starts it again, after [`Self::end_daemon`], and waits until it answers.
    pub fn start_daemon(&mut self) {
        self.daemon = daemon(&self.directory, &self.args);
        self.wait_until_ready();
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The value for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The `docker` command, speaking to this engine.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(self.host());
        command
    }

    /// Runs `docker ARGS`, which must succeed; its standard output without the last newline.
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

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self
            .command()
            .arg("version")
            .output()
            .unwrap()
            .status
            .success()
        {
            assert!(
                Instant::now() < deadline,
                "the private dockerd did not start:\n{}",
                fs::read_to_string(self.directory.path().join("errors")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for PrivateDocker {
    fn drop(&mut self) {
        if let Ok(output) = self.command().args(["ps", "--all", "--quiet"]).output() {
            let ids = String::from_utf8_lossy(&output.stdout).into_owned();
            if !ids.is_empty() {
                let removed = self
                    .command()
                    .args(["rm", "--force"])
                    .args(ids.lines())
                    .output();
                drop(removed);
            }
        }
        self.end_daemon();
    }
}

/// The daemon, just started.
fn daemon(directory: &TempDir, args: &[String]) -> Child {
    let dockerd = require("dockerd", "docker.io");
    let at = |name: &str| directory.path().join(name);
    let log = fs::File::create(at("log")).unwrap();
    let mut command = Command::new(dockerd);
    command
        .args(["--bridge=none", "--iptables=false", "--ip-masq=false"])
        .arg("--data-root")
        .arg(at("data"))
        .arg("--exec-root")
        .arg(at("exec"))
        .arg("--pidfile")
        .arg(at("pid"))
        .arg("--host")
        .arg(format!("unix://{}", at("socket").display()))
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.into_parts().0);
    command.stderr(fs::File::create(at("errors")).unwrap().into_parts().0);
    command.spawn().unwrap()
}
