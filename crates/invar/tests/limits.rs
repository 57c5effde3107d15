//! Limits hold, and the container cannot raise them.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use fs_err as fs;
use support::{busybox, inspect, outcome, pid, wait_for_log};

/// A control file of a process's cgroup as the host sees it, whichever version has it.
fn control(pid: i32, v1: (&str, &str), v2: &str) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let files = if controllers.is_empty() {
            [
                format!("/sys/fs/cgroup{path}/{v2}"),
                format!("/sys/fs/cgroup/unified{path}/{v2}"),
            ]
        } else if controllers.split(',').any(|name| name == v1.0) {
            let file = format!("{path}/{}", v1.1);
            [
                format!("/sys/fs/cgroup/{}{file}", v1.0),
                format!("/sys/fs/cgroup/{controllers}{file}"),
            ]
        } else {
            return None;
        };
        files.iter().find_map(|file| fs::read_to_string(file).ok())
    });
    found
        .unwrap_or_else(|| panic!("no {v2} for process {pid} in\n{groups}"))
        .trim()
        .to_owned()
}

#[test]
fn limits_are_set_on_the_host_and_cannot_be_raised_from_inside() {
    let invar = busybox();
    // Tries every way from inside before it says ready.
    let script = "for f in $(find /sys/fs/cgroup -name '*max*' -o -name '*limit*' -o -name \
                  '*quota*' 2>/dev/null); do echo -1 > $f; echo max > $f; done 2>/dev/null; \
                  mkdir /tmp/c; mount -t cgroup2 none /tmp/c; mount -t cgroup -o memory none \
                  /tmp/c; mount -o remount,rw /sys/fs/cgroup; echo ready; sleep 1000";
    let flags = [
        "-d",
        "--name",
        "small",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "32",
    ];
    invar.run(&[&["run"][..], &flags, &["busybox", "sh", "-c", script]].concat());
    wait_for_log(&invar, "small", "ready");
    let pid = pid(&invar, "small");
    assert_eq!(
        control(pid, ("memory", "memory.limit_in_bytes"), "memory.max"),
        "67108864"
    );
    assert_eq!(control(pid, ("pids", "pids.max"), "pids.max"), "32");
    let quota = control(pid, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let host = &inspect(&invar, "small")["HostConfig"];
    assert_eq!(
        (host["Memory"].as_u64(), host["NanoCpus"].as_u64()),
        (Some(64 << 20), Some(500_000_000))
    );
}

#[test]
fn a_program_out_of_memory_is_killed_and_that_is_reported() {
    let invar = busybox();
    let args = [
        "run",
        "--name",
        "greedy",
        "-m",
        "16m",
        "busybox",
        "tail",
        "/dev/zero",
    ];
    assert_eq!(outcome(&invar, &args).0, Some(137));
    let state = &inspect(&invar, "greedy")["State"];
    assert_eq!(
        (&state["OOMKilled"], &state["ExitCode"]),
        (&true.into(), &137.into()),
        "{state}"
    );
    assert!(
        invar
            .run(&["ps", "-a"])
            .contains("Exited (137, no memory left)")
    );
}

#[test]
fn a_fork_bomb_ends_at_the_limit() {
    let invar = busybox();
    let script = "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; echo all of them";
    let args = [
        "run",
        "--rm",
        "--pids-limit",
        "20",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let (code, out, said) = outcome(&invar, &args);
    assert_ne!(code, Some(0));
    assert!(
        said.contains("can't fork") && out.is_empty(),
        "{out} {said}"
    );
}
