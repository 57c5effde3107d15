//! `invar drill`: every claim holds here, and nothing stays behind however it ends.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use fs_err as fs;
use invar_testkit::docker::PrivateDocker;
use invar_testkit::invar::Invar;
use invar_testkit::rootfs;
use serde_json::Value;
use support::{busybox, empty, outcome, outcome_of, signal, spawn, text};

/// Places of drills that belong to this test: each names its own, for others may run.
fn place() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("invar-test-drill-")
        .tempdir_in("/var/tmp")
        .unwrap()
}

/// `invar drill ARGS` in that place, and not on the Docker of this machine.
fn drill(invar: &Invar, place: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = invar.command(&[&["drill"], args].concat());
    let nobody = format!("unix://{}/none", place.path().display());
    command
        .env("TMPDIR", place.path())
        .env("DOCKER_HOST", nobody);
    command
}

fn is_empty(place: &Path) -> bool {
    fs::read_dir(place).unwrap().next().is_none()
}

fn is_mounted(place: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(place.to_str().unwrap())
}

/// Whether a process was started from a state root below this place.
fn has_processes(place: &Path) -> bool {
    let place = place.to_str().unwrap();
    fs::read_dir("/proc").unwrap().any(|entry| {
        let path = entry.unwrap().path().join("cmdline");
        fs::read(path).is_ok_and(|line| text(&line).contains(place))
    })
}

#[test]
fn every_claim_holds_and_nothing_stays_behind() {
    let (invar, place) = (empty(), place());
    let mut command = drill(&invar, &place, &["--format", "json"]);
    let (code, out, said) = outcome_of(&command.output().unwrap());
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{said}"));
    assert_eq!(
        (code, &report["holds"]),
        (Some(0), &true.into()),
        "{out}{said}"
    );
    let claims = report["steps"].as_array().unwrap().iter();
    let claims: Vec<&Value> = claims
        .flat_map(|step| step["claims"].as_array().unwrap())
        .collect();
    assert!(claims.len() > 30, "{}", claims.len());
    assert!(claims.iter().all(|claim| claim["holds"] == true), "{out}");
    let on_docker = of_docker(&report);
    assert_eq!(on_docker["claims"], Value::Array(Vec::new()), "{on_docker}");
    let why = on_docker["seen"][0].as_str().unwrap();
    assert!(why.starts_with("not drilled: "), "{why}");
    assert!(is_empty(place.path()) && !is_mounted(place.path()) && !has_processes(place.path()));
    assert!(
        support::tree(invar.root()).is_empty(),
        "the user's state root was touched"
    );
}

#[test]
fn an_image_of_the_user_is_drilled_without_touching_it() {
    let (invar, place) = (busybox(), place());
    let mut command = drill(&invar, &place, &["--image", "busybox"]);
    let (code, out, said) = outcome_of(&command.output().unwrap());
    assert_eq!(code, Some(0), "{out}{said}");
    assert!(out.contains("edits /etc/passwd"), "{out}");
    assert!(out.contains("claims hold on this host"), "{out}");
    assert_eq!(invar.run(&["ps", "-aq"]), "");
    invar.run(&["image", "fsck"]);
    assert!(is_empty(place.path()) && !is_mounted(place.path()));
    let (code, _, said) = outcome(&invar, &["drill", "--image", "missing"]);
    assert!(code == Some(1) && said.contains("invar images"), "{said}");
}

#[test]
fn an_interrupted_drill_clears_everything_away() {
    for (after, name, expected) in [
        ("taken on stage", "INT", 130),
        ("read-only one", "TERM", 143),
        ("captured and replaced", "HUP", 129),
    ] {
        let (invar, place) = (empty(), place());
        let mut child = {
            let mut command = drill(&invar, &place, &[]);
            command.stdout(std::process::Stdio::piped());
            command.stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reached = lines.any(|line| line.unwrap().contains(after));
        assert!(reached, "{after}");
        signal(child.id(), name);
        lines.for_each(drop);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(expected),
            "{after}: {}",
            text(&output.stderr)
        );
        assert!(text(&output.stderr).contains("cleared away"), "{after}");
        let place = place.path();
        assert!(
            is_empty(place) && !is_mounted(place) && !has_processes(place),
            "{after}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_keeps_nothing_from_being_cleared() {
    let (invar, place) = (empty(), place());
    let mut command = drill(&invar, &place, &[]);
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    child.wait().unwrap();
    assert!(is_empty(place.path()) && !is_mounted(place.path()) && !has_processes(place.path()));
}

#[test]
fn a_kept_stage_can_be_looked_at() {
    let (invar, place) = (empty(), place());
    let mut command = drill(&invar, &place, &["--keep"]);
    let (code, out, said) = outcome_of(&command.output().unwrap());
    assert_eq!(code, Some(0), "{out}{said}");
    let root = fs::read_dir(place.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let root = root.to_str().unwrap();
    assert!(out.contains(root), "{out}");
    let mode = fs::metadata(root).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "others could read it");
    let listing = invar.run(&["--root", root, "evidence", "ls"]);
    assert!(listing.contains("sealed"), "{listing}");
    assert_eq!(
        invar.run(&["--root", root, "ps", "-q"]),
        "",
        "its containers are stopped"
    );
    drop(
        spawn(
            &invar,
            &["--root", root, "rm", "-f", "writable", "read-only"],
        )
        .wait(),
    );
}

/// The step that is about Docker.
fn of_docker(report: &Value) -> &Value {
    let mut steps = report["steps"].as_array().unwrap().iter();
    steps
        .find(|step| step["title"] == "a container of Docker is attacked")
        .unwrap()
}

#[test]
fn a_container_of_docker_is_drilled_too_and_the_user_s_are_left_alone() {
    let (invar, place, docker) = (empty(), place(), PrivateDocker::start());
    docker.import(&rootfs::busybox_tar(), "target");
    let own = [
        "run",
        "-d",
        "--name",
        "own",
        "--network",
        "none",
        "target",
        "sleep",
        "100000",
    ];
    let own = docker.run(&own);
    let mut command = drill(&invar, &place, &["--format", "json"]);
    command.env("DOCKER_HOST", docker.host());
    let (code, out, said) = outcome_of(&command.output().unwrap());
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{said}"));
    assert_eq!(code, Some(0), "{out}{said}");
    let claims = of_docker(&report)["claims"].as_array().unwrap();
    assert!(claims.iter().all(|claim| claim["holds"] == true), "{out}");
    for words in [
        "refused before",
        "who did it",
        "was captured",
        "and replaced",
        "stays on Docker",
    ] {
        let is_claimed = |claim: &Value| claim["claim"].as_str().unwrap().contains(words);
        assert!(claims.iter().any(is_claimed), "{words}: {out}");
    }
    let left = docker.run(&["ps", "--all", "--quiet", "--no-trunc"]);
    assert_eq!(left, own, "the user's container alone is left");
    let images = docker.run(&["images", "--format", "{{.Repository}}"]);
    assert_eq!(images, "target");
    assert!(is_empty(place.path()) && !is_mounted(place.path()) && !has_processes(place.path()));
}
