//! Containers from creation to removal, and what happens when their helpers are killed.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::time::{Duration, Instant};

use invar_testkit::eventually;
use invar_testkit::invar::Invar;
use serde_json::Value;
use support::{
    busybox, inspect, is_alive, outcome, outcome_of, pid, process_field, signal, spawn, status,
    wait_for_log,
};

/// A container that says `ready` and goes on until it is told to end.
fn service(invar: &Invar, name: &str) {
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    invar.run(&["run", "-d", "--name", name, "busybox", "sh", "-c", script]);
    wait_for_log(invar, name, "ready");
}

#[test]
fn a_container_goes_through_every_state() {
    let invar = busybox();
    let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    invar.run(&["create", "--name", "life", "busybox", "sh", "-c", script]);
    assert_eq!(status(&invar, "life"), "created");
    assert_eq!(invar.run(&["ps", "-q"]), "");
    let steps: &[(&[&str], &str)] = &[
        (&["start", "life"], "running"),
        (&["start", "life"], "running"),
        (&["pause", "life"], "paused"),
        (&["unpause", "life"], "running"),
        (&["stop", "life"], "exited"),
        (&["stop", "life"], "exited"),
        (&["restart", "life"], "running"),
        (&["restart", "-t", "5", "life"], "running"),
        (&["kill", "life"], "exited"),
    ];
    for (args, expected) in steps {
        assert_eq!(invar.run(args), "life", "{args:?}");
        // A kill is only sent.
        eventually(&format!("{args:?} makes it {expected}"), || {
            (status(&invar, "life") == *expected).then_some(())
        });
        if *expected == "running" {
            wait_for_log(&invar, "life", "ready");
        }
    }
    assert_eq!(inspect(&invar, "life")["State"]["ExitCode"], 137);
    assert_eq!(invar.run(&["rm", "life"]), "life");
    assert_eq!(invar.run(&["ps", "-aq"]), "");
}

#[test]
fn operations_that_do_not_fit_the_state_say_what_to_do() {
    let invar = busybox();
    service(&invar, "up");
    invar.run(&["create", "--name", "new", "busybox", "true"]);
    let table: &[(&[&str], &str)] = &[
        (&["rm", "up"], "invar stop up"),
        (&["unpause", "up"], "invar pause up"),
        (&["pause", "new"], "invar start new"),
        (&["kill", "new"], "invar start new"),
        (&["stop", "missing"], "invar ps -a"),
        (&["start", "-a", "up"], "invar logs -f up"),
        (&["rename", "up", "new"], "invar rm -f new"),
        (&["kill", "-s", "NONSENSE", "up"], "is not a signal"),
    ];
    for (args, advice) in table {
        let (code, _, said) = outcome(&invar, args);
        assert!(code.is_some_and(|code| code != 0), "{args:?}");
        assert!(said.contains(advice), "{args:?}: {said}");
    }
    assert_eq!(status(&invar, "up"), "running");
}

#[test]
fn a_program_that_ignores_its_stop_signal_is_killed_after_the_timeout() {
    let invar = busybox();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    invar.run(&["run", "-d", "--name", "deaf", "busybox", "sh", "-c", script]);
    wait_for_log(&invar, "deaf", "ready");
    let before = Instant::now();
    invar.run(&["stop", "-t", "1", "deaf"]);
    let took = before.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(8),
        "{took:?}"
    );
    assert_eq!(inspect(&invar, "deaf")["State"]["ExitCode"], 137);
}

#[test]
fn the_stop_signal_is_the_one_asked_for() {
    let invar = busybox();
    let script = "trap 'echo got usr1; exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let flags = ["run", "-d", "--stop-signal", "SIGUSR1", "--name", "own"];
    invar.run(&[&flags[..], &["busybox", "sh", "-c", script]].concat());
    wait_for_log(&invar, "own", "ready");
    invar.run(&["stop", "own"]);
    assert_eq!(inspect(&invar, "own")["State"]["ExitCode"], 9);
    assert!(invar.run(&["logs", "own"]).contains("got usr1"));
}

#[test]
fn a_paused_container_stands_still_and_can_be_stopped() {
    let invar = busybox();
    service(&invar, "frozen");
    let pid = pid(&invar, "frozen");
    invar.run(&["pause", "frozen"]);
    let ticks = || {
        let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<String> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split(' ')
            .map(str::to_owned)
            .collect();
        (fields[12].clone(), fields[13].clone())
    };
    let before = ticks();
    assert_eq!(outcome(&invar, &["exec", "frozen", "true"]).0, Some(125));
    assert_eq!(ticks(), before, "it ran while paused");
    invar.run(&["stop", "-t", "2", "frozen"]);
    assert_eq!(status(&invar, "frozen"), "exited");
    service(&invar, "frozen-too");
    invar.run(&["pause", "frozen-too"]);
    assert_eq!(invar.run(&["rm", "-f", "frozen-too"]), "frozen-too");
}

#[test]
fn several_names_go_on_after_one_fails_and_end_with_1() {
    let invar = busybox();
    for name in ["one", "two"] {
        invar.run(&["create", "--name", name, "busybox", "sleep", "1000"]);
    }
    for command in ["start", "pause", "unpause", "kill"] {
        let (code, out, said) = outcome(&invar, &[command, "one", "missing", "two"]);
        assert_eq!(
            (code, out.as_str()),
            (Some(1), "one\ntwo"),
            "{command}: {said}"
        );
        assert!(said.contains("\"missing\""), "{command}: {said}");
    }
    let (code, out, _) = outcome(&invar, &["rm", "-f", "one", "missing", "two"]);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "one\ntwo"),
        "forced removal of nothing is done"
    );
    assert_eq!(outcome(&invar, &["rm", "missing"]).0, Some(1));
}

#[test]
fn wait_prints_the_code_of_each_also_of_one_that_is_removed() {
    let invar = busybox();
    let script = "echo ready; while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 5";
    invar.run(&[
        "run", "-d", "--rm", "--name", "brief", "busybox", "sh", "-c", script,
    ]);
    invar.run(&[
        "run", "-d", "--name", "done", "busybox", "sh", "-c", "exit 6",
    ]);
    let waiting = spawn(&invar, &["wait", "brief", "done"]);
    // It holds a handle on the container once it sleeps in a system call of its own.
    eventually("the command waits", || {
        let state = process_field(waiting.id().cast_signed(), "State");
        state.starts_with('S').then_some(())
    });
    std::thread::sleep(Duration::from_millis(200));
    invar.run(&["exec", "brief", "touch", "/tmp/end"]);
    let found = outcome_of(&waiting.wait_with_output().unwrap());
    assert_eq!(found, (Some(0), "5\n6".into(), String::new()));
}

#[test]
fn listings_show_what_docker_shows() {
    let invar = busybox();
    service(&invar, "web");
    invar.run(&["create", "--name", "idle", "busybox", "true"]);
    let table = invar.run(&["ps", "-a"]);
    let heading: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        heading.join(" "),
        "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAME ENGINE"
    );
    for words in [["web", "Up ", "embedded"], ["idle", "Created", "ago"]] {
        let row = table.lines().find(|line| line.contains(words[0])).unwrap();
        assert!(words.iter().all(|word| row.contains(word)), "{row}");
    }
    assert_eq!(invar.run(&["ps", "-q"]).len(), 12);
    assert_eq!(invar.run(&["ps", "-q", "--no-trunc"]).len(), 64);
    let all: Value = serde_json::from_str(&invar.run(&["ps", "-a", "--format", "json"])).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(
        (&all[0]["name"], &all[0]["state"]),
        (&"idle".into(), &"created".into())
    );
    assert_eq!(invar.run(&["ps", "--format", "jsonl"]).lines().count(), 1);
    assert_eq!(outcome(&invar, &["ps", "--engine", "lxc"]).0, Some(1));
}

#[test]
fn inspect_shows_containers_and_images_in_one_array() {
    let invar = busybox();
    invar.run(&[
        "create",
        "--name",
        "web",
        "-l",
        "team=edge",
        "busybox",
        "true",
    ]);
    let (code, out, said) = outcome(&invar, &["inspect", "web", "missing", "busybox"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no image \"missing\""), "{said}");
    let all: Value = serde_json::from_str(&out).unwrap();
    let (web, image) = (&all[0], &all[1]);
    assert_eq!(web["Name"], "/web");
    assert_eq!(web["Config"]["Labels"]["team"], "edge");
    assert_eq!(web["Path"], "true");
    assert_eq!(web["HostConfig"]["ReadonlyRootfs"], true);
    assert_eq!(web["Image"], image["Id"]);
    assert_eq!(image["RepoTags"][0], "busybox:latest");
    let revision = web["Revision"].as_str().unwrap();
    assert!(revision.starts_with("sha256:"), "{revision}");
    assert_eq!(
        outcome(&invar, &["inspect", "--type", "container", "busybox"]).0,
        Some(1)
    );
    let (code, _, said) = outcome(&invar, &["inspect", "-f", "{{.Id}}", "web"]);
    assert!(code == Some(2) && said.contains("jq"), "{said}");
}

#[test]
fn containers_are_found_by_name_id_prefix_and_engine() {
    let invar = busybox();
    let id = invar.run(&["create", "--name", "web", "busybox", "true"]);
    for name in ["web", &id, &id[..12], &id[..4], "embedded:web"] {
        assert_eq!(inspect(&invar, name)["Id"], id, "{name}");
    }
    invar.run(&["rename", "web", "shop"]);
    assert_eq!(inspect(&invar, "shop")["Id"], id);
    assert_eq!(outcome(&invar, &["inspect", "web"]).0, Some(1));
    let (_, _, said) = outcome(&invar, &["stop", "lxc:web"]);
    assert!(said.contains("no engine \"lxc\""), "{said}");
}

#[test]
fn a_container_survives_its_command_being_killed() {
    let invar = busybox();
    let script = "echo ready; while [ ! -e /tmp/end ]; do sleep 0.05; done; echo last; exit 3";
    let mut child = spawn(
        &invar,
        &["run", "--name", "alone", "busybox", "sh", "-c", script],
    );
    eventually("it exists", || {
        invar
            .output(&["inspect", "alone"])
            .status
            .success()
            .then_some(())
    });
    wait_for_log(&invar, "alone", "ready");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(status(&invar, "alone"), "running");
    invar.run(&["exec", "alone", "touch", "/tmp/end"]);
    assert_eq!(invar.run(&["wait", "alone"]), "3");
    assert!(invar.run(&["logs", "alone"]).ends_with("last"));
}

#[test]
fn a_killed_shim_leaves_a_container_that_can_be_seen_removed_and_started() {
    let invar = busybox();
    for name in ["removed", "again"] {
        service(&invar, name);
        let init = pid(&invar, name);
        let shim: u32 = process_field(init, "PPid").parse().unwrap();
        assert_ne!(shim, 1, "the shim is the parent of the container");
        signal(shim, "KILL");
        eventually("the shim is gone", || {
            (!is_alive(shim.cast_signed())).then_some(())
        });
        // Nobody would reap or stop it any more: whoever looks first ends it.
        let state = &inspect(&invar, name)["State"];
        assert!(!is_alive(init), "{state}");
        assert_eq!(state["Status"], "exited", "{state}");
        assert_ne!(state["Error"], "", "an operator must learn of it");
        assert!(invar.run(&["ps", "-a"]).contains(name));
        assert_eq!(invar.run(&["ps", "-q"]), "");
        if name == "again" {
            invar.run(&["start", name]);
            assert_eq!(status(&invar, name), "running");
        }
        assert_eq!(invar.run(&["rm", "-f", name]), name);
    }
    assert_eq!(invar.run(&["ps", "-aq"]), "");
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(invar.root().to_str().unwrap()), "{mounts}");
}

#[test]
fn restarting_a_container_of_rm_is_refused() {
    let invar = busybox();
    invar.run(&[
        "run", "-d", "--rm", "--name", "once", "busybox", "sleep", "1000",
    ]);
    let (code, _, said) = outcome(&invar, &["restart", "once"]);
    assert!(code == Some(1) && said.contains("--rm"), "{said}");
    assert_eq!(status(&invar, "once"), "running");
}

#[test]
fn an_image_stays_while_a_container_needs_it() {
    let invar = busybox();
    invar.run(&["create", "--name", "user", "busybox", "true"]);
    let (code, _, said) = outcome(&invar, &["rmi", "busybox"]);
    assert_eq!(code, Some(1), "{said}");
    invar.run(&["start", "-a", "user"]);
    invar.run(&["rm", "user"]);
    invar.run(&["rmi", "busybox"]);
}

#[test]
fn listings_are_filtered_as_with_docker() {
    let invar = busybox();
    invar.run(&[
        "run",
        "-d",
        "--name",
        "web-1",
        "-l",
        "tier=front",
        "busybox",
        "sleep",
        "1000",
    ]);
    invar.run(&[
        "run",
        "-d",
        "--name",
        "web-2",
        "-l",
        "tier=back",
        "busybox",
        "sleep",
        "1000",
    ]);
    drop(invar.output(&["run", "--name", "job", "busybox", "sh", "-c", "exit 3"]));
    let names = |filters: &[&str]| {
        let mut args = vec!["ps", "--engine", "embedded", "--format", "json"];
        for filter in filters {
            args.extend(["-f", filter]);
        }
        let listed: serde_json::Value = serde_json::from_str(&invar.run(&args)).unwrap();
        let listed = listed.as_array().unwrap().iter();
        let mut names: Vec<String> = listed
            .map(|container| container["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names.join(" ")
    };
    for (filters, expected) in [
        (&["name=web"][..], "web-1 web-2"),
        (&["name=web-1", "name=web-2"], "web-1 web-2"),
        (&["label=tier=front"], "web-1"),
        (&["label=tier", "name=2"], "web-2"),
        (&["status=exited"], "job"),
        (&["exited=3"], "job"),
        (&["exited=0"], ""),
        (&["ancestor=busybox", "status=running"], "web-1 web-2"),
        (&["health=none", "name=web-1"], "web-1"),
    ] {
        assert_eq!(names(filters), expected, "{filters:?}");
    }
    assert_eq!(outcome(&invar, &["ps", "-f", "color=red"]).0, Some(2));
}
