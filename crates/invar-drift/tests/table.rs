//! Every row of the table, on a real overlay and beside a real Docker Engine.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod stage;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use fs_err as fs;
use invar_drift::{Change, Options, changes};
use invar_sys::mount::Overlay;
use invar_testkit::docker::PrivateDocker;
use invar_testkit::podman::PrivatePodman;
use stage::rows::{FAILS, ROWS, Row};
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

/// An archive of everything the image has, with programs to keep a container busy.
fn archive(stage: &Path) -> PathBuf {
    let root = stage.join("root");
    fs::create_dir(&root).unwrap();
    image(&root);
    shell(
        &root,
        "mkdir bin; cp /usr/bin/busybox bin/; ln -s busybox bin/sleep; ln -s busybox bin/sh",
    );
    let tar = stage.join("image.tar");
    shell(&root, &format!("tar --xattrs -cf {} .", tar.display()));
    tar
}

/// The comparison of what an engine's `inspect` names.
fn compare(lower: &str, upper: &str) -> Vec<Change> {
    let lowers: Vec<_> = lower.split(':').map(|dir| open(Path::new(dir))).collect();
    let overlay = Overlay {
        source: "invar-test",
        lowers: lowers.iter().map(AsFd::as_fd).collect(),
        data: Vec::new(),
        upper: None,
    };
    let upper = open(Path::new(upper));
    let merged;
    let lower = if let [only] = lowers.as_slice() {
        only.as_fd()
    } else {
        merged = overlay.mount().unwrap();
        merged.as_fd()
    };
    changes(lower, upper.as_fd(), &content()).unwrap()
}

fn docker_says_and_invar_says(tar: &Path) -> (BTreeSet<String>, Vec<Change>) {
    let docker = PrivateDocker::start();
    docker.import(tar, "rows");
    let id = docker.run(&["run", "-d", "--network=none", "rows", "sleep", "1000"]);
    let pid = docker.run(&["inspect", "-f", "{{.State.Pid}}", &id]);
    act(Path::new(&format!("/proc/{pid}/root")));
    let said = docker
        .run(&["diff", &id])
        .lines()
        .map(str::to_owned)
        .collect();
    let field = |name: &str| {
        let format = format!("{{{{.GraphDriver.Data.{name}}}}}");
        docker.run(&["inspect", "-f", &format, &id])
    };
    (said, compare(&field("LowerDir"), &field("UpperDir")))
}

/// `None` when `podman diff` fails.
fn podman_says_and_invar_says(
    podman: &PrivatePodman,
    rows: &[&Row],
) -> (Option<BTreeSet<String>>, Vec<Change>) {
    let id = podman.run(&["create", "rows", "sleep"]);
    let merged = podman.run(&["mount", &id]);
    for row in rows {
        shell(&Path::new(&merged).join(row.name), &row.action_script());
    }
    let output = podman.command().args(["diff", &id]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = output
        .status
        .success()
        .then(|| text.lines().map(str::to_owned).collect());
    let field = |name: &str| {
        let format = format!("{{{{.GraphDriver.Data.{name}}}}}");
        podman.run(&["inspect", "-f", &format, &id])
    };
    (said, compare(&field("LowerDir"), &field("UpperDir")))
}

fn assert_table(found: &[Change], rows: &[&Row], engine: &str) {
    let expected = |verdict: &dyn Fn(&Row) -> Vec<String>| {
        rows.iter()
            .flat_map(|row| verdict(row))
            .collect::<BTreeSet<_>>()
    };
    assert_same(
        &lines(found, |change| change.compatible),
        &expected(&|row| row.expected(row.compatible, true)),
        &format!("compatible, container of {engine}"),
    );
    assert_same(
        &lines(found, |change| change.actual),
        &expected(&|row| row.expected(row.actual, false)),
        &format!("actual, container of {engine}"),
    );
}

#[test]
fn docker_diff_and_podman_diff_say_what_the_table_says_and_invar_is_right_on_both() {
    let stage = tempfile::tempdir_in("/var/tmp").unwrap();
    let tar = archive(stage.path());
    let all: Vec<&Row> = ROWS.iter().collect();

    let (said, found) = docker_says_and_invar_says(&tar);
    assert_same(
        &said,
        &expected(|row| row.expected(row.compatible, true)),
        "docker diff",
    );
    assert_table(&found, &all, "docker");

    let podman = PrivatePodman::new();
    podman.import(&tar, "rows");
    let (fails, works): (Vec<&Row>, Vec<&Row>) = all.iter().partition(|row| row.podman == FAILS);
    let (said, found) = podman_says_and_invar_says(&podman, &works);
    let table = works
        .iter()
        .flat_map(|row| row.expected(row.podman, false))
        .collect();
    assert_same(&said.unwrap(), &table, "podman diff");
    assert_table(&found, &works, "podman");
    for row in fails {
        let (said, found) = podman_says_and_invar_says(&podman, &[row]);
        assert_eq!(said, None, "podman diff of {}", row.name);
        assert_table(&found, &[row], "podman");
    }
}
