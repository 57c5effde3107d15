//! `invar exec`: one more program in a running container.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use invar_testkit::invar::Invar;
use support::{busybox, outcome, outcome_of, with_input};

fn running() -> Invar {
    let invar = busybox();
    let flags = [
        "run",
        "-d",
        "--name",
        "up",
        "-e",
        "FROM=container",
        "-w",
        "/etc",
    ];
    invar.run(&[&flags[..], &["busybox", "sleep", "1000"]].concat());
    invar
}

#[test]
fn exit_codes_are_those_of_docker() {
    let invar = running();
    let table: &[(&[&str], i32)] = &[
        (&["up", "true"], 0),
        (&["up", "sh", "-c", "exit 3"], 3),
        (&["up", "sh", "-c", "kill -KILL $$"], 137),
        (&["up", "no-such-program"], 127),
        (&["up", "/etc/passwd"], 126),
        (&["missing", "true"], 125),
        (&["-w", "relative", "up", "true"], 125),
        (&["-u", "nobody-knows", "up", "true"], 125),
        (&["--no-such-flag", "up", "true"], 125),
        (&["up"], 125),
    ];
    for (args, expected) in table {
        let (code, _, said) = outcome(&invar, &[&["exec"], *args].concat());
        assert_eq!(code, Some(*expected), "{args:?}: {said}");
    }
}

#[test]
fn settings_are_the_containers_with_the_flags_over_them() {
    let invar = running();
    let table: &[(&[&str], &str, &str)] = &[
        (&[], "echo $FROM; pwd; id -u", "container\n/etc\n0"),
        (
            &["-e", "FROM=exec", "-e", "MORE=1"],
            "echo $FROM $MORE",
            "exec 1",
        ),
        (&["-w", "/bin"], "pwd", "/bin"),
        (&["-u", "nobody"], "id -u; id -g", "65534\n65534"),
        (&["-u", "12:34"], "id -u; id -g", "12\n34"),
        (&[], "cat /proc/1/comm", "sleep"),
        (&[], "hostname | wc -c", "13"),
    ];
    for (flags, script, expected) in table {
        let args = [&["exec"], *flags, &["up", "sh", "-c", script]].concat();
        assert_eq!(invar.run(&args), *expected, "{flags:?} {script}");
    }
}

#[test]
fn streams_are_passed_and_kept_apart() {
    let invar = running();
    let found = outcome(
        &invar,
        &["exec", "up", "sh", "-c", "echo out; echo err >&2"],
    );
    assert_eq!(found, (Some(0), "out".into(), "err".into()));
    let output = with_input(invar.command(&["exec", "-i", "up", "cat"]), b"x\n");
    assert_eq!(outcome_of(&output), (Some(0), "x".into(), String::new()));
    let output = with_input(invar.command(&["exec", "up", "cat"]), b"x\n");
    assert_eq!(outcome_of(&output), (Some(0), String::new(), String::new()));
    assert_eq!(
        invar.run(&["logs", "up"]),
        "",
        "an exec is not in the container's log"
    );
}

#[test]
fn it_is_held_to_the_containers_limits_and_namespaces() {
    let invar = running();
    let link = |name: &str| format!("for p in self 1; do readlink /proc/$p/ns/{name}; done");
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let said = invar.run(&["exec", "up", "sh", "-c", &link(name)]);
        let both: Vec<&str> = said.lines().collect();
        assert!(both.len() == 2 && both[0] == both[1], "{name}: {said}");
    }
    let same = "diff /proc/self/cgroup /proc/1/cgroup && grep -h CapBnd /proc/1/status \
                /proc/self/status | sort -u | wc -l";
    assert_eq!(invar.run(&["exec", "up", "sh", "-c", same]), "1");
    let (code, _, said) = outcome(&invar, &["exec", "up", "sh", "-c", "echo x > /new"]);
    assert!(code != Some(0) && said.contains("Read-only"), "{said}");
}

#[test]
fn a_container_that_does_not_run_is_refused_with_the_next_step() {
    let invar = busybox();
    invar.run(&["create", "--name", "idle", "busybox", "true"]);
    let (code, _, said) = outcome(&invar, &["exec", "idle", "true"]);
    assert_eq!(code, Some(125));
    assert!(said.contains("invar start idle"), "{said}");
}
