//! Killed at any step, a capture or replacement loses nothing and can be finished.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::os::unix::process::ExitStatusExt as _;

use fs_err as fs;
use serde_json::json;
use support::attacked::Host;
use support::outcome_of;

/// Runs `invar ARGS` until it reaches this step, where it is killed.
fn kill_at(host: &Host, step: &str, args: &[&str]) {
    let output = host
        .command(args)
        .env("INVAR_KILL_AT", step)
        .output()
        .unwrap();
    assert_eq!(
        output.status.signal(),
        Some(9),
        "{step}: {:?}",
        outcome_of(&output)
    );
}

fn assert_valid(host: &Host, step: &str, id: &str) {
    let output = host.output(&["evidence", "verify", id]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{step}: {:?}",
        outcome_of(&output)
    );
}

fn states(host: &Host) -> Vec<(String, String)> {
    let listed = host.json(&["evidence", "ls"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let listed = listed.as_array().unwrap().iter();
    listed
        .map(|found| (text(&found["id"]), text(&found["state"])))
        .collect()
}

/// What the container is doing once the capture was finished.
const CAPTURES: &[(&str, &str, &str)] = &[
    // Step, and the state after `capture` and after `capture --stop` were finished.
    ("begun", "running", "running"),
    ("freezing", "running", "running"),
    ("frozen", "running", "exited"),
    ("processes", "running", "exited"),
    ("taking", "running", "exited"),
    ("taken", "running", "exited"),
    ("killing", "", "exited"),
    ("killed", "", "exited"),
    ("resumed", "running", ""),
    ("files", "running", "exited"),
    ("logs", "running", "exited"),
    ("changes", "running", "exited"),
    ("complete", "running", "exited"),
    ("sealing", "running", "exited"),
    ("signed", "running", "exited"),
    ("custody", "running", "exited"),
];

fn survives(host: &Host, steps: &[(&str, &str, &str)]) {
    for (step, going_on, stopped) in steps {
        let ways = [
            (&["capture", "web"][..], going_on),
            (&["capture", "--stop", "web"], stopped),
        ];
        for (args, state) in ways.into_iter().filter(|(_, state)| !state.is_empty()) {
            host.attacked("web", &[]);
            let upper = host.upper("web");
            kill_at(host, step, args);
            let (id, found) = states(host).remove(0);
            assert_eq!(found, "incomplete", "{step}");
            host.run(&["evidence", "resume", &id]);
            assert_eq!(states(host), [(id.clone(), "sealed".to_owned())], "{step}");
            assert_valid(host, step, &id);
            assert_eq!(host.status("web"), **state, "{step} {args:?}");
            let kept = host.evidence(&id).join("raw/upper/tmp/rootme").exists();
            assert!(
                kept || upper.join("tmp/rootme").exists(),
                "{step}: it is lost"
            );
            // Before it was frozen nothing was taken, and nothing may be frozen again.
            let is_early = matches!(*step, "begun" | "freezing");
            assert_eq!(kept, !is_early, "{step}");
            host.run(&["evidence", "rm", "--force", &id]);
            host.remove("web");
        }
    }
}

#[test]
fn a_capture_killed_at_any_step_is_finished_by_resume() {
    survives(&Host::embedded(), CAPTURES);
}

#[test]
fn a_capture_of_a_docker_container_killed_at_any_step_is_finished_by_resume() {
    let decisive = [
        "freezing", "frozen", "taking", "killing", "killed", "resumed",
    ];
    let steps: Vec<_> = CAPTURES
        .iter()
        .copied()
        .filter(|(step, _, _)| decisive.contains(step))
        .collect();
    survives(&Host::docker(), &steps);
}

#[test]
fn a_capture_at_work_is_shown_as_such_and_left_alone() {
    let host = Host::embedded();
    host.attacked("web", &[]);
    // Stopped and not killed: it holds its lock.
    let mut child = host
        .command(&["capture", "web"])
        .env("INVAR_STOP_AT", "frozen")
        .spawn()
        .unwrap();
    let id = invar_testkit::eventually("the capture began", || {
        let (id, state) = states(&host).pop()?;
        (state == "capturing" && host.status("web") == "paused").then_some(id)
    });
    for args in [["evidence", "resume", &id], ["evidence", "rm", &id]] {
        let (code, _, err) = outcome_of(&host.output(&args));
        assert_eq!(code, Some(1));
        assert!(
            err.contains("is being captured by another process"),
            "{err}"
        );
    }
    support::signal(child.id(), "CONT");
    assert!(child.wait().unwrap().success());
    assert_valid(&host, "frozen", &id);
    assert_eq!(host.status("web"), "running");
}

const REPLACEMENTS: &[&str] = &[
    "recreated",
    "started",
    "begun",
    "freezing",
    "frozen",
    "taken",
    "killing",
    "killed",
    "retired",
    "half-swapped",
    "swapped",
    "changes",
    "signed",
    "sealed",
    "removed",
];

fn replacement_survives(host: &Host, steps: &[&str]) {
    for step in steps {
        host.attacked("web", &[]);
        let old = host.id("web");
        kill_at(host, step, &["replace", "web"]);
        let done = host.json(&["replace", "web"]);
        assert_eq!(done["old"], json!(old), "{step}");
        assert_eq!(done["new"], json!(host.id("web")), "{step}");
        assert_eq!(host.names(), ["web"], "{step}");
        assert_eq!(host.status("web"), "running", "{step}");
        let id = done["evidence"].as_str().unwrap();
        let kept = host.evidence(id).join("raw/upper/tmp/rootme");
        assert!(kept.exists(), "{step}");
        for (id, state) in states(host) {
            assert_eq!(state, "sealed", "{step}");
            assert_valid(host, step, &id);
            host.run(&["evidence", "rm", "--force", &id]);
        }
        host.remove("web");
        let left = host.invar().root().join("replacements");
        assert_eq!(support::tree(&left), Vec::<String>::new(), "{step}");
    }
}

#[test]
fn a_replacement_killed_at_any_step_is_finished_by_the_next() {
    replacement_survives(&Host::embedded(), REPLACEMENTS);
}

#[test]
fn a_replacement_of_a_docker_container_killed_at_any_step_is_finished_by_the_next() {
    let decisive = [
        "started",
        "frozen",
        "taken",
        "killed",
        "half-swapped",
        "swapped",
        "sealed",
    ];
    replacement_survives(&Host::docker(), &decisive);
}

#[test]
fn a_container_left_frozen_is_named_with_the_way_out_until_it_goes_on() {
    for host in [Host::embedded(), Host::docker()] {
        host.start("web", &[], "sleep 100000");
        kill_at(&host, "processes", &["capture", "web"]);
        let (id, _) = states(&host).remove(0);
        let kind = host.json(&["evidence", "ls"])[0]["evidence"]["container"]["engine"].clone();
        let frozen = format!("{}:web is FROZEN", kind.as_str().unwrap());
        for listing in [&["evidence", "ls"][..], &["ps"]] {
            let (code, _, err) = outcome_of(&host.output(listing));
            assert_eq!(code, Some(0));
            assert!(err.contains(&frozen), "{listing:?}: {err}");
            let way = format!("invar evidence resume {id}");
            assert!(err.contains(&way), "{listing:?}: {err}");
        }
        assert_eq!(
            host.json(&["evidence", "ls"])[0]["left_frozen"],
            json!(true)
        );
        host.run(&["unpause", "web"]);
        for listing in [&["evidence", "ls"][..], &["ps"]] {
            let (_, _, err) = outcome_of(&host.output(listing));
            assert!(!err.contains("FROZEN"), "{listing:?}: {err}");
        }
        host.run(&["evidence", "resume", &id]);
        assert_eq!(host.status("web"), "running");
        assert_valid(&host, "resumed later", &id);
    }
}

/// `invar ARGS`, which leaves sealing to the background.
fn in_background(host: &Host, args: &[&str]) -> std::process::Command {
    let mut command = host.command(args);
    command.env_remove("INVAR_WAIT");
    command
}

fn sealed(host: &Host, id: &str) {
    invar_testkit::eventually("it is sealed in the background", || {
        states(host)
            .contains(&(id.to_owned(), "sealed".to_owned()))
            .then_some(())
    });
}

#[test]
fn sealing_goes_on_after_the_command_and_is_waited_for_by_who_reads_it() {
    for args in [&["capture", "web"][..], &["capture", "--stop", "web"]] {
        let host = Host::embedded();
        host.attacked("web", &[]);
        // Stopped in the middle of sealing: the command has ended nevertheless.
        let output = in_background(&host, args)
            .env("INVAR_STOP_AT", "sealing")
            .output()
            .unwrap();
        let (code, id, err) = outcome_of(&output);
        assert_eq!(code, Some(0), "{err}");
        let id = id.trim();
        assert!(err.contains("being sealed in the background"), "{err}");
        assert_eq!(states(&host), [(id.to_owned(), "sealing".to_owned())]);
        let (code, _, err) = outcome_of(&host.output(&["evidence", "rm", "--force", id]));
        assert_eq!(code, Some(1), "{err}");

        let reader = host.command(&["evidence", "verify", id]).spawn().unwrap();
        support::signal(worker_of(&host), "CONT");
        let verified = reader.wait_with_output().unwrap();
        assert_eq!(verified.status.code(), Some(0));
        assert_eq!(states(&host), [(id.to_owned(), "sealed".to_owned())]);
    }
}

/// The process that is stopped while it seals evidence of this host.
fn worker_of(host: &Host) -> u32 {
    let root = host.invar().root().to_str().unwrap().to_owned();
    invar_testkit::eventually("the worker is stopped", || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| {
                let environment = fs::read(format!("/proc/{pid}/environ"));
                let environment = environment.unwrap_or_default();
                let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
                let is_stopped = stat.is_ok_and(|stat| stat.contains(") T "));
                is_stopped && String::from_utf8_lossy(&environment).contains(&root)
            })
    })
}

#[test]
fn sealing_that_was_killed_in_the_background_is_finished_by_who_reads_it() {
    for step in ["kept", "changes", "sealing", "signed", "custody"] {
        let host = Host::embedded();
        host.attacked("web", &[]);
        let output = in_background(&host, &["capture", "--stop", "web"])
            .env("INVAR_KILL_AT", step)
            .output()
            .unwrap();
        let (code, id, err) = outcome_of(&output);
        if step == "kept" {
            // Killed before the command heard of it.
            assert_eq!(code, Some(1), "{err}");
            assert!(err.contains("invar evidence ls"), "{err}");
        } else {
            assert_eq!((code, id.trim().is_empty()), (Some(0), false), "{err}");
        }
        let id = invar_testkit::eventually("it was killed", || {
            let (id, state) = states(&host).pop()?;
            (state == "incomplete").then_some(id)
        });
        let output = host.output(&["evidence", "show", &id]);
        let (code, shown, err) = outcome_of(&output);
        assert_eq!(code, Some(0), "{step}: {err}");
        assert!(err.contains("was interrupted"), "{step}: {err}");
        assert!(shown.contains("sealed"), "{step}: {shown}");
        assert_valid(&host, step, &id);
    }
}

#[test]
fn a_replacement_leaves_sealing_and_the_old_container_to_the_background() {
    for host in [Host::embedded(), Host::docker()] {
        host.attacked("web", &[]);
        let old = host.id("web");
        let output = in_background(&host, &["replace", "--format", "json", "web"])
            .output()
            .unwrap();
        let (code, done, err) = outcome_of(&output);
        assert_eq!(code, Some(0), "{err}");
        let done: serde_json::Value = serde_json::from_str(&done).unwrap();
        assert_eq!(done["new"], json!(host.id("web")));
        assert_eq!(host.status("web"), "running");
        sealed(&host, done["evidence"].as_str().unwrap());
        invar_testkit::eventually("the old container is removed", || {
            (host.status(&old) == "gone").then_some(())
        });
        assert_valid(&host, "background", done["evidence"].as_str().unwrap());
    }
}

#[test]
fn a_replacement_killed_in_the_background_is_finished_by_the_next() {
    for step in ["changes", "sealing", "sealed", "removed"] {
        let host = Host::embedded();
        host.attacked("web", &[]);
        let old = host.id("web");
        let output = in_background(&host, &["replace", "web"])
            .env("INVAR_KILL_AT", step)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{:?}", outcome_of(&output));
        let lock = host.invar().root().join(format!("replacements/{old}.lock"));
        invar_testkit::eventually("its worker was killed", || {
            let lock = fs::OpenOptions::new().write(true).open(&lock).ok()?;
            let is_free = !invar_sys::lock::is_locked(&lock).unwrap();
            is_free.then_some(())
        });
        host.run(&["replace", "web"]);
        assert_eq!(host.names(), ["web"], "{step}");
        assert!(
            states(&host).iter().all(|(_, state)| state == "sealed"),
            "{step}"
        );
    }
}
