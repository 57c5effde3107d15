//! Containers in user namespaces: root inside is nobody outside.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use fs_err as fs;
use invar_testkit::eventually;
use invar_testkit::invar::Invar;
use support::{busybox, inspect, on_terminal, outcome, pid, process_field, shell, wait_for_log};

const AUTO: &[&str] = &["--userns", "auto"];

/// What id 0 of a running container is outside.
fn first(invar: &Invar, name: &str) -> u32 {
    let ids = process_field(pid(invar, name), "Uid");
    ids.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn root_inside_is_nobody_outside_and_has_the_usual_rights_inside() {
    let invar = busybox();
    invar.run(&[
        "run", "-d", "--name", "one", "--userns", "auto", "busybox", "sleep", "1000",
    ]);
    let outside = first(&invar, "one");
    assert!(outside >= 100_000, "{outside}");
    assert_eq!(invar.run(&["exec", "one", "id", "-u"]), "0");
    let map = invar.run(&["exec", "one", "cat", "/proc/self/uid_map"]);
    let fields: Vec<u32> = map.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert_eq!(fields, [0, outside, 65536]);
    assert_eq!(
        invar.run(&["exec", "one", "cat", "/proc/self/gid_map"]),
        map
    );
    assert_eq!(inspect(&invar, "one")["HostConfig"]["UsernsMode"], "auto");
    for (user, held) in [("0", "00000000800405fb"), ("nobody", "0000000000000000")] {
        let script = "grep -E '^(CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status";
        let status = invar.run(&["exec", "-u", user, "one", "sh", "-c", script]);
        assert!(status.contains("CapBnd:\t00000000800405fb"), "{status}");
        assert!(status.contains(&format!("CapPrm:\t{held}")), "{status}");
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"));
    }
    // What a container's root does all day.
    for script in [
        "touch /run/file && chown 33:34 /run/file && test $(stat -c %u:%g /run/file) = 33:34",
        "mkdir /dev/shm/x && chmod 700 /dev/shm/x",
        "echo out > /dev/stdout && echo err > /dev/stderr",
        "test $(stat -c %u /bin) = 0 && test $(stat -c %u /etc/hosts) = 0",
        "test -w /tmp && cat /etc/hostname",
        "kill -0 1",
    ] {
        shell(&invar, AUTO, script);
    }
    let as_user = ["-u", "33", "--userns", "auto"];
    shell(
        &invar,
        &as_user,
        "echo out > /dev/stdout && test $(id -u) = 33",
    );
}

#[test]
fn nothing_of_the_host_can_be_touched_even_with_every_capability() {
    let invar = busybox();
    let place = invar.root().join("host");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("secret"), "of the host").unwrap();
    fs::set_permissions(place.join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    // Nothing of the host is to be seen inside; so something is shown that belongs to nobody there.
    std::os::unix::fs::chown(place.join("secret"), Some(70_000), Some(70_000)).unwrap();
    let volume = format!("{}:/host", place.display());
    for flags in [&["--cap-add", "ALL"][..], &[]] {
        let flags = [AUTO, flags, &["-v", &volume]].concat();
        for script in [
            "cat /host/secret",
            "echo x > /host/secret",
            "chown 0 /host/secret",
            "chmod 666 /host/secret",
            "mount -t tmpfs none /tmp",
            "mount -o remount,rw /",
            "umount /host",
            "hostname other",
            "mknod /host/disk b 8 0",
            "echo 1 > /proc/sys/kernel/panic",
            "ifconfig lo down",
            "dd if=/proc/kcore of=/dev/null bs=1 count=1",
        ] {
            let args = [
                &["run", "--rm"],
                &flags[..],
                &["busybox", "sh", "-c", script],
            ]
            .concat();
            let (code, out, err) = outcome(&invar, &args);
            assert!(
                !matches!(code, None | Some(0 | 125..)),
                "{script} {flags:?}: {code:?} {out} {err}"
            );
        }
    }
    let left = fs::read_to_string(place.join("secret")).unwrap();
    assert_eq!(left, "of the host");
}

#[test]
fn no_two_containers_have_the_same_ids() {
    let invar = busybox();
    let mut seen = Vec::new();
    for name in ["a", "b", "c", "d"] {
        invar.run(&[
            "run", "-d", "--name", name, "--userns", "auto", "busybox", "sleep", "1000",
        ]);
        seen.push(first(&invar, name));
    }
    let again = first(&invar, "a");
    invar.run(&["restart", "-t", "0", "a"]);
    assert_eq!(first(&invar, "a"), again, "it keeps them");
    seen.sort_unstable();
    assert!(
        seen.windows(2).all(|pair| pair[1] - pair[0] >= 65536),
        "{seen:?}"
    );
}

#[test]
fn changes_copies_and_volumes_have_the_ids_they_have_inside() {
    let invar = busybox();
    let shared = invar.root().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("given"), "given").unwrap();
    let bind = format!("{}:/shared", shared.display());
    let script = "echo new > /a && chown 33:34 /a && rm /etc/group && chown 5 /etc/passwd && \
        cat /shared/given && echo made > /shared/made && chown 7 /shared/made && \
        echo kept > /kept/file && echo ready && sleep 1000";
    invar.run(&[
        "run",
        "-d",
        "--name",
        "w",
        "--userns",
        "auto",
        "--writable",
        "-v",
        &bind,
        "-v",
        "kept:/kept",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    wait_for_log(&invar, "w", "ready");
    let diff = invar.run(&["diff", "w"]);
    assert!(
        diff.contains("A /a") && diff.contains("D /etc/group"),
        "{diff}"
    );
    assert!(diff.contains("C /etc/passwd"), "{diff}");
    let id = inspect(&invar, "w")["Id"].as_str().unwrap().to_owned();
    let upper = invar.root().join("containers").join(id).join("upper");
    let owner = |path: &std::path::Path| {
        let found = fs::symlink_metadata(path).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner(&upper.join("a")), (33, 34));
    assert_eq!(owner(&upper.join("etc/passwd")), (5, 0));
    assert_eq!(owner(&shared.join("made")), (7, 0));
    assert_eq!(owner(&invar.root().join("volumes/kept/file")), (0, 0));

    // In and out, with owners and without.
    let given = shared.join("given").display().to_string();
    invar.run(&["cp", &given, "w:/plain"]);
    std::os::unix::fs::chown(&given, Some(12), Some(13)).unwrap();
    invar.run(&["cp", "-a", &given, "w:/owned"]);
    let seen = invar.run(&["exec", "w", "stat", "-c", "%u:%g", "/plain", "/owned"]);
    assert_eq!(seen, "0:0\n12:13");
    let out = invar.root().join("out").display().to_string();
    invar.run(&["cp", "-a", "w:/a", &out]);
    assert_eq!(owner(out.as_ref()), (33, 34));
    let (code, _, said) = outcome(&invar, &["cp", "-a", "w:/a", "-"]);
    assert_eq!(code, Some(0), "{said}");

    // The same volume with another range, and without one.
    assert_eq!(
        shell(&invar, &["-v", "kept:/kept"], "stat -c %u /kept/file"),
        "0"
    );
    let flags = [AUTO, &["-v", "kept:/kept"]].concat();
    assert_eq!(
        shell(&invar, &flags, "echo more >> /kept/file && cat /kept/file"),
        "kept\nmore"
    );

    invar.run(&["capture", "w"]);
    invar.run(&["replace", "w"]);
    assert_eq!(
        invar.run(&["exec", "w", "ls", "-A", "/a"]).len(),
        2,
        "made again by its program"
    );
}

#[test]
fn terminals_inits_and_health_checks_work_and_what_cannot_be_shifted_is_named() {
    let invar = busybox();
    let run = "$INVAR run --rm -it --userns auto busybox sh -c \
               'stat -c owner-%u /dev/console; echo typed > /dev/tty'";
    let shown = on_terminal(&invar, run, &[]);
    assert!(
        shown.contains("owner-0") && shown.contains("typed"),
        "{shown}"
    );
    let flags = [AUTO, &["--init"]].concat();
    assert_eq!(shell(&invar, &flags, "echo $$ $(id -u)"), "2 0");
    invar.run(&[
        "run",
        "-d",
        "--name",
        "checked",
        "--userns",
        "auto",
        "--health-cmd",
        "test $(id -u) = 0 && touch /run/checked",
        "--health-interval",
        "1s",
        "busybox",
        "sleep",
        "1000",
    ]);
    eventually("the check has succeeded inside", || {
        let state = inspect(&invar, "checked");
        (state["State"]["Health"]["Status"] == "healthy").then_some(())
    });
    // proc has no owners that could be shifted.
    let flags = [AUTO, &["-v", "/proc/version:/version:ro"]].concat();
    let args = [&["run", "--rm"], &flags[..], &["busybox", "true"]].concat();
    let (code, _, said) = outcome(&invar, &args);
    assert_eq!(code, Some(125), "{said}");
    assert!(
        said.contains("/proc/version cannot be mounted with shifted owners"),
        "{said}"
    );
}
