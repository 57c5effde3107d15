//! `invar watch`: what happens in a container is told with its actor, and what is not of the image
//! does not run.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Child;

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
