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

#[test]
fn lines_are_chosen_by_time() {
    let invar = busybox();
    let script = "echo early; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo late";
    invar.run(&["run", "-d", "--name", "c", "busybox", "sh", "-c", script]);
    support::wait_for_log(&invar, "c", "early");
    let between = jiff::Timestamp::now().to_string();
    invar.run(&["exec", "c", "touch", "/tmp/go"]);
    assert_eq!(invar.run(&["wait", "c"]), "0");
    assert_eq!(invar.run(&["logs", "--since", &between, "c"]), "late");
    assert_eq!(invar.run(&["logs", "--until", &between, "c"]), "early");
    assert_eq!(invar.run(&["logs", "--since", "1h", "c"]), "early\nlate");
    assert_eq!(
        invar.run(&["logs", "--since", "1h", "-n", "1", "c"]),
        "late"
    );
    assert_eq!(
        outcome(&invar, &["logs", "--since", "soon", "c"]).0,
        Some(2)
    );
}

#[test]
fn a_followed_log_ends_at_the_time_asked_for() {
    let invar = busybox();
    let script = "while :; do echo tick; sleep 0.02; done";
    invar.run(&["run", "-d", "--name", "c", "busybox", "sh", "-c", script]);
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(400);
    let said = invar.run(&["logs", "-f", "--until", &end.to_string(), "c"]);
    assert!(
        said.lines().count() > 1 && jiff::Timestamp::now() >= end,
        "{said}"
    );
}

#[test]
fn a_log_that_was_put_aside_is_followed_without_a_gap() {
    let invar = busybox();
    // More than one log holds (16 MiB), less than two.
    let script = "while [ ! -e /tmp/go ]; do sleep 0.02; done; seq 400000 | awk '{ printf \"line %010d of a long log\\n\", $1 }'";
    invar.run(&["run", "-d", "--name", "c", "busybox", "sh", "-c", script]);
    let follower = spawn(&invar, &["logs", "-f", "c"]);
    invar.run(&["exec", "c", "touch", "/tmp/go"]);
    let (code, said, _) = outcome_of(&follower.wait_with_output().unwrap());
    assert_eq!(code, Some(0));
    let numbers = said.lines().enumerate();
    for (index, line) in numbers {
        assert!(
            line.starts_with(&format!("line {:010} ", index + 1)),
            "{line}"
        );
    }
    assert_eq!(said.lines().count(), 400_000);
    let id = support::inspect(&invar, "c")["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    let directory = invar.root().join("containers").join(id);
    assert!(directory.join("log.1").exists(), "it was put aside");
    assert!(invar.run(&["logs", "-n", "1", "c"]).contains("0000400000"));
}
