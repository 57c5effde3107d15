//! Restart policies, and what an operator's wish does to them.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::process::Command;

use fs_err as fs;
use invar_testkit::invar::Invar;
use invar_testkit::{checked, eventually, require};
use support::{busybox, inspect, is_alive, outcome, pid, status};

fn restarts(invar: &Invar, name: &str) -> u64 {
    inspect(invar, name)["RestartCount"].as_u64().unwrap()
}

fn wait_for_status(invar: &Invar, name: &str, wanted: &str) {
    eventually(&format!("{name} is {wanted}"), || {
        (status(invar, name) == wanted).then_some(())
    });
}

#[test]
fn a_failing_program_is_started_as_often_as_allowed_with_growing_pauses() {
    let invar = busybox();
    let script = "date +%s%N; exit 3";
    let args = [
        "--name",
        "fails",
        "--restart",
        "on-failure:3",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    invar.run(&[&["run", "-d"][..], &args].concat());
    wait_for_status(&invar, "fails", "exited");
    let state = &inspect(&invar, "fails");
    assert_eq!(
        (restarts(&invar, "fails"), &state["State"]["ExitCode"]),
        (3, &3.into())
    );
    assert_eq!(state["HostConfig"]["RestartPolicy"]["MaximumRetryCount"], 3);
    let said = invar.run(&["logs", "-t", "fails"]);
    let times: Vec<jiff::Timestamp> = said
        .lines()
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(times.len(), 4, "{said}");
    for (pair, pause) in times.windows(2).zip([100, 200, 400]) {
        let apart = pair[1].duration_since(pair[0]).as_millis();
        assert!(apart >= pause, "{apart} ms instead of {pause} ms: {said}");
    }
}

#[test]
fn a_program_that_succeeds_is_not_a_failure_but_always_is_always() {
    let invar = busybox();
    let run = |name: &str, policy: &str| {
        invar.run(&[
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            policy,
            "busybox",
            "true",
        ]);
    };
    run("once", "on-failure");
    assert_eq!(invar.run(&["wait", "once"]), "0");
    run("again", "always");
    eventually("two restarts", || {
        (restarts(&invar, "again") >= 2).then_some(())
    });
    assert_eq!(
        (status(&invar, "once").as_str(), restarts(&invar, "once")),
        ("exited", 0)
    );
}

#[test]
fn stopping_is_obeyed_by_every_policy_while_it_runs_and_while_it_waits() {
    let invar = busybox();
    let always = ["run", "-d", "--restart", "always", "--name"];
    invar.run(&[&always[..], &["up", "busybox", "sleep", "1000"]].concat());
    invar.run(&["stop", "-t", "0", "up"]);
    invar.run(&[&always[..], &["killed", "busybox", "sleep", "1000"]].concat());
    invar.run(&["kill", "killed"]);
    assert_eq!(invar.run(&["wait", "killed"]), "137");
    invar.run(&[&always[..], &["waits", "busybox", "false"]].concat());
    // By then a pause is long enough to be met.
    eventually("four restarts", || {
        (restarts(&invar, "waits") >= 4).then_some(())
    });
    wait_for_status(&invar, "waits", "restarting");
    assert!(invar.run(&["ps"]).contains("Restarting (1)"));
    invar.run(&["stop", "waits"]);
    for name in ["up", "killed", "waits"] {
        assert_eq!(status(&invar, name), "exited", "{name}");
    }
    assert_eq!(inspect(&invar, "waits")["State"]["ExitCode"], 1);
    // Started by hand it is subject to its policy again.
    invar.run(&["start", "waits"]);
    eventually("a restart", || {
        (restarts(&invar, "waits") >= 1).then_some(())
    });
    invar.run(&["rm", "-f", "waits"]);
    assert_eq!(outcome(&invar, &["inspect", "waits"]).0, Some(1));
}

#[test]
fn a_program_killed_by_a_signal_from_elsewhere_comes_back() {
    let invar = busybox();
    let args = ["run", "-d", "--name", "web", "--restart", "unless-stopped"];
    invar.run(&[&args[..], &["busybox", "sleep", "1000"]].concat());
    let first = pid(&invar, "web");
    support::signal(u32::try_from(first).unwrap(), "KILL");
    eventually("another first process", || {
        let state = &inspect(&invar, "web")["State"];
        let now = state["Pid"].as_i64().unwrap();
        (state["Status"] == "running" && now != i64::from(first)).then_some(())
    });
    assert_eq!(restarts(&invar, "web"), 1);
    assert_eq!(invar.run(&["exec", "web", "echo", "well"]), "well");
}

#[test]
fn killing_what_waits_leaves_a_container_that_has_ended_and_can_be_started() {
    let invar = busybox();
    invar.run(&[
        "run",
        "-d",
        "--name",
        "c",
        "--restart",
        "always",
        "busybox",
        "false",
    ]);
    eventually("four restarts", || {
        (restarts(&invar, "c") >= 4).then_some(())
    });
    wait_for_status(&invar, "c", "restarting");
    let id = inspect(&invar, "c")["Id"].as_str().unwrap().to_owned();
    let waiting = invar_testkit::checked(
        std::process::Command::new("pgrep").args(["-f", &format!("shim-restart .* {id}")]),
    );
    let waiting: u32 = support::text(&waiting.stdout)
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    support::signal(waiting, "KILL");
    wait_for_status(&invar, "c", "exited");
    let error = inspect(&invar, "c")["State"]["Error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(error.contains("killed while it waited"), "{error}");
    invar.run(&["start", "c"]);
    eventually("a restart", || (restarts(&invar, "c") >= 1).then_some(()));
}

#[test]
fn the_shim_leaves_the_container_s_namespaces_and_memory_before_it_waits() {
    let invar = busybox();
    invar.run(&[
        "run",
        "-d",
        "--name",
        "c",
        "--restart",
        "always",
        "busybox",
        "false",
    ]);
    eventually("four restarts", || {
        (restarts(&invar, "c") >= 4).then_some(())
    });
    wait_for_status(&invar, "c", "restarting");
    let id = inspect(&invar, "c")["Id"].as_str().unwrap().to_owned();
    let waiting = support::text(
        &invar_testkit::checked(
            std::process::Command::new("pgrep").args(["-f", &format!("shim-restart .* {id}")]),
        )
        .stdout,
    );
    for kind in ["net", "mnt"] {
        let namespace = |pid: &str| fs_err::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(namespace(&waiting), namespace("self"), "{kind}");
    }
}

#[test]
fn what_contradicts_is_refused() {
    let invar = busybox();
    for (policy, reason) in [
        ("sometimes", "is not a policy"),
        ("always:3", "only on-failure"),
        ("on-failure:many", "not a number"),
    ] {
        let args = ["run", "--restart", policy, "busybox", "true"];
        let (code, _, said) = outcome(&invar, &args);
        assert!(code == Some(125) && said.contains(reason), "{said}");
    }
    let args = ["run", "--rm", "--restart", "always", "busybox", "true"];
    let (code, _, said) = outcome(&invar, &args);
    assert!(code == Some(125) && said.contains("contradict"), "{said}");
}

#[test]
fn a_program_that_is_not_there_is_not_tried_again() {
    let invar = busybox();
    let args = [
        "run",
        "-d",
        "--name",
        "c",
        "--restart",
        "always",
        "busybox",
        "nothing-there",
    ];
    assert_eq!(outcome(&invar, &args).0, Some(127));
    assert_eq!(
        (status(&invar, "c").as_str(), restarts(&invar, "c")),
        ("exited", 0)
    );
}

#[test]
fn a_container_that_is_started_again_is_not_left_by_its_processes() {
    let invar = busybox();
    let script = "sleep 1000 & echo $!; exit 1";
    let args = [
        "run",
        "-d",
        "--name",
        "c",
        "--restart",
        "on-failure:1",
        "busybox",
        "sh",
        "-c",
    ];
    invar.run(&[&args[..], &[script]].concat());
    wait_for_status(&invar, "c", "exited");
    assert!(!is_alive(pid(&invar, "c").max(1)) || pid(&invar, "c") == 0);
    let groups = support::text(
        &std::process::Command::new("sh")
            .args([
                "-c",
                "cat /sys/fs/cgroup/*/invar/$0/cgroup.procs 2>/dev/null || true",
            ])
            .arg(inspect(&invar, "c")["Id"].as_str().unwrap())
            .output()
            .unwrap()
            .stdout,
    );
    assert_eq!(groups, "");
}

#[test]
fn the_unit_that_starts_them_at_boot_is_valid() {
    let place = tempfile::tempdir().unwrap();
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist/invar-boot.service");
    let text = fs::read_to_string(unit).unwrap();
    let installed = "/usr/local/bin/invar";
    assert_eq!(text.matches(&format!("={installed} boot")).count(), 2);
    let here = place.path().join("invar-boot.service");
    fs::write(&here, text.replace(installed, env!("CARGO_BIN_EXE_invar"))).unwrap();
    let output = checked(
        Command::new(require("systemd-analyze", "systemd"))
            .args(["verify", "--man=no"])
            .arg(&here),
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Of other units of this host it may say what it likes.
    assert!(!said.contains("invar-boot"), "{said}");
    assert!(text.contains("WantedBy=multi-user.target"));
}
