//! The files of what is mounted in a process's root, as volumes and tmpfs are in a container's.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use invar_drift::{
    Digest, Listing, MountKind, Namespace, Options, ProcessRoot, list_mount, namespace_of,
};
use invar_testkit::require_root;

/// A process in a mount namespace of its own; ended when dropped.
struct Process(Child);

impl Process {
    /// Runs a script there and leaves the process waiting.
    fn new(directory: &Path, script: &str) -> Self {
        require_root();
        let script = format!("set -e; {script}\necho ready; read -r forever");
        let mut child = Command::new("unshare")
            .args(["--mount", "bash", "-c", &script])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn list(&self, target: &Path) -> Listing {
        let root = ProcessRoot::open(self.0.id()).unwrap();
        let target = target.as_os_str().as_encoded_bytes();
        let mount = root
            .mounts()
            .iter()
            .find(|mount| mount.target == target)
            .unwrap();
        let options = Options {
            content: true,
            detail: true,
            ..Options::default()
        };
        list_mount(&root, mount, &options).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn paths(listing: &Listing, top: &Path) -> Vec<String> {
    let top = top.to_str().unwrap();
    let names = listing.files.iter().map(|file| {
        let path = String::from_utf8(file.path.clone()).unwrap();
        path.strip_prefix(top).unwrap().to_owned()
    });
    names.collect()
}

#[test]
fn a_tmpfs_is_listed_without_following_links_or_entering_other_mounts() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let top = directory.path().join("mem");
    let process = Process::new(
        directory.path(),
        "mkdir mem; mount -t tmpfs t mem; cd mem; mkdir -p d/e inner; echo 'x stratum+tcp://y' >d/f; \
         ln -s /etc out; ln -s /etc/shadow d/shadow; mkfifo d/pipe; mount -t tmpfs i inner; \
         echo hidden >inner/h; cp /bin/true prog; chmod 4755 prog",
    );
    let listing = process.list(&top);
    assert_eq!(listing.mount.kind, MountKind::Tmpfs);
    assert_eq!(
        paths(&listing, &top),
        [
            "/d",
            "/d/e",
            "/d/f",
            "/d/pipe",
            "/d/shadow",
            "/out",
            "/prog"
        ]
    );
    let rule = |name: &str| {
        let path = top.join(name).into_os_string().into_encoded_bytes();
        let file = listing.files.iter().find(|file| file.path == path).unwrap();
        (
            file.finding.as_ref().map(|finding| finding.rule.clone()),
            file.state.digest,
        )
    };
    assert_eq!(rule("prog").0.as_deref(), Some("setuid"));
    assert_eq!(rule("d/f").0.as_deref(), Some("miner"));
    assert!(matches!(rule("d/f").1, Digest::Sha256(_)));
    assert_eq!(rule("d/shadow").1, Digest::None);
    assert_eq!(paths(&process.list(&top.join("inner")), &top), ["/inner/h"]);
}

#[test]
fn a_bind_mount_of_one_file_is_that_file() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let process = Process::new(
        directory.path(),
        "echo secret >source; touch target; mount --bind source target",
    );
    let listing = process.list(&directory.path().join("target"));
    assert_eq!(listing.mount.kind, MountKind::Volume);
    assert_eq!(paths(&listing, directory.path()), ["/target"]);
    assert_eq!(listing.files[0].state.size, 7);
}

#[test]
fn where_an_overlay_keeps_its_marks_is_taken_from_the_kernel_only() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    for (options, namespace) in [("", Namespace::Trusted), (",userxattr", Namespace::User)] {
        // The forged mark would say otherwise.
        let script = format!(
            "rm -rf l u w m; mkdir l u w m; \
             mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w{options} m; \
             setfattr -n user.overlay.opaque -v y m; mkdir m/old; cp /bin/busybox m/busybox; \
             exec unshare --mount bash -c 'cd m; pivot_root . old; \
             exec /busybox sh -c \"echo ready; read -r forever\"'"
        );
        let process = Process::new(directory.path(), &script);
        assert_eq!(
            namespace_of(process.0.id()).unwrap(),
            Some(namespace),
            "{options}"
        );
    }
    // The root of this process is whatever it is, and it is no container's.
    assert!(namespace_of(std::process::id()).is_ok());
}
