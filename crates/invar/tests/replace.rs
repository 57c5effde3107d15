//! A fresh container in the place of an attacked one: names, order, evidence, ways to fail.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use fs_err as fs;
use invar_testkit::eventually;
use serde_json::{Value, json};
use support::attacked::{Host, jsonl};
use support::outcome_of;

fn assert_valid(host: &Host, id: &str) {
    let output = host.output(&["evidence", "verify", id]);
    assert_eq!(output.status.code(), Some(0), "{:?}", outcome_of(&output));
}

/// The fresh container has the name and nothing of the intruder; the old one is evidence only.
fn swaps(host: &Host, method: &str) {
    host.attacked("web", &[]);
    let old = host.id("web");
    let done = host.json(&["replace", "web"]);
    assert_eq!(done["old"], json!(old));
    assert_eq!(done["new"], json!(host.id("web")));
    assert_ne!(done["new"], done["old"]);
    assert_eq!(
        (&done["order"], &done["gap_ms"]),
        (&json!("fresh_first"), &json!(0))
    );
    assert_eq!(host.status("web"), "running");
    assert_eq!(host.status(&old), "gone");
    assert_eq!(host.names(), ["web"]);

    let id = done["evidence"].as_str().unwrap();
    let shown = host.json(&["evidence", "show", id]);
    let summary = &shown["evidence"]["summary"];
    assert_eq!(summary["upper"]["method"], json!(method), "{summary}");
    assert_eq!(summary["upper"]["copied"], json!(0), "{summary}");
    let changes = jsonl(host.evidence(id).join("changes.jsonl"));
    assert!(changes.iter().any(|change| change["path"] == "/tmp/rootme"));
    assert_valid(host, id);
    if let Host::Docker(_, docker) = host {
        let format = "{{.Image}}";
        assert_eq!(docker.run(&["ps", "--format", format]), "busybox");
    }
}

#[test]
fn a_podman_container_is_replaced_without_copying_a_byte() {
    swaps(&Host::podman(), "linked");
}

#[test]
fn a_fresh_docker_container_has_the_very_image_although_its_name_moved() {
    let host = Host::docker();
    host.start("web", &[], "sleep 100000");
    let Host::Docker(_, docker) = &host else {
        unreachable!("it was made with Docker");
    };
    let image = docker.run(&["inspect", "--format", "{{.Image}}", "web"]);
    docker.run(&["commit", "--change", "LABEL moved=yes", "web", "busybox"]);
    host.run(&["replace", "web"]);
    let fresh = docker.run(&["inspect", "--format", "{{.Image}}", "web"]);
    assert_eq!(fresh, image);
}

#[test]
fn an_embedded_container_is_replaced_without_copying_a_byte() {
    swaps(&Host::embedded(), "renamed");
}

#[test]
fn a_docker_container_is_replaced_without_copying_a_byte() {
    swaps(&Host::docker(), "linked");
}

#[test]
fn the_fresh_container_is_as_built_and_runs_the_same_program() {
    let host = Host::embedded();
    let flags = ["-e", "COLOR=blue", "--label", "team=shop"];
    host.start("web", &flags, "echo ready; sleep 100000");
    host.exec("web", "echo defaced > /www/index.html");
    host.run(&["replace", "web"]);
    assert_eq!(
        host.exec("web", "cat /www/index.html; echo $COLOR"),
        "<h1>as built</h1>\nblue"
    );
    assert_eq!(host.inspect("web", "/Config/Labels/team"), json!("shop"));
}

#[test]
fn without_capture_the_old_container_is_gone_and_no_evidence_is_made() {
    let host = Host::embedded();
    host.start(
        "web",
        &[],
        "trap 'exit 0' TERM; while :; do sleep 0.05; done",
    );
    let done = host.json(&["replace", "--no-capture", "web"]);
    assert_eq!(done["evidence"], Value::Null);
    assert_eq!(host.run(&["evidence", "ls", "--quiet"]), "");
    assert_eq!(host.names(), ["web"]);
}

#[test]
fn a_container_on_a_volume_ends_before_the_fresh_one_starts() {
    let host = Host::embedded();
    let script = "echo hello >> /data/log; sleep 100000";
    host.start("db", &["-v", "data:/data"], script);
    let done = host.json(&["replace", "db"]);
    assert_eq!(done["order"], "old_first");
    assert_eq!(done["because"], r#"it writes to the volume "data""#);
    assert!(done["gap_ms"].as_u64().unwrap() > 0, "{done}");
    assert_eq!(host.exec("db", "cat /data/log"), "hello\nhello");
}

/// Its second run ends at once: the volume tells it that it is the second.
const RUNS_ONCE: &str = "[ ! -e /data/ran ] || { echo 'no second time'; exit 7; }
    touch /data/ran /as-it-was; sleep 100000";
/// So that it is waited for, however late it ends on a busy machine.
const NOT_YET: &[&str] = &["--health-cmd", "false", "--health-interval", "1h"];

#[test]
fn a_fresh_container_that_does_not_come_up_puts_the_old_one_back() {
    for host in [Host::embedded(), Host::docker()] {
        host.start("db", &[&["-v", "data:/data"], NOT_YET].concat(), RUNS_ONCE);
        let upper = host.upper("db");
        eventually("it ran", || upper.join("as-it-was").exists().then_some(()));
        let old = host.id("db");
        // The old one may run again.
        let output = host.output(&["replace", "db"]);
        let (code, _, err) = outcome_of(&output);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("the old container was started again"), "{err}");
        assert!(
            err.contains("ended with exit code 7; it printed: no second time"),
            "{err}"
        );
        assert_eq!(host.id("db"), old);
        assert_eq!(host.names(), ["db"]);
        // Its own changes are there again, and in the evidence.
        assert!(upper.join("as-it-was").exists());
        let id = host.run(&["evidence", "ls", "--quiet"]);
        assert!(host.evidence(&id).join("raw/upper/as-it-was").exists());
        fs::write(upper.join("as-it-was"), "written later").unwrap();
        assert_valid(&host, &id);
    }
}

#[test]
fn a_fresh_container_that_fails_first_leaves_the_old_one_untouched() {
    let host = Host::embedded();
    let shared = host.invar().root().join("shared");
    fs::create_dir(&shared).unwrap();
    let bind = format!("{}:/data", shared.display());
    host.start("web", &[&["-v", &bind], NOT_YET].concat(), RUNS_ONCE);
    eventually("it ran", || shared.join("ran").exists().then_some(()));
    let (old, pid) = (host.id("web"), host.pid("web"));
    let (code, _, err) = outcome_of(&host.output(&["replace", "web"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("ended with exit code 7"), "{err}");
    assert_eq!((host.id("web"), host.pid("web")), (old, pid));
    assert_eq!(host.status("web"), "running");
    assert_eq!(host.names(), ["web"]);
    assert_eq!(host.run(&["evidence", "ls", "--quiet"]), "");
}

#[test]
fn a_container_that_removes_itself_is_replaced_too() {
    for host in [Host::embedded(), Host::docker()] {
        host.attacked("web", &["--rm"]);
        let done = host.json(&["replace", "web"]);
        assert_eq!(host.names(), ["web"]);
        assert_eq!(host.status("web"), "running");
        let id = done["evidence"].as_str().unwrap();
        assert!(host.evidence(id).join("raw/upper/tmp/rootme").exists());
        assert_valid(&host, id);
    }
}

#[test]
fn a_read_only_container_is_replaced_and_its_processes_are_kept() {
    let host = Host::embedded();
    host.run(&["run", "-d", "--name", "web", "busybox", "sleep", "100000"]);
    let done = host.json(&["replace", "web"]);
    let id = done["evidence"].as_str().unwrap();
    let shown = host.json(&["evidence", "show", id]);
    assert_eq!(shown["evidence"]["summary"]["upper"], Value::Null);
    assert_eq!(shown["evidence"]["summary"]["processes"], json!(1));
    assert_valid(&host, id);
    assert_eq!(host.status("web"), "running");
}
