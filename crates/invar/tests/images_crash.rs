//! Commands on images killed at any moment: what is there afterwards is whole, and what is left over
//! is removed by a prune.
#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "in tests a panic is the report, and a table has one type"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fs_err as fs;
use invar_testkit::invar::Invar;
use invar_testkit::rootfs;

fn invar() -> Invar {
    Invar::new(env!("CARGO_BIN_EXE_invar"))
}

/// Files of the content store.
fn objects(invar: &Invar) -> usize {
    let directories = fs::read_dir(invar.root().join("store/objects"));
    let Ok(directories) = directories else {
        return 0;
    };
    directories
        .map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().count())
        .sum()
}

/// Runs a command and kills it after a share of the time it takes when left alone.
fn kill(invar: &Invar, args: &[&str], after: Duration) {
    let mut child = invar
        .command(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How long a command takes when left alone.
fn time(invar: &Invar, args: &[&str]) -> Duration {
    let start = Instant::now();
    invar.run(args);
    start.elapsed()
}

/// Every image there is can be read to its last byte.
fn assert_whole(invar: &Invar, when: &str) {
    let checked = invar.output(&["image", "fsck"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{when}: {said}");
    invar.run(&["images"]);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn commands_killed_at_any_moment_leave_whole_images() {
    let invar = invar();
    let debian = rootfs::debian_tar();
    let busybox = rootfs::busybox_tar();
    invar.import("kept", &busybox);
    let archive = invar.root().join("saved.tar");
    invar.run(&["save", "kept", "-o", text(&archive)]);
    let import = ["import", "killed", text(&debian)];
    let load = ["load", "-i", text(&archive)];
    // Before each kill, `first` brings the store into the state that the command changes.
    let table: [(&[&str], &[&[&str]], u32); 5] = [
        (&import, &[], 10),
        (&load, &[&["rmi", "kept"], &["image", "prune"]], 8),
        (&["tag", "kept", "other"], &[], 6),
        (&["rmi", "kept"], &[&load], 6),
        (
            &["image", "prune"],
            &[&load, &import, &["rmi", "killed"]],
            8,
        ),
    ];
    for (command, first, kills) in table {
        let prepare = || {
            for args in first {
                // Already so after a kill that came late.
                drop(invar.output(args));
            }
        };
        prepare();
        let alone = time(&invar, command);
        for number in 0..kills {
            prepare();
            kill(&invar, command, alone * number / kills);
            assert_whole(&invar, &format!("{command:?} killed at {number}/{kills}"));
        }
        invar.run(&load);
    }
    // An import under a name that is taken leaves the image that had it, without a name.
    for id in invar.run(&["images", "--quiet"]).lines() {
        invar.run(&["rmi", id]);
    }
    invar.run(&["image", "prune"]);
    assert_eq!(objects(&invar), 0, "leftovers were not removed");
    invar.import("whole", &debian);
    assert_whole(&invar, "at the end");
}

#[test]
fn importing_again_repairs_what_the_disk_damaged() {
    let invar = invar();
    let tar = rootfs::busybox_tar();
    invar.import("busybox", &tar);
    let store = invar.root().join("store/objects");
    for directory in fs::read_dir(&store).unwrap() {
        for object in fs::read_dir(directory.unwrap().path()).unwrap() {
            let path = object.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            bytes[0] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    assert_eq!(invar.output(&["image", "fsck"]).status.code(), Some(3));
    // The recipe of a layer is compared only when it is complete.
    let first = invar.output(&["import", "again", text(&tar)]);
    let said = String::from_utf8(first.stderr).unwrap();
    assert!(
        said.contains("the damaged file is removed, try again"),
        "{said}"
    );
    invar.import("again", &tar);
    invar.run(&["image", "fsck"]);
}

#[test]
fn many_first_commands_at_once_agree_on_the_store() {
    let invar = invar();
    let tar = rootfs::busybox_tar();
    let children: Vec<_> = (0..8)
        .map(|number| {
            let name = format!("image-{number}");
            let mut command = invar.command(&["import", &name, text(&tar)]);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    }
    assert_eq!(invar.run(&["images"]).matches("image-").count(), 8);
    assert_whole(&invar, "after eight imports at once");
}
