//! What a container is kept from, seen from inside it.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::path::PathBuf;
use std::process::Command;

use fs_err as fs;
use invar_testkit::invar::Invar;
use invar_testkit::{checked, require};
use support::{busybox, outcome, shell};

/// The default eleven as bits of `capability.h`: chown 0, `dac_override` 1, fowner 3, fsetid 4,
/// kill 5, setgid 6, setuid 7, setpcap 8, `net_bind_service` 10, `sys_chroot` 18, setfcap 31.
const DEFAULT: u64 = 0x8004_05fb;

fn capabilities(invar: &Invar, flags: &[&str], which: &str) -> u64 {
    let script = format!("sed -n 's/^{which}:.//p' /proc/self/status");
    u64::from_str_radix(&shell(invar, flags, &script), 16).unwrap()
}

#[test]
fn capabilities_are_the_default_eleven_and_follow_the_flags() {
    let invar = busybox();
    let table: &[(&[&str], u64)] = &[
        (&[], DEFAULT),
        (&["--cap-drop", "ALL"], 0),
        (&["--cap-drop", "CHOWN"], DEFAULT & !1),
        (&["--cap-add", "net_raw"], DEFAULT | 1 << 13),
        (&["--cap-drop", "ALL", "--cap-add", "CAP_KILL"], 1 << 5),
    ];
    for (flags, expected) in table {
        for which in ["CapEff", "CapPrm", "CapBnd"] {
            let found = capabilities(&invar, flags, which);
            assert_eq!(found, *expected, "{flags:?} {which}: {found:x}");
        }
        assert_eq!(capabilities(&invar, flags, "CapAmb"), 0, "{flags:?}");
        assert_eq!(capabilities(&invar, flags, "CapInh"), 0, "{flags:?}");
    }
    let of_user = capabilities(&invar, &["-u", "nobody"], "CapEff");
    assert_eq!(of_user, 0, "a user that is not root has none");
}

#[test]
fn no_new_privileges_and_seccomp_are_on_for_every_program() {
    let invar = busybox();
    let wanted = "NoNewPrivs:\t1\nSeccomp:\t2";
    let fields = ["grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status"];
    assert_eq!(
        invar.run(&[&["run", "--rm", "busybox"][..], &fields].concat()),
        wanted
    );
    let all = ["run", "--rm", "--cap-add", "ALL", "busybox"];
    assert_eq!(invar.run(&[&all[..], &fields].concat()), wanted);
    invar.run(&["run", "-d", "--name", "up", "busybox", "sleep", "1000"]);
    assert_eq!(invar.run(&[&["exec", "up"][..], &fields].concat()), wanted);
    assert_eq!(
        invar.run(&[&["exec", "-u", "nobody", "up"][..], &fields].concat()),
        wanted
    );
}

/// A static program that makes one system call by number and prints the error.
fn caller(invar: &Invar) -> PathBuf {
    let source = invar.root().join("call.c");
    let program = invar.root().join("tools/call");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    let text = "#include <errno.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
        int main(int n, char **a) { long v[7] = {0};\n\
        for (int i = 1; i < n && i < 8; i++) v[i - 1] = strtol(a[i], 0, 0);\n\
        errno = 0; syscall(v[0], v[1], v[2], v[3], v[4], v[5], v[6]);\n\
        printf(\"%d\\n\", errno); return 0; }\n";
    fs::write(&source, text).unwrap();
    checked(
        Command::new(require("gcc", "gcc"))
            .args(["-static", "-O1", "-w", "-o"])
            .arg(&program)
            .arg(&source),
    );
    program
}

#[cfg(target_arch = "x86_64")]
#[test]
fn system_calls_that_no_container_needs_fail() {
    const EPERM: &str = "1";
    const ENOSYS: &str = "38";
    let invar = busybox();
    let program = caller(&invar);
    let volume = format!("{}:/tools:ro", program.parent().unwrap().display());
    // Name, number, arguments; all are refused also where the capability is there.
    let table: &[(&str, &str, &[&str])] = &[
        ("kexec_load", "246", &[]),
        ("init_module", "175", &[]),
        ("finit_module", "313", &[]),
        ("add_key", "248", &[]),
        ("request_key", "249", &[]),
        ("keyctl", "250", &[]),
        ("bpf", "321", &[]),
        ("userfaultfd", "323", &[]),
        ("perf_event_open", "298", &[]),
        ("open_by_handle_at", "304", &[]),
        ("unshare user namespace", "272", &["0x10000000"]),
        ("unshare mount namespace", "272", &["0x20000"]),
        ("setns", "308", &["0", "0"]),
        ("mount", "165", &[]),
        ("umount2", "166", &[]),
        ("pivot_root", "155", &[]),
        ("swapon", "167", &[]),
        ("reboot", "169", &["0"]),
        ("settimeofday", "164", &["0", "0"]),
        ("io_uring_setup", "425", &["1", "0"]),
        ("open_tree", "428", &[]),
        ("move_mount", "429", &[]),
        ("fsopen", "430", &[]),
        ("mount_setattr", "442", &[]),
        ("clone with a user namespace", "56", &["0x10000011"]),
    ];
    for (name, number, arguments) in table {
        let args = [
            &[
                "run",
                "--rm",
                "-v",
                &volume,
                "busybox",
                "/tools/call",
                number,
            ],
            *arguments,
        ]
        .concat();
        let found = invar.run(&args);
        assert!(found == EPERM || found == ENOSYS, "{name}: errno {found}");
    }
    // clone3 hides its flags behind a pointer: the C library must fall back to clone.
    let args = [
        "run",
        "--rm",
        "-v",
        &volume,
        "busybox",
        "/tools/call",
        "435",
    ];
    assert_eq!(invar.run(&args), ENOSYS, "clone3");
    // 32-bit and x32 entry points are no way around.
    let x32 = format!("{}", 0x4000_0000 + 250);
    let args = ["run", "--rm", "-v", &volume, "busybox", "/tools/call", &x32];
    let (code, out, _) = outcome(&invar, &args);
    assert!(
        code != Some(0) || out == EPERM || out == ENOSYS,
        "x32: {out}"
    );
}

#[test]
fn programs_that_change_the_host_fail() {
    let invar = busybox();
    for script in [
        "unshare -m true",
        "unshare -r true",
        "mount -t tmpfs none /tmp",
        "mount -t proc none /tmp",
        "mount --bind /etc /tmp",
        "umount /proc",
        "mknod /tmp/disk b 8 0",
        "chroot /proc/1/root/.. true && ls /proc/1/root/etc/hostname-of-the-host",
        "hostname other",
        "echo 1 > /proc/sys/kernel/panic",
        "echo c > /proc/sysrq-trigger",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /sys/kernel/uevent_helper",
        "echo x > /sys/power/state",
        "dmesg | grep -q . && dmesg > /dev/null",
        "swapoff -a && false",
        "insmod /bin/busybox",
    ] {
        let (code, ..) = outcome(&invar, &["run", "--rm", "busybox", "sh", "-c", script]);
        assert_ne!(code, Some(0), "{script}");
    }
}

#[test]
fn what_the_kernel_tells_is_masked() {
    let invar = busybox();
    for path in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sysrq-trigger",
        "/sys/firmware",
        "/proc/acpi",
        "/proc/scsi",
    ] {
        let script = format!(
            "if [ -d {path} ]; then ls -A {path}; elif [ -e {path} ]; then head -c 1 {path}; fi 2>/dev/null; true"
        );
        assert_eq!(shell(&invar, &[], &script), "", "{path}");
    }
    let mounts = shell(&invar, &[], "cat /proc/mounts");
    for path in ["/proc/sys", "/sys"] {
        let line = mounts
            .lines()
            .find(|line| line.contains(&format!(" {path} ")));
        let options = line
            .and_then(|line| line.split(' ').nth(3))
            .unwrap_or_default();
        assert!(
            options.split(',').any(|option| option == "ro"),
            "{path}: {mounts}"
        );
    }
}

#[test]
fn nothing_of_the_host_is_mounted_or_visible() {
    let invar = busybox();
    // The kernel names the host's path of a bind mount; there are only the three files that make
    // names work, and those are the container's own.
    let mounts = shell(&invar, &[], "cat /proc/self/mountinfo");
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let (root, target) = (fields[3], fields[4]);
        let is_name = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"].contains(&target);
        let is_masked = target.starts_with("/proc/") || target.starts_with("/sys/");
        assert!(
            root == "/" || is_masked || (is_name && file_name(root) == file_name(target)),
            "{mount}"
        );
        let handles = mount.replace("=/proc/self/fd/", "=");
        assert!(!handles.contains("dir=/"), "{mount}");
    }
    let devices = shell(&invar, &[], "ls /dev");
    for device in devices.lines() {
        let known = [
            "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
            "stderr", "stdin", "stdout", "tty", "urandom", "zero",
        ];
        assert!(known.contains(&device), "/dev/{device}");
    }
    let processes = shell(&invar, &[], "ls -d /proc/[0-9]* | wc -l");
    assert!(processes.parse::<u32>().unwrap() <= 4, "{processes}");
    let environment = invar.run(&["run", "--rm", "busybox", "env"]);
    let names: Vec<&str> = environment
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    for name in names {
        assert!(["PATH", "HOSTNAME", "HOME"].contains(&name), "{name}");
    }
}

fn file_name(path: &str) -> Option<&str> {
    path.rsplit('/').next()
}

#[test]
fn the_network_is_loopback_only_unless_it_is_the_hosts() {
    let invar = busybox();
    let interfaces = "ls /sys/class/net | sort | tr '\\n' ' '";
    let here = text_of("ls /sys/class/net | sort | tr '\\n' ' '");
    assert_eq!(
        shell(&invar, &[], "tail -n +3 /proc/net/dev | cut -d: -f1"),
        "    lo"
    );
    assert_eq!(
        shell(&invar, &["--network", "host"], interfaces).trim(),
        here.trim()
    );
    let reach = "nc -l -p 7777 -e true & sleep 0.2; nc 127.0.0.1 7777 && echo up";
    assert_eq!(shell(&invar, &[], reach), "up", "loopback is up");
}

fn text_of(script: &str) -> String {
    support::text(&checked(Command::new("sh").args(["-c", script])).stdout)
}

#[test]
fn the_binary_that_runs_containers_cannot_be_overwritten_from_inside() {
    let invar = busybox();
    let before = fs::metadata(env!("CARGO_BIN_EXE_invar"))
        .unwrap()
        .modified()
        .unwrap();
    // CVE-2019-5736: the program is a link to the runtime itself.
    let script = "for p in /proc/[0-9]*; do echo broken > $p/exe; done 2>/dev/null; true";
    shell(&invar, &["--writable"], script);
    drop(invar.output(&[
        "run",
        "--rm",
        "--entrypoint",
        "/proc/self/exe",
        "busybox",
        "--version",
    ]));
    let after = fs::metadata(env!("CARGO_BIN_EXE_invar"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(before, after);
}
