//! `stats`, `top`, `events`, `update`, `attach`, `prune`, `boot`.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fs_err as fs;
use invar_testkit::eventually;
use serde_json::Value;
use support::{
    busybox, inspect, on_terminal, outcome, outcome_of, pid, spawn, status, wait_for_log,
};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn stats_say_what_a_container_uses() {
    let invar = busybox();
    let busy =
        "dd if=/dev/zero of=/tmp/f bs=1M count=20 2>/dev/null; echo ready; while :; do :; done";
    let flags = ["-d", "--name", "busy", "-m", "64m"];
    invar.run(&[&["run"][..], &flags, &["busybox", "sh", "-c", busy]].concat());
    invar.run(&["run", "-d", "--name", "idle", "busybox", "sleep", "1000"]);
    wait_for_log(&invar, "busy", "ready");
    let args = ["stats", "--no-stream", "--format", "json"];
    let all = json(&invar.run(&[&args[..], &["busy", "idle"]].concat()));
    let (busy, idle) = (&all[0], &all[1]);
    assert_eq!(
        (&busy["name"], &busy["memory_limit"]),
        (&"busy".into(), &(64 << 20).into())
    );
    // 20 MiB in a tmpfs are its memory.
    assert!(busy["memory"].as_u64().unwrap() > 20 << 20, "{busy}");
    assert!(busy["cpu_percent"].as_f64().unwrap() > 10.0, "{busy}");
    assert!(idle["cpu_percent"].as_f64().unwrap() < 5.0, "{idle}");
    assert_eq!(
        (&idle["pids"], &idle["network_received"]),
        (&1.into(), &0.into())
    );
    let table = invar.run(&["stats", "--no-stream", "busy"]);
    assert!(
        table.contains("MEM USAGE / LIMIT") && table.contains("67.1 MB"),
        "{table}"
    );
    let mut stream = spawn(&invar, &["stats", "--format", "jsonl", "idle"]);
    let mut lines = BufReader::new(stream.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        assert_eq!(json(&lines.next().unwrap().unwrap())["name"], "idle");
    }
    stream.kill().unwrap();
    stream.wait().unwrap();
}

#[test]
fn top_lists_every_process_and_escapes_their_names() {
    let invar = busybox();
    let script = "sleep 1000 & sh -c 'sleep 1001' \"$(printf 'evil\\033[31m')\" & wait";
    invar.run(&["run", "-d", "--name", "c", "busybox", "sh", "-c", script]);
    eventually("its processes", || {
        let all = json(&invar.run(&["top", "--format", "json", "c"]));
        (all.as_array().unwrap().len() >= 3).then_some(())
    });
    let table = invar.run(&["top", "c"]);
    assert!(
        table.contains("sleep 1000") && !table.contains('\u{1b}'),
        "{table}"
    );
    let all = json(&invar.run(&["top", "--format", "json", "c"]));
    assert_eq!(all[0]["pid"].as_i64(), Some(pid(&invar, "c").into()));
    invar.run(&["stop", "-t", "0", "c"]);
    assert_eq!(outcome(&invar, &["top", "c"]).0, Some(1));
}

#[test]
fn events_tell_a_container_s_life_and_follow() {
    let invar = busybox();
    let mut follower = spawn(
        &invar,
        &[
            "events",
            "--since",
            "0",
            "--format",
            "json",
            "--filter",
            "container=life",
        ],
    );
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || {
        let event = json(&lines.next().unwrap().unwrap());
        event["action"].as_str().unwrap().to_owned()
    };
    invar.run(&["run", "-d", "--name", "other", "busybox", "true"]);
    invar.run(&["run", "-d", "--name", "life", "busybox", "sleep", "1000"]);
    assert_eq!([next(), next()], ["create", "start"]);
    invar.run(&["pause", "life"]);
    invar.run(&["unpause", "life"]);
    drop(invar.output(&["exec", "life", "false"]));
    invar.run(&["update", "-m", "64m", "life"]);
    invar.run(&["stop", "-t", "0", "life"]);
    let seen: Vec<String> = (0..7).map(|_| next()).collect();
    assert_eq!(
        seen,
        [
            "pause",
            "unpause",
            "exec_start",
            "exec_die",
            "update",
            "die",
            "stop"
        ]
    );
    invar.run(&["rm", "life"]);
    assert_eq!(next(), "destroy");
    follower.kill().unwrap();
    follower.wait().unwrap();
    let past = [
        "events", "--since", "1h", "--until", "0s", "--format", "json",
    ];
    let ends = invar.run(&[&past[..], &["--filter", "event=die"]].concat());
    let ends: Vec<Value> = ends.lines().map(json).collect();
    assert_eq!(ends.len(), 2, "{ends:?}");
    assert_eq!(
        (&ends[0]["name"], &ends[0]["attributes"]["exit_code"]),
        (&"other".into(), &"0".into())
    );
    assert_eq!(ends[1]["attributes"]["exit_code"], "137");
    assert_eq!(invar.run(&["events", "--until", "1h"]), "");
    assert_eq!(
        outcome(&invar, &["events", "--filter", "color=red"]).0,
        Some(2)
    );
}

#[test]
fn events_of_kinds_nobody_asked_for_are_there_too() {
    let invar = busybox();
    let flags = [
        "--health-cmd",
        "true",
        "--health-interval",
        "20ms",
        "-m",
        "16m",
    ];
    let run = ["run", "-d", "--name", "c"];
    invar.run(&[&run[..], &flags, &["busybox", "sleep", "1000"]].concat());
    let actions = || {
        let all = invar.run(&[
            "events", "--since", "0", "--until", "0s", "--format", "json",
        ]);
        all.lines()
            .map(|line| json(line)["action"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    eventually("its health", || {
        actions()
            .contains(&"health_status: healthy".to_owned())
            .then_some(())
    });
    invar.run(&["rename", "c", "d"]);
    invar.run(&["kill", "d"]);
    invar.run(&["wait", "d"]);
    let all = actions();
    for action in ["rename", "kill", "die"] {
        assert!(all.contains(&action.to_owned()), "{action}: {all:?}");
    }
    assert_eq!(
        outcome(
            &invar,
            &[
                "run",
                "--name",
                "o",
                "-m",
                "16m",
                "busybox",
                "tail",
                "/dev/zero"
            ]
        )
        .0,
        Some(137)
    );
    assert!(actions().contains(&"oom".to_owned()));
}

#[test]
fn limits_change_while_a_container_runs_and_stay_changed() {
    let invar = busybox();
    let args = [
        "run", "-d", "--name", "c", "-m", "32m", "--cpus", "0.5", "busybox", "sleep", "1000",
    ];
    invar.run(&args);
    let before = inspect(&invar, "c")["Revision"].clone();
    invar.run(&[
        "update",
        "-m",
        "64m",
        "--cpus",
        "1",
        "--pids-limit",
        "50",
        "--restart",
        "on-failure:2",
        "c",
    ]);
    let host = &inspect(&invar, "c")["HostConfig"];
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["RestartPolicy"]["MaximumRetryCount"], 2);
    assert_ne!(
        inspect(&invar, "c")["Revision"],
        before,
        "it is asked to be something else"
    );
    let used = json(&invar.run(&["stats", "--no-stream", "--format", "json", "c"]));
    assert_eq!(used[0]["memory_limit"], 64 << 20);
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid(&invar, "c"))).unwrap();
    let path = groups
        .lines()
        .find(|line| line.contains("pids") || line.starts_with("0::/invar"))
        .unwrap();
    let path = path.rsplit(':').next().unwrap();
    let most = fs::read_to_string(format!("/sys/fs/cgroup/pids{path}/pids.max"))
        .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup{path}/pids.max")));
    assert_eq!(most.unwrap().trim(), "50");
    // Smaller, larger, and none at all.
    for memory in ["16m", "128m", "-1"] {
        invar.run(&["update", "-m", memory, "c"]);
    }
    let used = json(&invar.run(&["stats", "--no-stream", "--format", "json", "c"]));
    assert_eq!(used[0]["memory_limit"], Value::Null);
    invar.run(&["restart", "-t", "0", "c"]);
    assert_eq!(
        inspect(&invar, "c")["HostConfig"]["NanoCpus"],
        1_000_000_000
    );
    for (args, reason) in [
        (&["update", "c"][..], "nothing to change"),
        (&["update", "-m", "1k", "c"][..], "6m"),
        (&["update", "--cpus", "4096", "c"][..], "this machine has"),
    ] {
        let (code, _, said) = outcome(&invar, args);
        assert!(code == Some(1) && said.contains(reason), "{said}");
    }
}

#[test]
fn who_attaches_sees_output_types_and_gets_the_exit_code() {
    let invar = busybox();
    let script = "while read line; do echo got $line; [ $line = end ] && exit 7; done; echo eof";
    invar.run(&[
        "run", "-d", "-i", "--name", "c", "busybox", "sh", "-c", script,
    ]);
    let mut first = invar
        .command(&["attach", "c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut second = spawn(&invar, &["attach", "--no-stdin", "c"]);
    let mut typed = first.stdin.take().unwrap();
    let mut shown = BufReader::new(first.stdout.take().unwrap()).lines();
    let also_shown = BufReader::new(second.stdout.take().unwrap()).lines();
    let (sender, seen) = mpsc::channel();
    let reader = thread::spawn(move || {
        also_shown
            .map(Result::unwrap)
            .for_each(|line| sender.send(line).unwrap());
    });
    // The second sees only what is written once it is there.
    let mut number = 0;
    while seen.recv_timeout(Duration::from_millis(20)).is_err() {
        number += 1;
        assert!(number < 1500, "the second never saw anything");
        writeln!(typed, "line{number}").unwrap();
        let line = shown.next().unwrap().unwrap();
        assert_eq!(line, format!("got line{number}"));
    }
    writeln!(typed, "end").unwrap();
    assert_eq!(shown.next().unwrap().unwrap(), "got end");
    reader.join().unwrap();
    assert_eq!(seen.iter().last().as_deref(), Some("got end"));
    assert_eq!(first.wait().unwrap().code(), Some(7));
    assert_eq!(second.wait().unwrap().code(), Some(7));
    assert!(
        invar.run(&["logs", "c"]).ends_with("got end"),
        "the log has it too"
    );
}

#[test]
fn the_end_of_what_is_typed_reaches_the_program() {
    let invar = busybox();
    invar.run(&[
        "run",
        "-d",
        "-i",
        "--name",
        "c",
        "busybox",
        "sh",
        "-c",
        "wc -c; exit 4",
    ]);
    let input = vec![b'x'; 300_000];
    let output = support::with_input(invar.command(&["attach", "c"]), &input);
    assert_eq!(
        outcome_of(&output),
        (Some(4), "300000".into(), String::new())
    );
}

#[test]
fn a_viewer_that_does_not_read_holds_up_nobody() {
    let invar = busybox();
    let script = "read go; seq 2000000; echo done >&2";
    invar.run(&[
        "run", "-d", "-i", "--name", "c", "busybox", "sh", "-c", script,
    ]);
    let mut idle = spawn(&invar, &["attach", "--no-stdin", "c"]);
    let mut typist = invar
        .command(&["attach", "c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    typist.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(invar.run(&["wait", "c"]), "0");
    typist.wait().unwrap();
    drop(idle.stdout.take());
    idle.wait().unwrap();
}

#[test]
fn on_a_terminal_one_leaves_by_keys_and_the_container_goes_on() {
    let invar = busybox();
    let script = "stty -echo; echo ready; while read l; do echo got $l; stty size; done";
    invar.run(&["run", "-dit", "--name", "c", "busybox", "sh", "-c", script]);
    wait_for_log(&invar, "c", "ready");
    let command = "$INVAR attach c; echo left";
    let shown = on_terminal(
        &invar,
        &format!("echo begin; {command}"),
        &[
            ("begin", "send:one\r"),
            ("got one", "send:two\r"),
            ("33 101", "size:40x120"),
            ("got two", "send:three\r"),
            ("got three", "send:four\r"),
            ("40 120", "send:\u{10}\u{11}"),
        ],
    );
    assert!(
        shown.contains("40 120") && shown.contains("left c; it goes on"),
        "{shown}"
    );
    assert_eq!(status(&invar, "c"), "running");
}

#[test]
fn what_does_not_run_cannot_be_attached() {
    let invar = busybox();
    invar.run(&["create", "--name", "c", "busybox", "true"]);
    let (code, _, said) = outcome(&invar, &["attach", "c"]);
    assert!(
        code == Some(125) && said.contains("invar start -a c"),
        "{said}"
    );
}

#[test]
fn pruning_removes_what_has_ended_and_nothing_else() {
    let invar = busybox();
    invar.run(&["run", "-d", "--name", "runs", "busybox", "sleep", "1000"]);
    invar.run(&[
        "run", "--name", "ended", "-l", "keep=yes", "busybox", "true",
    ]);
    invar.run(&["create", "--name", "never", "busybox", "true"]);
    let (code, _, said) = outcome(&invar, &["container", "prune"]);
    assert!(code == Some(1) && said.contains("--force"), "{said}");
    let args = ["container", "prune", "-f", "--filter"];
    assert_eq!(invar.run(&[&args[..], &["until=1h"]].concat()), "");
    invar.run(&[&args[..], &["label!=keep"]].concat());
    let names = || invar.run(&["container", "ls", "-a", "--engine", "embedded"]);
    assert!(names().contains("ended") && !names().contains("never"));
    let said = invar.run(&["system", "prune", "--force"]);
    assert!(said.contains("removed"), "{said}");
    assert!(names().contains("runs") && !names().contains("ended"));
    assert_eq!(invar.run(&["exec", "runs", "echo", "well"]), "well");
}

#[test]
fn after_a_boot_runs_what_its_policy_wants() {
    let invar = busybox();
    for (name, policy, program) in [
        ("plain", "no", "1000"),
        ("always", "always", "1000"),
        ("unless", "unless-stopped", "1000"),
        ("stopped", "unless-stopped", "1000"),
        ("stopped-always", "always", "1000"),
    ] {
        let args = [
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            policy,
            "busybox",
            "sleep",
            program,
        ];
        invar.run(&args);
    }
    invar.run(&[
        "create",
        "--name",
        "never",
        "--restart",
        "always",
        "busybox",
        "sleep",
        "1000",
    ]);
    invar.run(&["stop", "-t", "0", "stopped", "stopped-always"]);
    let down = invar.run(&["boot", "--down", "-t", "0"]);
    assert_eq!(down.lines().count(), 3, "{down}");
    for name in ["plain", "always", "unless"] {
        assert_eq!(status(&invar, name), "exited", "{name}");
    }
    let up = invar.run(&["boot"]);
    let mut up: Vec<&str> = up.lines().collect();
    up.sort_unstable();
    assert_eq!(up, ["always", "stopped-always", "unless"]);
    for name in up {
        assert_eq!(status(&invar, name), "running", "{name}");
    }
    assert_eq!(status(&invar, "never"), "created");
    assert_eq!(invar.run(&["boot"]), "", "what runs is left alone");
}

#[test]
fn after_a_crash_of_the_machine_runs_what_ran() {
    let invar = busybox();
    let args = ["run", "-d", "--name", "web", "--restart", "unless-stopped"];
    invar.run(&[&args[..], &["busybox", "sleep", "1000"]].concat());
    let shim = support::process_field(pid(&invar, "web"), "PPid");
    support::signal(shim.parse().unwrap(), "KILL");
    eventually("the container's end", || {
        (status(&invar, "web") == "exited").then_some(())
    });
    assert_eq!(invar.run(&["boot"]), "web");
    assert_eq!(status(&invar, "web"), "running");
}
