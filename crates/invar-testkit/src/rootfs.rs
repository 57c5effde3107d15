//! Root file systems from Debian packages, made once and kept in `target/testkit`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use rustix::fs::{FlockOperation, flock};

use crate::tool::{checked, require};

/// Bump when the way a root file system is made changes.
const VERSION: u32 = 1;

/// A tar of a root file system with busybox and all its applets, `/etc/passwd` and the usual
/// directories. Small, and made without a network.
pub fn busybox_tar() -> PathBuf {
    cached("busybox", |tar| {
        let busybox = require("busybox", "busybox-static");
        let mut archive = tar::Builder::new(tar);
        for directory in ["bin", "etc", "root", "tmp", "var", "var/tmp", "home", "www"] {
            let mode = if directory.ends_with("tmp") {
                0o1777
            } else {
                0o755
            };
            directory_entry(&mut archive, directory, mode);
        }
        file_entry(
            &mut archive,
            "bin/busybox",
            0o755,
            &fs::read(&busybox).unwrap(),
        );
        let applets = checked(Command::new(&busybox).arg("--list")).stdout;
        for applet in String::from_utf8(applets).unwrap().lines() {
            if applet != "busybox" {
                let name = format!("bin/{applet}");
                let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                archive.append_link(&mut header, name, "busybox").unwrap();
            }
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        file_entry(&mut archive, "etc/passwd", 0o644, passwd.as_bytes());
        file_entry(
            &mut archive,
            "etc/group",
            0o644,
            b"root:x:0:\nnogroup:x:65534:\n",
        );
        file_entry(
            &mut archive,
            "www/index.html",
            0o644,
            b"<h1>as built</h1>\n",
        );
        archive.into_inner().unwrap().flush().unwrap();
    })
}

/// A tar of a minimal Debian root file system, made with mmdebstrap from Debian's mirrors.
pub fn debian_tar() -> PathBuf {
    cached("debian", |tar| {
        let mut command = Command::new(require("mmdebstrap", "mmdebstrap"));
        command.args([
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--format=tar",
        ]);
        command.args(["bookworm", "-"]);
        tar.write_all(&checked(&mut command).stdout).unwrap();
    })
}

/// The file of this name under `target/testkit`, made by `make` when it is not there. Several
/// test processes may ask at once; one makes it.
fn cached(name: &str, make: impl FnOnce(&mut fs::File)) -> PathBuf {
    let directory = cache_directory();
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{name}-v{VERSION}.tar"));
    let lock = fs::File::create(directory.join(format!("{name}.lock"))).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    if !path.exists() {
        let unfinished = directory.join(format!("{name}.unfinished"));
        let mut file = fs::File::create(&unfinished).unwrap();
        make(&mut file);
        fs::rename(&unfinished, &path).unwrap();
    }
    path
}

fn cache_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testkit")
}

fn directory_entry(archive: &mut tar::Builder<impl Write>, path: &str, mode: u32) {
    let mut header = header(tar::EntryType::Directory, mode, 0);
    archive
        .append_data(&mut header, format!("{path}/"), std::io::empty())
        .unwrap();
}

fn file_entry(archive: &mut tar::Builder<impl Write>, path: &str, mode: u32, content: &[u8]) {
    let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
    archive.append_data(&mut header, path, content).unwrap();
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}
