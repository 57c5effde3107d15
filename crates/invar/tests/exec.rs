//! `invar exec`: one more program in a running container.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::process::Stdio;

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

#[test]
fn a_user_opens_its_own_output_by_name() {
    let invar = running();
    let sleep = ["busybox", "sleep", "1000"];
    let run = ["run", "-d", "--name", "inside", "--userns", "auto"];
    invar.run(&[&run[..], &sleep].concat());
    let script = "echo out > /dev/stdout && echo err > /dev/stderr && echo done && exit 7";
    for name in ["up", "inside"] {
        for user in ["0", "33", "33:44"] {
            let args = ["exec", "-u", user, name, "sh", "-c", script];
            let (code, out, err) = outcome(&invar, &args);
            let said = (code, out.as_str(), err.as_str());
            assert_eq!(said, (Some(7), "out\ndone", "err"), "{name} {user}");
        }
    }
}

#[test]
fn all_that_a_user_writes_arrives_and_nobody_waits_for_what_it_leaves_behind() {
    let invar = running();
    // More than the pipes on the way hold, taken late.
    let script = "head -c 1000000 /dev/zero; head -c 50000 /dev/zero >&2";
    let mut command = invar.command(&["exec", "-u", "33", "up", "sh", "-c", script]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(7));
    let output = child.stdout.take().unwrap();
    let length = std::io::copy(&mut std::io::BufReader::new(output), &mut std::io::sink());
    assert_eq!(length.unwrap(), 1_000_000);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.len()),
        (Some(0), 50_000)
    );

    // A program that goes on writing for ever.
    let args = ["exec", "-u", "33", "up", "sh", "-c", "yes & echo $!"];
    let (code, out, _) = outcome(&invar, &args);
    assert_eq!(code, Some(0));
    assert!(out.lines().any(|line| line.parse::<u32>().is_ok()), "{out}");

    // The reader has gone: the program is told, as in any pipeline.
    let args = ["exec", "-u", "33", "up", "sh", "-c", "yes"];
    let mut child = invar.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    let mut output = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut output, &mut byte).unwrap();
    drop(output);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
}
