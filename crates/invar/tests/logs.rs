//! `invar logs`
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::io::{BufRead as _, BufReader};

use support::{busybox, outcome, outcome_of, spawn};

#[test]
fn both_streams_come_back_where_they_came_from() {
    let invar = busybox();
    let script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf unfinished";
    drop(invar.output(&["run", "--name", "talker", "busybox", "sh", "-c", script]));
    let all = (
        Some(0),
        "out 1\nout 2\nout 3\nunfinished".into(),
        "err 1\nerr 2\nerr 3".into(),
    );
    assert_eq!(outcome(&invar, &["logs", "talker"]), all);
    let (_, out, said) = outcome(&invar, &["logs", "--tail", "2", "talker"]);
    assert_eq!(
        out.lines().count() + said.lines().count(),
        2,
        "{out} {said}"
    );
    let (_, out, said) = outcome(&invar, &["logs", "-n", "0", "talker"]);
    assert_eq!(out + &said, "");
    assert_eq!(outcome(&invar, &["logs", "--tail", "all", "talker"]), all);
    assert_eq!(
        outcome(&invar, &["logs", "--tail", "some", "talker"]).0,
        Some(2)
    );
}

#[test]
fn times_are_in_front_when_asked_for() {
    let invar = busybox();
    invar.run(&["run", "--name", "one", "busybox", "echo", "line"]);
    let said = invar.run(&["logs", "-t", "one"]);
    let (time, line) = said.split_once(' ').unwrap();
    assert_eq!(line, "line");
    let time: jiff::Timestamp = time.parse().unwrap();
    let age = jiff::Timestamp::now().duration_since(time);
    assert!(!age.is_negative() && age.as_secs() < 60, "{time}");
}

#[test]
fn following_goes_on_until_the_container_ends() {
    let invar = busybox();
    let script = "echo first; while [ ! -e /tmp/end ]; do sleep 0.05; done; echo last";
    invar.run(&["run", "-d", "--name", "slow", "busybox", "sh", "-c", script]);
    let mut follower = spawn(&invar, &["logs", "-f", "slow"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    invar.run(&["exec", "slow", "touch", "/tmp/end"]);
    assert_eq!(lines.next().unwrap().unwrap(), "last");
    assert!(lines.next().is_none());
    assert_eq!(outcome_of(&follower.wait_with_output().unwrap()).0, Some(0));
}

#[test]
fn logs_of_all_starts_are_kept_in_order() {
    let invar = busybox();
    invar.run(&[
        "create", "--name", "twice", "busybox", "sh", "-c", "echo run",
    ]);
    for _ in 0..2 {
        invar.run(&["start", "-a", "twice"]);
    }
    assert_eq!(invar.run(&["logs", "twice"]), "run\nrun");
}

#[test]
fn much_output_of_a_detached_container_is_whole() {
    let invar = busybox();
    invar.run(&["run", "-d", "--name", "much", "busybox", "seq", "200000"]);
    assert_eq!(invar.run(&["wait", "much"]), "0");
    let said = invar.run(&["logs", "much"]);
    assert_eq!(said.lines().count(), 200_000);
    assert!(said.ends_with("\n200000"));
}

#[test]
fn a_reader_that_has_enough_ends_it_quietly() {
    let invar = busybox();
    invar.run(&["run", "--name", "much", "busybox", "seq", "100000"]);
    let mut reader = spawn(&invar, &["logs", "much"]);
    drop(reader.stdout.take());
    let (code, _, said) = outcome_of(&reader.wait_with_output().unwrap());
    assert_eq!((code, said.as_str()), (Some(0), ""));
}
