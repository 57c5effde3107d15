//! Every row of the table, on a real overlay and beside a real Docker Engine.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod stage;

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::Path;

use fs_err as fs;
use invar_drift::{Options, changes};
use invar_sys::mount::Overlay;
use invar_testkit::docker::PrivateDocker;
use stage::rows::{ROWS, Row};
use stage::{Stage, lines, open, shell};

fn content() -> Options {
    Options {
        content: true,
        ..Options::default()
    }
}

fn image(dir: &Path) {
    for row in ROWS {
        shell(dir, &row.image_script());
    }
}

fn act(dir: &Path) {
    for row in ROWS {
        shell(&dir.join(row.name), &row.action_script());
    }
}

fn expected(verdict: impl Fn(&Row) -> Vec<String>) -> BTreeSet<String> {
    ROWS.iter().flat_map(verdict).collect()
}

fn assert_same(actual: &BTreeSet<String>, expected: &BTreeSet<String>, who: &str) {
    let missing: Vec<_> = expected.difference(actual).collect();
    let surplus: Vec<_> = actual.difference(expected).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "{who}: missing {missing:#?}, surplus {surplus:#?}"
    );
}

#[test]
fn every_action_has_both_verdicts_of_the_table() {
    let stage = Stage::new(image);
    act(&stage.merged());
    let found = stage.compare(&content()).changes;
    let compatible = lines(&found, |change| change.compatible);
    assert_same(
        &compatible,
        &expected(|row| row.expected(row.compatible, true)),
        "compatible",
    );
    let actual = lines(&found, |change| change.actual);
    assert_same(
        &actual,
        &expected(|row| row.expected(row.actual, false)),
        "actual",
    );
}

#[test]
fn without_content_only_the_stealthy_edit_is_missed_and_counted() {
    let stage = Stage::new(image);
    act(&stage.merged());
    let with = lines(&stage.compare(&content()).changes, |change| change.actual);
    let without = stage.compare(&Options::default());
    let missed: Vec<_> = with
        .difference(&lines(&without.changes, |change| change.actual))
        .cloned()
        .collect();
    assert_eq!(missed, ["C /stealthy-edit/f"]);
    // It, and each file that was copied up and is the same in all that was looked at.
    assert_eq!(without.unread, 7);
}

#[test]
fn docker_diff_says_the_same_path_by_path() {
    let docker = PrivateDocker::start();
    let stage = tempfile::tempdir_in("/var/tmp").unwrap();
    let root = stage.path().join("root");
    fs::create_dir(&root).unwrap();
    image(&root);
    shell(
        &root,
        "mkdir bin; cp /usr/bin/busybox bin/; ln -s busybox bin/sleep; ln -s busybox bin/sh",
    );
    let tar = stage.path().join("image.tar");
    shell(&root, &format!("tar --xattrs -cf {} .", tar.display()));
    docker.import(&tar, "rows");
    let id = docker.run(&["run", "-d", "--network=none", "rows", "sleep", "1000"]);
    let pid = docker.run(&["inspect", "-f", "{{.State.Pid}}", &id]);
    act(Path::new(&format!("/proc/{pid}/root")));

    let docker_says: BTreeSet<String> = docker
        .run(&["diff", &id])
        .lines()
        .map(str::to_owned)
        .collect();
    let field = |name: &str| {
        docker.run(&[
            "inspect",
            "-f",
            &format!("{{{{.GraphDriver.Data.{name}}}}}"),
            &id,
        ])
    };
    let lowers: Vec<_> = field("LowerDir")
        .split(':')
        .map(|dir| open(Path::new(dir)))
        .collect();
    let lower = Overlay {
        source: "invar-test",
        lowers: lowers.iter().map(|dir| dir.as_fd()).collect(),
        data: Vec::new(),
        upper: None,
    }
    .mount()
    .unwrap();
    let upper = open(Path::new(&field("UpperDir")));
    let found = changes(lower.as_fd(), upper.as_fd(), &content()).unwrap();
    assert_same(
        &lines(&found, |change| change.compatible),
        &docker_says,
        "beside docker diff",
    );
    assert_same(
        &docker_says,
        &expected(|row| row.expected(row.compatible, true)),
        "docker diff beside the table",
    );
}
