//! `invar watch`: what happens in a container is told with its actor, and what is not of the image
//! does not run.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Child;
use std::time::{Duration, Instant};

use fs_err as fs;
use invar_testkit::invar::Invar;
use serde_json::Value;
use support::{busybox, outcome, signal, spawn};

/// A container that waits, and a watch of it that has begun.
fn watched(flags: &[&str]) -> (Invar, Child, BufReader<std::process::ChildStderr>) {
    let invar = busybox();
    let run = [
        "run",
        "-d",
        "--name=web",
        "--writable",
        "busybox",
        "sleep",
        "1000",
    ];
    invar.run(&run);
    let args = [&["watch", "embedded:web", "--format=jsonl"], flags].concat();
    let mut watch = spawn(&invar, &args);
    let mut said = BufReader::new(watch.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("watching embedded:web") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the watch ended");
    }
    (invar, watch, said)
}

/// Ends a watch; everything it told.
fn events(mut watch: Child) -> Vec<Value> {
    signal(watch.id(), "TERM");
    let mut text = String::new();
    let mut out = watch.stdout.take().unwrap();
    out.read_to_string(&mut text).unwrap();
    assert!(watch.wait().unwrap().success());
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_is_not_of_the_image_is_refused_however_it_is_started() {
    let (invar, watch, _said) = watched(&["--block"]);
    // Called by the name that makes it what it is, so that it would run.
    let refused = [
        "mkdir -p /tmp/a; cp /bin/busybox /tmp/a; /tmp/a/busybox echo ran",
        "ln -sf /tmp/a/busybox /tmp/echo; /tmp/echo ran",
        "mkdir -p /bin/b; mv /tmp/a/busybox /bin/b; /bin/b/busybox echo ran",
        "printf '#!/bin/sh\necho ran' >/tmp/s; chmod +x /tmp/s; /tmp/s",
        "sh /tmp/s",
        ". /tmp/s",
    ];
    let allowed = [
        "chmod 711 /bin/busybox; /bin/busybox echo ran",
        "echo ran >/tmp/data; cat /tmp/data",
    ];
    let ran = |script: &str| outcome(&invar, &["exec", "web", "sh", "-c", script]);
    for script in refused {
        let (_, out, said) = ran(script);
        assert_eq!(out, "", "{script}: {said}");
        assert!(said.contains("not permitted"), "{script}: {said}");
    }
    for script in allowed {
        assert_eq!(ran(script).1, "ran", "{script}");
    }
    let events = events(watch);
    let told = events
        .iter()
        .find(|event| event["what"] == "exec-blocked" && event["path"] == "/tmp/a/busybox");
    let told = told.unwrap();
    assert_eq!(told["severity"], "high");
    assert_eq!(told["actor"]["session"]["kind"], "exec");
    assert_eq!(told["actor"]["uid"], 0);
    // It fails open, as it says.
    for script in refused {
        let (_, out, said) = ran(script);
        assert_eq!(out, "ran", "{script}: {said}");
    }
}

#[test]
fn every_kind_of_change_is_told_once_and_nothing_is_lost() {
    let (invar, watch, _said) = watched(&[]);
    let script = "echo a >/tmp/a; mv /tmp/a /tmp/b; rm /tmp/b; echo x >>/etc/passwd; \
                  chmod 600 /www/index.html; mkdir /tmp/t; cp /bin/busybox /tmp/t; /tmp/t/busybox true";
    let (code, _, said) = outcome(&invar, &["exec", "web", "sh", "-c", script]);
    assert_eq!(code, Some(0), "{said}");
    let events = events(watch);
    for (what, path) in [
        ("create", "/tmp/a"),
        ("rename", "/tmp/b"),
        ("delete", "/tmp/b"),
        ("write", "/etc/passwd"),
        ("attributes", "/www/index.html"),
        ("exec", "/tmp/t/busybox"),
    ] {
        let told = events
            .iter()
            .filter(|event| event["what"] == what && event["path"] == path)
            .count();
        assert_eq!(told, 1, "{what} {path}: {events:?}");
    }
    let summary = &events.last().unwrap()["summary"];
    for lost in ["overflows", "dropped", "missed"] {
        assert_eq!(summary[lost], 0, "{summary}");
    }
}

#[test]
fn what_is_lost_in_a_flood_is_said_and_found_by_a_walk_and_no_execution_is_lost() {
    let invar = busybox();
    for name in ["noisy", "quiet"] {
        let name = format!("--name={name}");
        invar.run(&["run", "-d", &name, "--writable", "busybox", "sleep", "1000"]);
    }
    let containers = [
        "watch",
        "embedded:noisy",
        "embedded:quiet",
        "--format=jsonl",
    ];
    let mut watch = spawn(&invar, &containers);
    let mut said = BufReader::new(watch.stderr.take().unwrap());
    let mut begun = 0;
    while begun < 2 {
        let mut line = String::new();
        assert!(said.read_line(&mut line).unwrap() > 0, "the watch ended");
        begun += usize::from(line.contains("watching embedded:"));
    }
    // Nobody reads while more happens than the kernel keeps.
    let longest = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let more = longest.trim().parse::<u32>().unwrap() + 1000;
    signal(watch.id(), "STOP");
    let flood = format!("i=0; while [ $i -lt {more} ]; do : >/tmp/$i; i=$((i+1)); done; echo done");
    assert_eq!(
        outcome(&invar, &["exec", "noisy", "sh", "-c", &flood]).1,
        "done"
    );
    let hidden = "mkdir /tmp/e; cp /bin/busybox /tmp/e; /tmp/e/busybox echo ran";
    assert_eq!(
        outcome(&invar, &["exec", "quiet", "sh", "-c", hidden]).1,
        "ran"
    );
    signal(watch.id(), "CONT");
    let mut out = BufReader::new(watch.stdout.take().unwrap());
    let mut wanted = vec![("exec", "/tmp/e/busybox"), ("missed", "/tmp/e/busybox")];
    let last = format!("/tmp/{}", more - 1);
    wanted.push(("missed", &last));
    let until = Instant::now() + Duration::from_mins(2);
    while !wanted.is_empty() {
        assert!(Instant::now() < until, "not told: {wanted:?}");
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "the watch ended");
        let event: Value = serde_json::from_str(&line).unwrap();
        wanted.retain(|(what, path)| event["what"] != *what || event["path"] != *path);
    }
    signal(watch.id(), "TERM");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(watch.wait().unwrap().success());
    let summary: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert!(
        summary["summary"]["overflows"].as_u64() >= Some(1),
        "{summary}"
    );
    assert!(
        summary["summary"]["missed"].as_u64() >= Some(2),
        "{summary}"
    );
}
