//! A container that was broken into, on the embedded engine and on a private Docker Engine or
//! Podman.

use std::path::PathBuf;
use std::process::{Command, Output};

use fs_err as fs;
use invar_testkit::docker::PrivateDocker;
use invar_testkit::invar::Invar;
use invar_testkit::podman::{self, PrivatePodman};
use invar_testkit::{checked, eventually, rootfs};
use serde_json::Value;

use super::{busybox, empty, text};

/// What an intruder leaves: changed accounts, a setuid program, a program running from a deleted
/// file with a deleted file open, hostile names, a link to the host's passwords, a FIFO, a file of
/// a terabyte, a deep tree, a deletion.
const INTRUSION: &str = r#"
echo 'evil:x:0:0::/:/bin/sh' >> /etc/passwd
cp /bin/busybox /tmp/rootme; chmod 4755 /tmp/rootme
cp /bin/busybox /tmp/sleep
(exec 7<>/tmp/gone; rm /tmp/gone; printf stolen >&7; exec /tmp/sleep 100000) &
mkfifo /tmp/fifo
ln -s /etc/shadow /srv-link
mkdir -p /srv/names
: > "/srv/names/$(printf 'new\nline')"
: > "/srv/names/$(printf 'red\033[31m')"
: > "/srv/names/$(printf 'not\377utf8')"
: > "/srv/names/back\\slash"
truncate -s 1024G /srv/terabyte
printf needle | dd of=/srv/terabyte bs=1 seek=5000000000 conv=notrunc 2>/dev/null
deep=/srv; i=0; while [ $i -lt 300 ]; do deep=$deep/d; mkdir $deep; i=$((i+1)); done
printf bottom > $deep/file
rm /www/index.html
echo said; echo complained >&2
until ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q '/tmp/sleep$'; do sleep 0.02; done
rm /tmp/sleep
touch /intrusion-done
exec sleep 100000
"#;

/// An engine with the image `busybox`, and `invar` beside it.
pub(crate) enum Host {
    /// Invar's own engine.
    Embedded(Invar),
    /// A Docker Engine of its own.
    Docker(Invar, PrivateDocker),
    /// A Podman of its own, and the address of its API.
    Podman(Invar, PrivatePodman, String),
}

impl Host {
    pub(crate) fn embedded() -> Self {
        Self::Embedded(busybox())
    }

    pub(crate) fn docker() -> Self {
        let docker = PrivateDocker::start();
        docker.import(&rootfs::busybox_tar(), "busybox");
        Self::Docker(empty(), docker)
    }

    pub(crate) fn podman() -> Self {
        let mut podman = PrivatePodman::new();
        podman.import(&rootfs::busybox_tar(), "busybox");
        let address = podman.serve();
        Self::Podman(empty(), podman, address)
    }

    pub(crate) fn invar(&self) -> &Invar {
        match self {
            Self::Embedded(invar) | Self::Docker(invar, _) | Self::Podman(invar, _, _) => invar,
        }
    }

    /// `invar ARGS`, not yet run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.invar().command(args);
        match self {
            Self::Embedded(_) => {}
            Self::Docker(_, docker) => {
                command.env("DOCKER_HOST", docker.host());
            }
            Self::Podman(_, _, address) => {
                command.env("CONTAINER_HOST", address);
            }
        }
        command
    }

    /// `docker`, `podman`, or `invar` for its own engine: all know the same words.
    fn engine(&self, args: &[&str]) -> Command {
        let mut command = match self {
            Self::Embedded(_) => return self.command(args),
            Self::Docker(_, docker) => docker.command(),
            Self::Podman(_, podman, _) => podman.command(),
        };
        command.args(args);
        command
    }

    fn run_engine(&self, args: &[&str]) -> String {
        text(&checked(&mut self.engine(args)).stdout)
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs `invar ARGS`, which must succeed; what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        text(&checked(&mut self.command(args)).stdout)
    }

    /// As [`Host::run`], read as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args = [args, &["--format", "json"]].concat();
        serde_json::from_str(&self.run(&args)).unwrap()
    }

    /// Runs a shell script in a new container.
    pub(crate) fn start(&self, name: &str, flags: &[&str], script: &str) {
        let mut run = vec!["run", "-d", "--name", name];
        match self {
            Self::Embedded(_) => run.push("--writable"),
            Self::Docker(..) => run.extend(["--network", "none"]),
            Self::Podman(..) => run.extend(podman::RUN),
        }
        self.run_engine(&[&run[..], flags, &["busybox", "sh", "-c", script]].concat());
    }

    /// Starts a container and breaks into it.
    pub(crate) fn attacked(&self, name: &str, flags: &[&str]) {
        self.start(name, flags, INTRUSION);
        let done = self.upper(name).join("intrusion-done");
        eventually("the intrusion is done", || done.exists().then_some(()));
        // The last `exec` of the script.
        eventually("its shell became sleep", || {
            let args = fs::read(format!("/proc/{}/cmdline", self.pid(name))).unwrap();
            args.starts_with(b"sleep").then_some(())
        });
    }

    /// The container's upper directory.
    pub(crate) fn upper(&self, name: &str) -> PathBuf {
        match self {
            Self::Embedded(invar) => {
                let id = self.id(name);
                let of_container = |path: &PathBuf| path.to_string_lossy().contains(&id);
                let found = super::tree(invar.root()).into_iter().map(PathBuf::from);
                found
                    .filter(of_container)
                    .find(|path| path.ends_with("upper"))
                    .unwrap()
            }
            Self::Docker(..) | Self::Podman(..) => {
                let format = "{{.GraphDriver.Data.UpperDir}}";
                self.run_engine(&["inspect", "--format", format, name])
                    .into()
            }
        }
    }

    pub(crate) fn id(&self, name: &str) -> String {
        self.inspect(name, "/Id").as_str().unwrap().to_owned()
    }

    pub(crate) fn pid(&self, name: &str) -> u64 {
        self.inspect(name, "/State/Pid").as_u64().unwrap()
    }

    /// `created`, `running`, `paused`, `exited`; `gone` when there is no such container.
    pub(crate) fn status(&self, name: &str) -> String {
        self.try_inspect(name).map_or_else(
            || "gone".to_owned(),
            |found| found["State"]["Status"].as_str().unwrap().to_owned(),
        )
    }

    pub(crate) fn inspect(&self, name: &str, pointer: &str) -> Value {
        let found = self.try_inspect(name).unwrap();
        found.pointer(pointer).unwrap().clone()
    }

    fn try_inspect(&self, name: &str) -> Option<Value> {
        let output = self.engine(&["inspect", name]).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).ok()?;
        found.get(0).cloned()
    }

    /// Names of all containers, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Embedded(_) => {
                let listed = self.run_engine(&["ps", "-a", "--format", "jsonl"]);
                let rows = listed.lines().map(serde_json::from_str::<Value>);
                rows.map(|row| row.unwrap()["name"].as_str().unwrap().to_owned())
                    .collect()
            }
            Self::Docker(..) | Self::Podman(..) => {
                let listed = self.run_engine(&["ps", "-a", "--format", "{{.Names}}"]);
                listed.lines().map(str::to_owned).collect()
            }
        };
        names.sort();
        names
    }

    /// Runs a shell script in a running container.
    pub(crate) fn exec(&self, name: &str, script: &str) -> String {
        self.run_engine(&["exec", name, "sh", "-c", script])
    }

    /// Removes a container, also a running one.
    pub(crate) fn remove(&self, name: &str) {
        self.run_engine(&["rm", "--force", name]);
    }

    /// Where evidence with this id is kept.
    pub(crate) fn evidence(&self, id: &str) -> PathBuf {
        self.invar().root().join("evidence").join(id)
    }
}

impl Drop for Host {
    /// A temporary directory is not removed by recursion when a container made it deep.
    fn drop(&mut self) {
        let listed = self.output(&["evidence", "ls", "--quiet"]);
        for id in text(&listed.stdout).lines() {
            drop(self.output(&["evidence", "rm", "--force", id]));
        }
    }
}

/// The lines of a JSON Lines file.
pub(crate) fn jsonl(path: impl Into<PathBuf>) -> Vec<Value> {
    let all = fs::read_to_string(path.into()).unwrap();
    let lines = all.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
