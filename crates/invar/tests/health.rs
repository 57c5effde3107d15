//! Health checks.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::process::Command;

use invar_testkit::eventually;
use invar_testkit::invar::Invar;
use serde_json::{Value, json};
use support::{busybox, inspect, outcome, process_field};

fn health(invar: &Invar, name: &str) -> Value {
    inspect(invar, name)["State"]["Health"].clone()
}

fn wait_for(invar: &Invar, name: &str, wanted: &str) {
    eventually(&format!("{name} is {wanted}"), || {
        (health(invar, name)["Status"] == wanted).then_some(())
    });
}

/// A container whose health is whether a file is there.
fn checked_by_file(invar: &Invar, name: &str, flags: &[&str]) {
    let check = [
        "--health-cmd",
        "echo looked; test -e /tmp/well",
        "--health-interval",
        "50ms",
    ];
    let run = ["run", "-d", "--name", name];
    invar.run(&[&run[..], &check, flags, &["busybox", "sleep", "1000"]].concat());
}

#[test]
fn a_container_becomes_healthy_and_unhealthy_as_its_check_says() {
    let invar = busybox();
    checked_by_file(&invar, "web", &["--health-retries", "2"]);
    assert_eq!(health(&invar, "web")["Status"], "starting");
    wait_for(&invar, "web", "unhealthy");
    assert!(health(&invar, "web")["FailingStreak"].as_u64().unwrap() >= 2);
    assert!(invar.run(&["ps"]).contains("(unhealthy)"));
    invar.run(&["exec", "web", "touch", "/tmp/well"]);
    wait_for(&invar, "web", "healthy");
    let found = health(&invar, "web");
    assert_eq!(found["FailingStreak"], 0);
    let last = found["Log"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["ExitCode"], &last["Output"]),
        (&json!(0), &json!("looked\n"))
    );
    assert!(found["Log"].as_array().unwrap().len() <= 5);
    assert!(invar.run(&["ps"]).contains("(healthy)"));
    invar.run(&["exec", "web", "rm", "/tmp/well"]);
    wait_for(&invar, "web", "unhealthy");
    let listed: Value = serde_json::from_str(&invar.run(&["ps", "--format", "json"])).unwrap();
    assert_eq!(listed[0]["health"], "unhealthy");
}

#[test]
fn failures_do_not_count_in_the_start_period() {
    let invar = busybox();
    let flags = ["--health-retries", "1", "--health-start-period", "1h"];
    checked_by_file(&invar, "slow", &flags);
    eventually("three checks", || {
        (health(&invar, "slow")["Log"].as_array().unwrap().len() >= 3).then_some(())
    });
    assert_eq!(health(&invar, "slow")["Status"], "starting");
    invar.run(&["exec", "slow", "touch", "/tmp/well"]);
    wait_for(&invar, "slow", "healthy");
    // Once it was well, the period is over.
    invar.run(&["exec", "slow", "rm", "/tmp/well"]);
    wait_for(&invar, "slow", "unhealthy");
}

#[test]
fn a_check_that_takes_too_long_fails_and_its_program_ends() {
    let invar = busybox();
    let flags = [
        "--health-cmd",
        "exec sleep 4242",
        "--health-interval",
        "10ms",
        "--health-timeout",
        "200ms",
        "--health-retries",
        "2",
    ];
    let run = ["run", "-d", "--name", "hangs"];
    invar.run(&[&run[..], &flags, &["busybox", "sleep", "1000"]].concat());
    wait_for(&invar, "hangs", "unhealthy");
    let last = health(&invar, "hangs")["Log"][0].clone();
    assert_eq!(last["ExitCode"], -1);
    assert!(
        last["Output"].as_str().unwrap().contains("took longer"),
        "{last}"
    );
    // At most the one that is under way.
    eventually("checks that were given up end", || {
        let inside = invar.run(&["exec", "hangs", "ps"]);
        (inside.matches("sleep 4242").count() <= 1).then_some(())
    });
}

#[test]
fn a_check_has_no_more_rights_than_the_container() {
    let invar = busybox();
    let check = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; id -u";
    let flags = [
        "--health-cmd",
        check,
        "--health-interval",
        "20ms",
        "-u",
        "nobody",
    ];
    let run = ["run", "-d", "--name", "c"];
    invar.run(&[&run[..], &flags, &["busybox", "sleep", "1000"]].concat());
    wait_for(&invar, "c", "healthy");
    assert_eq!(
        health(&invar, "c")["Log"][0]["Output"],
        "CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n65534\n"
    );
}

#[test]
fn much_output_of_a_check_is_cut_and_does_not_hold_it_up() {
    let invar = busybox();
    let flags = ["--health-cmd", "seq 100000", "--health-interval", "20ms"];
    let run = ["run", "-d", "--name", "c"];
    invar.run(&[&run[..], &flags, &["busybox", "sleep", "1000"]].concat());
    wait_for(&invar, "c", "healthy");
    let output = health(&invar, "c")["Log"][0]["Output"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        output.starts_with("1\n2\n3\n") && output.len() == 4096,
        "{}",
        output.len()
    );
}

#[test]
fn a_paused_container_is_not_checked() {
    let invar = busybox();
    checked_by_file(&invar, "web", &["--health-retries", "1000"]);
    let checks = || health(&invar, "web")["FailingStreak"].as_u64().unwrap();
    eventually("a check", || (checks() > 0).then_some(()));
    invar.run(&["pause", "web"]);
    // One that was under way when it was frozen takes its time; it is not another.
    let before = checks();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(checks() <= before + 1);
    invar.run(&["unpause", "web"]);
    eventually("more checks", || (checks() > before + 1).then_some(()));
}

#[test]
fn the_image_s_check_is_used_changed_and_left_out() {
    let invar = busybox();
    let archive = with_healthcheck(&invar);
    invar.run(&["load", "-i", archive.to_str().unwrap()]);
    let create = |name: &str, flags: &[&str]| {
        let create = ["create", "--name", name];
        invar.run(&[&create[..], flags, &["checked:1", "sleep", "1000"]].concat());
        inspect(&invar, name)["Config"]["Healthcheck"].clone()
    };
    let own = create("own", &[]);
    assert_eq!(
        own["Test"],
        json!(["CMD", "/bin/sh", "-c", "test -e /tmp/well"])
    );
    assert_eq!(
        (&own["Interval"], &own["Retries"]),
        (&json!(70_000_000), &json!(4))
    );
    assert_eq!(own["Timeout"], json!(30_000_000_000_u64));
    let changed = create(
        "changed",
        &["--health-cmd", "true", "--health-retries", "9"],
    );
    assert_eq!(changed["Test"], json!(["CMD", "/bin/sh", "-c", "true"]));
    assert_eq!(
        (&changed["Interval"], &changed["Retries"]),
        (&json!(70_000_000), &json!(9))
    );
    assert_eq!(create("none", &["--no-healthcheck"]), Value::Null);
    invar.run(&["start", "own"]);
    invar.run(&["exec", "own", "touch", "/tmp/well"]);
    wait_for(&invar, "own", "healthy");
}

/// An archive of busybox as `docker build` with a HEALTHCHECK would make it.
fn with_healthcheck(invar: &Invar) -> std::path::PathBuf {
    let saved = invar.root().join("plain.tar");
    invar.run(&["save", "busybox", "-o", saved.to_str().unwrap()]);
    let script = r#"
import hashlib, io, json, sys, tarfile
source = tarfile.open(sys.argv[1])
files = {m.name: source.extractfile(m).read() for m in source if m.isfile()}
manifest = json.loads(files["manifest.json"])
config = json.loads(files[manifest[0]["Config"]])
config.setdefault("config", {})["Healthcheck"] = {
    "Test": ["CMD-SHELL", "test -e /tmp/well"], "Interval": 70000000, "Retries": 4}
text = json.dumps(config).encode()
name = hashlib.sha256(text).hexdigest() + ".json"
layers = manifest[0]["Layers"]
target = tarfile.open(sys.argv[2], "w")
def add(name, data):
    info = tarfile.TarInfo(name); info.size = len(data); target.addfile(info, io.BytesIO(data))
add(name, text)
for layer in layers: add(layer, files[layer])
add("manifest.json", json.dumps([{"Config": name, "RepoTags": ["checked:1"], "Layers": layers}]).encode())
target.close()
"#;
    let made = invar.root().join("checked.tar");
    invar_testkit::checked(
        Command::new(invar_testkit::require("python3", "python3"))
            .args(["-c", script])
            .args([&saved, &made]),
    );
    made
}

#[test]
fn a_check_cannot_be_asked_for_and_left_out() {
    let invar = busybox();
    for (flags, reason) in [
        (
            &["--no-healthcheck", "--health-cmd", "true"][..],
            "contradict",
        ),
        (&["--health-cmd", ""][..], "empty"),
        (
            &["--health-cmd", "true", "--health-interval", "soon"][..],
            "not a time",
        ),
    ] {
        let args = [&["run"][..], flags, &["busybox", "true"]].concat();
        let (code, _, said) = outcome(&invar, &args);
        assert!(code == Some(125) && said.contains(reason), "{said}");
    }
}

#[test]
fn a_shim_that_checks_stays_small() {
    let invar = busybox();
    checked_by_file(&invar, "web", &[]);
    wait_for(&invar, "web", "unhealthy");
    let parent: i32 = process_field(support::pid(&invar, "web"), "PPid")
        .parse()
        .unwrap();
    let children =
        fs_err::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    // The program, and at most one check.
    assert!(children.split_ascii_whitespace().count() <= 2, "{children}");
    assert_eq!(process_field(parent, "Threads"), "1");
}
