//! Known ways out of a container, tried from inside by root in a writable container: each is
//! refused, and for the reason it should be. What the host has is compared before and after.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use fs_err as fs;
use invar_testkit::invar::Invar;
use invar_testkit::{checked, require};
use support::{busybox, inspect, on_terminal, outcome, text};

const DONE: i32 = 0;
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const ENODEV: i32 = 19;
const EROFS: i32 = 30;
const ENOSYS: i32 = 38;
const ECONNREFUSED: i32 = 111;

/// An attacker: root in a writable container, with a program for the system calls of escapes.
struct Attacker {
    invar: Invar,
    tools: String,
}

impl Attacker {
    fn new() -> Self {
        let invar = busybox();
        let tools = invar.root().join("tools");
        fs::create_dir(&tools).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/escape.c");
        checked(
            Command::new(require("gcc", "gcc"))
                .args(["-static", "-O1", "-w", source, "-o"])
                .arg(tools.join("escape")),
        );
        let tools = format!("{}:/tools:ro,exec", tools.display());
        Self { invar, tools }
    }

    /// Runs a program in a fresh writable container; its exit code, output and errors.
    fn run(&self, flags: &[&str], program: &[&str]) -> (Option<i32>, String, String) {
        let run = ["run", "--rm", "--writable", "-v", &self.tools];
        outcome(
            &self.invar,
            &[&run[..], flags, &["busybox"], program].concat(),
        )
    }

    fn shell(&self, flags: &[&str], script: &str) -> (Option<i32>, String, String) {
        self.run(flags, &["sh", "-c", script])
    }

    /// The error of one system call.
    fn call(&self, flags: &[&str], words: &[&str]) -> i32 {
        let (_, out, said) = self.run(flags, &[&["/tools/escape"], words].concat());
        out.parse()
            .unwrap_or_else(|_| panic!("{words:?}: {out} {said}"))
    }
}

fn of_host(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[test]
fn no_file_system_can_be_mounted_moved_or_remounted() {
    let attacker = Attacker::new();
    for words in [
        &["mount", "/tmp", "tmpfs"][..],
        &["mount", "/tmp", "proc"],
        &["mount", "/tmp", "sysfs"],
        &["mount", "/tmp", "devtmpfs"],
        &["mount", "/tmp", "cgroup2"],
        &[
            "mount",
            "/tmp",
            "overlay",
            "lowerdir=/,upperdir=/tmp,workdir=/run",
        ],
        &["bind", "/proc/1/root", "/tmp"],
        &["remount", "/proc/sys"],
        &["remount", "/"],
        &["umount", "/proc/kcore"],
        &["umount", "/sys"],
        &["unshare", "0x20000"],
    ] {
        assert_eq!(attacker.call(&[], words), EPERM, "{words:?}");
    }
    // A disk that the host has mounted would be mounted again without a look at the device rules,
    // and devtmpfs has a node for each: no capability allows mounting.
    let every = ["--cap-add", "ALL"];
    for words in [
        &["mount", "/tmp", "devtmpfs"][..],
        &["mount", "/tmp", "tmpfs"],
        &["bind", "/etc", "/tmp"],
        &["umount", "/proc/kcore"],
    ] {
        assert_eq!(attacker.call(&every, words), EPERM, "{words:?}");
    }
}

#[test]
fn a_release_agent_cannot_be_set() {
    // CVE-2022-0492 and the older trick: a program of the host's that the kernel starts.
    let attacker = Attacker::new();
    let agents = || {
        let find =
            "for f in /sys/fs/cgroup/*/release_agent; do echo $f $(cat $f); done 2>/dev/null";
        text(
            &Command::new("sh")
                .args(["-c", find])
                .output()
                .unwrap()
                .stdout,
        )
    };
    let before = agents();
    for hierarchy in ["memory", "rdma", "none,name=evil"] {
        let words = ["mount", "/tmp", "cgroup", hierarchy];
        assert_eq!(attacker.call(&[], &words), EPERM, "{hierarchy}");
    }
    // A user namespace would bring the right to mount.
    assert_eq!(attacker.call(&[], &["unshare", "0x12000000"]), EPERM);
    let (_, found, _) = attacker.shell(
        &[],
        "find / -xdev -name release_agent; find /sys -name release_agent",
    );
    assert_eq!(found, "", "there is none inside");
    assert_eq!(agents(), before);
}

#[test]
fn cgroup_files_cannot_be_written() {
    let attacker = Attacker::new();
    let script = "for f in $(find /sys/fs/cgroup -type f 2>/dev/null); do echo 1 > $f && echo $f; \
                  done 2>/dev/null; mkdir /sys/fs/cgroup/new 2>&1; true";
    let (_, out, _) = attacker.shell(&[], script);
    // Nothing is mounted there (v1), or read-only (v2).
    let is_refused = ["Read-only file system", "No such file"]
        .iter()
        .any(|reason| out.contains(reason));
    assert!(is_refused && out.lines().count() == 1, "{out}");
    let (_, own, _) = attacker.shell(&[], "cut -d: -f3 /proc/self/cgroup | sort -u");
    assert_eq!(own, "/", "its place in the host's hierarchy is not told");
}

#[test]
fn settings_of_the_kernel_cannot_be_written() {
    let attacker = Attacker::new();
    let settings = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/panic_on_oops",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/module/kernel/parameters/panic",
        "/sys/power/state",
    ];
    for setting in settings {
        let before = of_host(setting);
        let error = attacker.call(&[], &["write", setting, "|/tmp/evil"]);
        if before.is_some() {
            // Some are not even there: their file system is the host's.
            assert!([EROFS, ENOENT].contains(&error), "{setting}: {error}");
        }
        assert_ne!(error, DONE, "{setting}");
        assert_eq!(of_host(setting), before, "{setting}");
    }
    // The kernel's panic button, where it has one.
    let error = attacker.call(&[], &["write", "/proc/sysrq-trigger", "c"]);
    assert!([EROFS, ENOENT].contains(&error), "{error}");
}

#[test]
fn devices_of_the_host_cannot_be_made_or_opened() {
    let attacker = Attacker::new();
    let memory = ["mknod-char", "/tmp/mem", "1", "1"];
    assert_eq!(
        attacker.call(&[], &["mknod", "/disk", "254", "0"]),
        EPERM,
        "no CAP_MKNOD"
    );
    assert_eq!(attacker.call(&[], &memory), EPERM);
    for path in [
        "/dev/mem",
        "/dev/kmem",
        "/dev/port",
        "/dev/kmsg",
        "/dev/vda",
        "/dev/sda",
        "/dev/fuse",
        "/dev/kvm",
    ] {
        assert_eq!(attacker.call(&[], &["open", path]), ENOENT, "{path}");
    }
    // With the right to make them, the group of devices still refuses to open them.
    let script = "/tools/escape mknod /disk 254 0; /tools/escape open /disk; \
                  /tools/escape mknod-char /mem 1 1; /tools/escape open /mem; \
                  /tools/escape mknod-char /kmsg 1 11; /tools/escape open /kmsg; \
                  /tools/escape mknod-char /tty0 4 0; /tools/escape open /tty0; \
                  /tools/escape mknod-char /host-console 5 1; /tools/escape open /host-console";
    let (_, out, _) = attacker.shell(&["--cap-add", "MKNOD", "--cap-add", "SYS_RAWIO"], script);
    let errors: Vec<i32> = out.lines().map(|line| line.parse().unwrap()).collect();
    for pair in errors.chunks(2) {
        assert!([EPERM, ENODEV].contains(&pair[1]), "{errors:?}");
        assert!(pair[0] == EPERM || pair[1] == EPERM, "{errors:?}");
    }
    assert_ne!(attacker.call(&[], &["iopl"]), DONE, "ports of the machine");
}

#[test]
fn no_handle_of_the_host_is_left_open_inside() {
    // CVE-2024-21626, CVE-2016-9962.
    let attacker = Attacker::new();
    let list = "for f in /proc/1/fd/* /proc/self/fd/*; do readlink $f; done | sort -u";
    let leaks = |flags: &[&str]| {
        let (_, out, _) = attacker.shell(flags, list);
        let is_known = |line: &&str| {
            [
                "pipe:",
                "socket:",
                "/dev/null",
                "/dev/pts/",
                "/dev/console",
                "/proc/",
                "anon_inode:",
            ]
            .iter()
            .any(|known| line.starts_with(known))
        };
        out.lines()
            .filter(|line| !is_known(line))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(leaks(&[]), Vec::<String>::new());
    assert_eq!(leaks(&["--init"]), Vec::<String>::new());
    let (_, links, _) = attacker.shell(&[], "readlink /proc/1/cwd; readlink /proc/1/root");
    assert_eq!(links, "/\n/");
}

#[test]
fn a_working_directory_that_is_a_handle_leads_nowhere() {
    let attacker = Attacker::new();
    let up = "pwd -P; ls -d ../../../../../../var/tmp/invar-test-* 2>/dev/null; true";
    for number in 3..24 {
        for form in ["/proc/self/fd/", "/proc/thread-self/fd/", "/proc/1/fd/"] {
            let directory = format!("{form}{number}");
            let (code, out, said) = attacker.shell(&["-w", &directory], up);
            let is_refused = code == Some(125) && said.contains("working directory");
            assert!(
                is_refused || !out.contains("invar-test-"),
                "{directory}: {out} {said}"
            );
        }
    }
    attacker.invar.run(&[
        "run",
        "-d",
        "--name",
        "up",
        "--writable",
        "busybox",
        "sleep",
        "1000",
    ]);
    for number in 3..24 {
        let directory = format!("/proc/self/fd/{number}");
        let args = ["exec", "-w", &directory, "up", "sh", "-c", up];
        let (code, out, said) = outcome(&attacker.invar, &args);
        let is_refused = code == Some(125) && said.contains("working directory");
        assert!(
            is_refused || !out.contains("invar-test-"),
            "{directory}: {out} {said}"
        );
    }
    // The same by a link that the container made.
    attacker.invar.run(&[
        "exec",
        "up",
        "sh",
        "-c",
        "ln -s /proc/self/fd /h; ln -s /proc/self/cwd /c",
    ]);
    for directory in ["/h/7", "/h/8", "/h/9", "/c"] {
        let args = ["exec", "-w", directory, "up", "sh", "-c", up];
        let (_, out, said) = outcome(&attacker.invar, &args);
        assert!(!out.contains("invar-test-"), "{directory}: {out} {said}");
    }
}

#[test]
fn the_program_that_runs_containers_cannot_be_opened_for_writing() {
    // CVE-2019-5736: through /proc/PID/exe of whatever enters the container.
    let attacker = Attacker::new();
    let invar = &attacker.invar;
    let digest =
        || text(&checked(Command::new("sha256sum").arg(env!("CARGO_BIN_EXE_invar"))).stdout);
    let before = digest();
    let script = "ln -sf /proc/self/exe /bin/entered; printf '#!/proc/self/exe\\n' > /bin/script; \
                  chmod +x /bin/script; while true; do for p in /proc/[0-9]*; do \
                  (: >> $p/exe) 2>/dev/null && case $(readlink $p/exe) in *invar*) echo WON;; esac; \
                  done; done";
    invar.run(&[
        "run",
        "-d",
        "--name",
        "c",
        "--writable",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    for _ in 0..10 {
        drop(invar.output(&["exec", "c", "/bin/entered", "--version"]));
        drop(invar.output(&["exec", "c", "/bin/script"]));
    }
    assert_eq!(invar.run(&["logs", "c"]), "");
    // Also as process 1, where our own program stays.
    let (_, out, _) = attacker.shell(&["--init"], "(: >> /proc/1/exe) 2>&1; readlink /proc/1/exe");
    assert!(
        out.contains("Read-only file system") || out.contains("Text file busy"),
        "{out}"
    );
    assert_eq!(digest(), before);
}

#[test]
fn keyrings_of_the_host_are_out_of_reach() {
    let attacker = Attacker::new();
    for call in ["add-key", "keyctl", "request-key"] {
        let error = attacker.call(&[], &[call]);
        assert!([EPERM, ENOSYS].contains(&error), "{call}: {error}");
    }
    let (_, keys, _) = attacker.shell(&[], "cat /proc/keys");
    assert_eq!(keys, "", "masked");
}

#[test]
fn namespaces_cannot_be_made_or_entered() {
    let attacker = Attacker::new();
    // User, mount, network, process, IPC, UTS, cgroup, time.
    for flag in [
        "0x10000000",
        "0x20000",
        "0x40000000",
        "0x20000000",
        "0x8000000",
        "0x4000000",
        "0x2000000",
        "0x80",
    ] {
        assert_eq!(attacker.call(&[], &["unshare", flag]), EPERM, "{flag}");
    }
    for kind in ["mnt", "pid", "net", "user"] {
        let namespace = format!("/proc/1/ns/{kind}");
        assert_eq!(attacker.call(&[], &["setns", &namespace]), EPERM, "{kind}");
    }
}

#[test]
fn processes_of_the_host_do_not_exist() {
    let attacker = Attacker::new();
    // A process of the host that any root process there could trace.
    let mut victim = Command::new("sleep").arg("1000").spawn().unwrap();
    // A number that is surely not in use inside: far above the few processes there.
    let pid = victim.id().to_string();
    for call in ["kill", "ptrace", "read-memory"] {
        let error = attacker.call(&[], &[call, &pid]);
        assert!(error == ESRCH || error == EPERM, "{call}: {error}");
    }
    let (_, seen, _) = attacker.shell(&[], "ls -d /proc/[0-9]* | wc -l");
    assert!(seen.parse::<u32>().unwrap() < 8, "{seen}");
    // Tracing a process of the same container gives no more rights than it has.
    let script = "sleep 100 & /tools/escape ptrace $!";
    let (_, out, _) = attacker.shell(&[], script);
    assert_eq!(out, "0");
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[test]
fn files_cannot_be_opened_by_number() {
    // "Shocker": the file system's own numbers lead past every root.
    let attacker = Attacker::new();
    assert_eq!(attacker.call(&[], &["handle"]), EPERM);
    assert_eq!(
        attacker.call(&["--cap-add", "DAC_READ_SEARCH"], &["vsock"]),
        ENOSYS
    );
}

#[test]
fn abstract_sockets_of_the_host_are_in_another_network() {
    // CVE-2020-15257: the shim of another engine listened there.
    let attacker = Attacker::new();
    let name = format!("invar-escape-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    assert_eq!(
        attacker.call(&[], &["connect-abstract", &name]),
        ECONNREFUSED
    );
    // The host's network has them, which is why it is not the default.
    assert_eq!(
        attacker.call(&["--network", "host"], &["connect-abstract", &name]),
        DONE
    );
    drop(listener);
}

#[test]
fn rights_once_given_up_do_not_come_back() {
    let attacker = Attacker::new();
    let nobody = ["-u", "nobody"];
    assert_eq!(attacker.call(&nobody, &["setuid-root"]), EPERM);
    assert_eq!(attacker.call(&[], &["raise-capability"]), EPERM);
    assert_ne!(attacker.call(&[], &["drop-no-new-privs"]), DONE);
    let script = "cp /tools/escape /bin/su-escape && chmod 4755 /bin/su-escape && \
                  su nobody -s /bin/sh -c '/bin/su-escape setuid-root; id -u'";
    let (_, out, said) = attacker.shell(&["--cap-add", "SETUID"], script);
    assert_eq!(out, "1\n65534", "setuid has no effect: {said}");
}

#[test]
fn a_terminal_of_the_host_cannot_be_typed_into() {
    let attacker = Attacker::new();
    // Without -t the program has the caller's own terminal as standard input.
    let run = format!(
        "$INVAR run --rm -i -v {} busybox /tools/escape type-into-terminal; \
         $INVAR run --rm -i -v {0} busybox /tools/escape steal-terminal",
        attacker.tools
    );
    let shown = on_terminal(&attacker.invar, &run, &[]);
    let errors: Vec<&str> = shown
        .lines()
        .filter(|line| line.parse::<i32>().is_ok())
        .collect();
    assert_eq!(errors.len(), 2, "{shown}");
    assert!(errors.iter().all(|error| *error != "0"), "{shown}");
    // With one of its own neither, nor with every right: the filter does not let the request pass.
    for flags in ["-it", "-it --cap-add ALL"] {
        let run = format!(
            "$INVAR run --rm {flags} -v {} busybox /tools/escape type-into-terminal",
            attacker.tools
        );
        let shown = on_terminal(&attacker.invar, &run, &[]);
        assert!(shown.lines().any(|line| line == "1"), "{flags}: {shown}");
    }
}

/// A volume for `/dev` whose names are links to what an attacker wants to write to.
fn hostile_dev(invar: &Invar, links: &[(&str, &str)]) -> String {
    let directory = invar.root().join("dev");
    fs::create_dir_all(&directory).unwrap();
    for (name, target) in links {
        fs_err::os::unix::fs::symlink(target, directory.join(name)).unwrap();
    }
    format!("{}:/dev", directory.display())
}

#[test]
fn a_null_device_that_is_a_link_opens_no_masked_path() {
    // CVE-2025-31133: /dev/null was mounted over what is to be hidden, and was a link.
    let attacker = Attacker::new();
    let before = of_host("/proc/sys/kernel/core_pattern");
    let dev = hostile_dev(
        &attacker.invar,
        &[
            ("null", "/proc/sys/kernel/core_pattern"),
            ("zero", "/proc/sysrq-trigger"),
        ],
    );
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/latency_stats \
                  /proc/interrupts /dev/null /proc/sys/kernel/core_pattern; do \
                  (echo '|/tmp/evil' > $f) 2>/dev/null; done; cat /proc/kcore | head -c 100; echo over";
    let (code, out, said) = attacker.shell(&["-v", &dev], script);
    assert!(code != Some(0) || out == "over", "{out} {said}");
    assert_eq!(of_host("/proc/sys/kernel/core_pattern"), before);
    // The same in the image, and in the container's own layer.
    attacker.invar.run(&[
        "create",
        "--name",
        "c",
        "--writable",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let links = "rm -rf /dev; ln -s /proc/sys/kernel /dev";
    drop(attacker.shell(&[], links));
    let (_, out, _) = outcome(&attacker.invar, &["start", "-a", "c"]);
    assert_eq!(out, "over");
    assert_eq!(of_host("/proc/sys/kernel/core_pattern"), before);
}

#[test]
fn a_console_that_is_a_link_is_not_followed() {
    // CVE-2025-52565: the terminal was mounted on /dev/console wherever that led.
    let attacker = Attacker::new();
    let before = of_host("/proc/sys/kernel/core_pattern");
    let dev = hostile_dev(
        &attacker.invar,
        &[
            ("console", "/proc/sys/kernel/core_pattern"),
            ("pts", "/proc/sys"),
        ],
    );
    let script = "echo '|/tmp/evil' > /proc/sys/kernel/core_pattern; echo over";
    let run = format!("$INVAR run --rm -t --writable -v {dev} busybox sh -c \"{script}\"; echo $?");
    let shown = on_terminal(&attacker.invar, &run, &[]);
    assert!(!shown.contains("evil"), "{shown}");
    assert_eq!(of_host("/proc/sys/kernel/core_pattern"), before, "{shown}");
}

#[test]
fn the_kernel_s_file_systems_cannot_be_covered() {
    // CVE-2019-16884, CVE-2025-52881: a /proc of the attacker's takes what is written to it.
    let attacker = Attacker::new();
    let directory = attacker.invar.root().join("fake");
    fs::create_dir_all(directory.join("self/attr")).unwrap();
    for target in ["/proc", "/proc/self", "/sys", "/proc/sys/kernel"] {
        let volume = format!("{}:{target}", directory.display());
        let (code, out, said) = attacker.shell(&["-v", &volume], "echo inside");
        assert!(code == Some(125), "{target}: {out} {said}");
        assert!(said.contains(target), "{target}: {said}");
    }
}

#[test]
fn mount_points_that_are_links_end_inside() {
    let attacker = Attacker::new();
    let victim = attacker.invar.root().join("victim");
    fs::create_dir(&victim).unwrap();
    let make = format!(
        "ln -s {} /data; ln -s ../../../../../..{0} /up",
        victim.display()
    );
    attacker.invar.run(&[
        "run",
        "--name",
        "made",
        "--writable",
        "busybox",
        "sh",
        "-c",
        &make,
    ]);
    let upper = attacker.invar.root().join("containers");
    let id = inspect(&attacker.invar, "made")["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        fs::symlink_metadata(upper.join(&id).join("upper/data"))
            .unwrap()
            .is_symlink()
    );
    // Started again with its links in place, and with volumes on them in an image made of it.
    let tar = attacker.invar.root().join("root.tar");
    checked(
        Command::new("tar")
            .arg("-cf")
            .arg(&tar)
            .arg("-C")
            .arg(upper.join(&id).join("upper"))
            .arg("."),
    );
    let base = invar_testkit::rootfs::busybox_tar();
    checked(
        Command::new("sh")
            .args(["-c", "cp $0 $2 && tar -Af $2 $1"])
            .arg(&base)
            .arg(&tar)
            .arg(attacker.invar.root().join("linked.tar")),
    );
    attacker
        .invar
        .import("linked", &attacker.invar.root().join("linked.tar"));
    for target in ["/data", "/up", "/data/sub", "/up/../up/sub"] {
        let volume = format!("vol:{target}");
        let args = [
            "run",
            "--rm",
            "--writable",
            "-v",
            &volume,
            "linked",
            "sh",
            "-c",
            "echo x > /data/file; echo x > /up/file; true",
        ];
        drop(outcome(&attacker.invar, &args));
        assert_eq!(support::tree(&victim), Vec::<String>::new(), "{target}");
    }
}

#[test]
fn a_volume_cannot_be_made_to_show_the_host_by_exchanging_its_directory() {
    // CVE-2021-30465, CVE-2023-28642: two containers and one volume, and a race for a mount point.
    let attacker = Attacker::new();
    let invar = &attacker.invar;
    let script = "while true; do mkdir -p /v/x/mount; mv /v/x /v/y; ln -s / /v/x; rm /v/x; mv /v/y /v/x; \
                  done 2>/dev/null";
    invar.run(&[
        "run",
        "-d",
        "--name",
        "racer",
        "-v",
        "shared:/v",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    for _ in 0..30 {
        let look = "ls -d /var/tmp/invar-test-* /work 2>/dev/null; ls /mount 2>/dev/null; true";
        let args = [
            "run",
            "--rm",
            "--writable",
            "-v",
            "shared:/v",
            "-v",
            "other:/v/x/mount",
            "busybox",
            "sh",
            "-c",
            look,
        ];
        let (_, out, _) = outcome(invar, &args);
        assert_eq!(out, "");
    }
    assert!(
        !std::path::Path::new("/mount").exists(),
        "nothing was made on the host"
    );
}

#[test]
fn what_the_kernel_keeps_to_the_host_s_root_stays_there() {
    let attacker = Attacker::new();
    for (words, expected) in [(&["raw"][..], EPERM), (&["personality"], ENOSYS)] {
        assert_eq!(attacker.call(&[], words), expected, "{words:?}");
    }
    for script in [
        "date -s 2020-01-01 2>&1 | grep -q 'not permitted' && false",
        "nice -n -20 true && renice -n -20 1",
        "reboot -f",
        "swapoff -a && swapon /dev/vda",
        "sysctl -w kernel.panic=1",
        "hwclock -w",
    ] {
        let (code, ..) = attacker.shell(&[], script);
        assert_ne!(code, Some(0), "{script}");
    }
}
