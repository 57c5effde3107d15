//! Containers with a terminal.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use support::{busybox, on_terminal, outcome_of, with_input};

const LOOP: &str = "echo ready; while :; do sleep 0.05; done";

#[test]
fn the_size_is_right_from_the_start_and_follows() {
    let invar = busybox();
    let said = on_terminal(&invar, "$INVAR run --rm -it busybox stty size", &[]);
    assert!(said.contains("33 101"), "{said}");
    let command =
        format!("$INVAR run --rm -it busybox sh -c 'trap \"stty size; exit 4\" WINCH; {LOOP}'");
    let said = on_terminal(&invar, &command, &[("ready", "size:50x90")]);
    assert!(said.contains("50 90") && said.ends_with("exit=4"), "{said}");
}

#[test]
fn keys_reach_the_program_and_control_c_interrupts_it() {
    let invar = busybox();
    let command = format!(
        "$INVAR run --rm -it busybox sh -c 'trap \"echo interrupted; exit 5\" INT; {LOOP}'"
    );
    let said = on_terminal(&invar, &command, &[("ready", "send:\x03")]);
    assert!(
        said.contains("interrupted") && said.ends_with("exit=5"),
        "{said}"
    );
    let steps = [("# ", "send:echo $((6*7))\n"), ("42", "send:exit 6\n")];
    let said = on_terminal(&invar, "$INVAR run --rm -it busybox sh", &steps);
    assert!(said.ends_with("exit=6"), "{said}");
}

#[test]
fn the_terminal_is_given_back_as_it_was() {
    let invar = busybox();
    for program in ["true", "no-such-program"] {
        let command = format!(
            "before=$(stty -g); $INVAR run --rm -it busybox {program}; \
             [ \"$before\" = \"$(stty -g)\" ] && echo restored"
        );
        let said = on_terminal(&invar, &command, &[]);
        assert!(said.contains("restored"), "{program}: {said}");
    }
}

#[test]
fn exec_has_a_terminal_too() {
    let invar = busybox();
    invar.run(&["run", "-d", "--name", "up", "busybox", "sleep", "1000"]);
    let command = "before=$(stty -g); $INVAR exec -it up sh -c 'tty; stty size; echo $TERM; \
                   grep SigBlk /proc/self/status; exit 3'; \
                   echo code $?; [ \"$before\" = \"$(stty -g)\" ] && echo restored";
    let said = on_terminal(&invar, command, &[]);
    for wanted in [
        "/dev/",
        "33 101",
        "xterm",
        "SigBlk:\t0000000000000000",
        "code 3",
        "restored",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let steps = [("# ", "send:echo $((6*7))\n"), ("42", "send:exit 6\n")];
    let said = on_terminal(&invar, "$INVAR exec -it up sh", &steps);
    assert!(said.ends_with("exit=6"), "{said}");
}

#[test]
fn an_exec_that_is_ended_gives_the_terminal_back_first() {
    let invar = busybox();
    invar.run(&["run", "-d", "--name", "up", "busybox", "sleep", "1000"]);
    let file = invar.root().join("pid");
    let file = file.to_str().unwrap();
    let command = format!(
        "before=$(stty -g); sh -c 'echo $$ > {file}; exec $INVAR exec -it up sh -c \"{LOOP}\"'; \
         echo code $?; [ \"$before\" = \"$(stty -g)\" ] && echo restored"
    );
    let said = on_terminal(&invar, &command, &[("ready", &format!("end:{file}"))]);
    assert!(
        said.contains("code 143") && said.contains("restored"),
        "{said}"
    );
}

#[test]
fn without_a_terminal_of_its_own_it_is_refused_only_for_input() {
    let invar = busybox();
    let output = with_input(
        invar.command(&["run", "--rm", "-it", "busybox", "true"]),
        b"",
    );
    let (code, _, said) = outcome_of(&output);
    assert_eq!(code, Some(125));
    assert!(
        said.contains("the input device is not a TTY") && said.contains("leave -t out"),
        "{said}"
    );
    let command = invar.command(&[
        "run",
        "--rm",
        "-t",
        "busybox",
        "sh",
        "-c",
        "test -t 1 && tty",
    ]);
    let (code, out, said) = outcome_of(&with_input(command, b""));
    assert!(code == Some(0) && out.contains("/dev/"), "{out} {said}");
}

#[test]
fn a_detached_terminal_is_in_the_log() {
    let invar = busybox();
    let script = "test -t 0 && test -t 1 && test -t 2 && echo all";
    let id = invar.run(&["run", "-d", "-t", "busybox", "sh", "-c", script]);
    assert_eq!(invar.run(&["wait", &id]), "0");
    assert_eq!(invar.run(&["logs", &id]).trim_end(), "all");
}

#[test]
fn an_exec_follows_the_size_of_its_terminal() {
    let invar = busybox();
    invar.run(&["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let command = format!("$INVAR exec -it c sh -c 'trap \"stty size; exit 4\" WINCH; {LOOP}'");
    let said = on_terminal(&invar, &command, &[("ready", "size:50x90")]);
    assert!(said.contains("50 90") && said.ends_with("exit=4"), "{said}");
}
