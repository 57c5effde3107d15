//! `invar watch --block`, row by row: each way to run what is not of the image is refused, or is one
//! of those that `docs/sensor.md` says get through; what is of the image still runs.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, Command};

use fs_err as fs;
use invar_testkit::invar::Invar;
use invar_testkit::{checked, rootfs};
use support::{empty, outcome, signal, spawn};

/// Programs of the image, one for each row that changes its own. Called by the name that makes
/// them what they are.
const OWN: [&str; 6] = [
    "appended", "renamed", "linked", "chmodded", "opened", "touched",
];

/// The binary with the image `tools`.
fn tools() -> Invar {
    let invar = empty();
    let dir = tempfile::tempdir().unwrap();
    let (root, tar) = (dir.path().join("root"), dir.path().join("tools.tar"));
    fs::create_dir(&root).unwrap();
    checked(
        Command::new("tar")
            .arg("-xf")
            .arg(rootfs::busybox_tar())
            .arg("-C")
            .arg(&root),
    );
    for name in OWN {
        let place = root.join("app").join(name);
        fs::create_dir_all(&place).unwrap();
        fs::copy(root.join("bin/busybox"), place.join("busybox")).unwrap();
    }
    let script = root.join("app/good");
    fs::write(&script, "#!/bin/sh\necho good\n").unwrap();
    checked(Command::new("chmod").arg("755").arg(&script));
    checked(
        Command::new("tar")
            .arg("-cf")
            .arg(&tar)
            .arg("-C")
            .arg(&root)
            .arg("."),
    );
    invar.import("tools", &tar);
    invar
}

/// A container that waits.
fn start(invar: &Invar, name: &str, flags: &[&str]) {
    let name = format!("--name={name}");
    let args = [
        &["run", "-d", &name, "--writable"],
        flags,
        &["tools", "sleep", "1000"],
    ];
    invar.run(&args.concat());
}

/// A watch that has begun when this returns, of everything there is.
struct Watch {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Watch {
    fn start(invar: &Invar) -> Self {
        let mut child = spawn(invar, &["watch", "--block", "--format=jsonl"]);
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { child, said }
    }

    /// Waits until it says that it watches this container.
    fn wait_for(&mut self, name: &str) {
        let wanted = format!("watching embedded:{name}");
        let mut line = String::new();
        while !line.contains(&wanted) {
            line.clear();
            assert!(
                self.said.read_line(&mut line).unwrap() > 0,
                "the watch ended"
            );
        }
    }

    /// Ends it; what it told.
    fn end(mut self) -> String {
        signal(self.child.id(), "TERM");
        let mut told = String::new();
        let mut out = self.child.stdout.take().unwrap();
        out.read_to_string(&mut told).unwrap();
        assert!(self.child.wait().unwrap().success());
        told
    }
}

/// What a script says in the container.
fn says(invar: &Invar, name: &str, script: &str) -> (String, String) {
    let (_, out, said) = outcome(invar, &["exec", name, "sh", "-c", script]);
    (out, said)
}

/// Every script must say `ran` or must not; all of them say it once nobody watches.
fn check(invar: &Invar, watch: Watch, rows: &[(&str, bool, &str)]) -> String {
    let mut wrong = Vec::new();
    for (row, runs, script) in rows {
        let (out, said) = says(invar, "web", script);
        if (out == "ran") != *runs {
            wrong.push(format!("{row}: runs: {}: {out} {said}", !runs));
        }
    }
    let told = watch.end();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The rows can fail: without the watch each of them runs.
    for (row, _, script) in rows {
        let (out, said) = says(invar, "web", script);
        assert_eq!(out, "ran", "{row}, unwatched: {said}");
    }
    told
}

/// Programs and scripts: what it is, whether it runs, and how it is tried.
const PROGRAMS: &[(&str, bool, &str)] = &[
    (
        "dropped",
        false,
        "mkdir -p /tmp/d; cp /bin/busybox /tmp/d; /tmp/d/busybox echo ran",
    ),
    (
        "appended",
        false,
        "echo x >>/app/appended/busybox; /app/appended/busybox echo ran",
    ),
    (
        "renamed",
        false,
        "mkdir -p /app/m; mv /app/renamed/busybox /app/m; /app/m/busybox echo ran",
    ),
    (
        "hardlink",
        false,
        "mkdir -p /app/l; ln /app/linked/busybox /app/l; /app/l/busybox echo ran",
    ),
    (
        "what a hardlink was made of",
        true,
        "/app/linked/busybox echo ran",
    ),
    (
        "a symlink to the image",
        true,
        "mkdir -p /tmp/s; ln -s /bin/busybox /tmp/s; /tmp/s/busybox echo ran",
    ),
    (
        "chmod",
        true,
        "chmod 700 /app/chmodded/busybox; /app/chmodded/busybox echo ran",
    ),
    (
        "opened to write",
        true,
        ": <>/app/opened/busybox; /app/opened/busybox echo ran",
    ),
    (
        "touch",
        true,
        "touch /app/touched/busybox; /app/touched/busybox echo ran",
    ),
    (
        "shebang",
        false,
        "printf '#!/bin/sh\necho ran' >/tmp/e; chmod +x /tmp/e; /tmp/e",
    ),
    ("shebang, read", false, "sh </tmp/e"),
    (
        "script",
        false,
        "echo 'echo ran' >/tmp/plain; sh /tmp/plain",
    ),
    ("script by a pipe", true, "cat /tmp/plain | sh"),
    (
        "volume",
        false,
        "cp /bin/busybox /data; /data/busybox echo ran",
    ),
    (
        "tmpfs",
        false,
        "cp /bin/busybox /scratch; /scratch/busybox echo ran",
    ),
];

#[test]
fn programs_and_scripts_run_only_as_the_image_has_them() {
    let invar = tools();
    let volume = tempfile::tempdir().unwrap();
    let data = format!("--volume={}:/data:exec", volume.path().display());
    start(&invar, "web", &[&data, "--tmpfs=/scratch:exec"]);
    let mut watch = Watch::start(&invar);
    watch.wait_for("web");
    let told = check(&invar, watch, PROGRAMS);
    for path in ["/tmp/d/busybox", "/data/busybox", "/scratch/busybox"] {
        let is_told = told
            .lines()
            .any(|line| line.contains("exec-blocked") && line.contains(path));
        assert!(is_told, "{path}: {told}");
    }
}

/// The dynamic linker of this machine's own programs: x86-64 and aarch64 call theirs differently, and
/// keep it in different places.
fn dynamic_linker() -> String {
    let name = format!("ld-linux-{}.so.", std::env::consts::ARCH.replace('_', "-"));
    let found = ["/lib64", "/lib"].into_iter().find_map(|place| {
        let mut entries = fs::read_dir(place).ok()?.filter_map(Result::ok);
        let entry = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(&name))?;
        Some(entry.path())
    });
    let found = found.unwrap_or_else(|| {
        panic!(
            "this test needs {name}* in /lib64 or /lib: apt-get install libc6 (a Linux with glibc)"
        )
    });
    found.to_str().unwrap().to_owned()
}

#[test]
fn libraries_are_refused_and_code_that_is_no_file_is_not() {
    // It is the one that the container gets with /usr, not another one of the search path.
    assert!(
        fs::exists("/usr/bin/python3").unwrap(),
        "this test needs /usr/bin/python3: apt-get install python3 (or run `make setup`)"
    );
    let linker = dynamic_linker();
    let invar = tools();
    // The host's programs, mounted read-only: the operator's, they run.
    let mut places = vec!["/usr:/usr", "/usr/lib:/lib"];
    if fs::exists("/lib64").unwrap() {
        places.push("/lib64:/lib64");
    }
    let flags: Vec<String> = places
        .iter()
        .map(|place| format!("--volume={place}:ro,exec"))
        .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    start(&invar, "web", &flags);
    let mut watch = Watch::start(&invar);
    watch.wait_for("web");
    let library = "mkdir -p /tmp/l; cp -L /usr/lib/*-linux-gnu/libm.so.6 /tmp/l";
    let mapped = "/usr/bin/python3 -c \"print('ran' if '/tmp/l/' in open('/proc/self/maps').read() else 'no')\"";
    let preload = format!("{library}; LD_PRELOAD=/tmp/l/libm.so.6 {mapped}");
    let search = format!("{library}; LD_LIBRARY_PATH=/tmp/l {mapped}");
    let dlopen = format!(
        "{library}; /usr/bin/python3 -c \"import ctypes; ctypes.CDLL('/tmp/l/libm.so.6'); print('ran')\""
    );
    let memfd = "/usr/bin/python3 -c \"import os; m = os.memfd_create('m', 0); \
                 os.write(m, open('/bin/busybox', 'rb').read()); \
                 os.execv('/proc/self/fd/%d' % m, ['busybox', 'echo', 'ran'])\"";
    let by_linker = format!("cp /usr/bin/env /tmp/env; {linker} /tmp/env echo ran");
    check(
        &invar,
        watch,
        &[
            (
                "the operator's",
                true,
                "/usr/bin/python3 -c \"print('ran')\"",
            ),
            ("LD_PRELOAD", false, &preload),
            ("LD_LIBRARY_PATH", false, &search),
            ("dlopen", false, &dlopen),
            ("ld.so", false, &by_linker),
            (
                "script of python",
                false,
                "echo 'print(\"ran\")' >/tmp/p; /usr/bin/python3 /tmp/p",
            ),
            ("memfd", true, memfd),
        ],
    );
}

#[test]
fn no_race_of_names_gets_through_also_in_a_container_that_starts_later() {
    let invar = tools();
    start(&invar, "first", &[]);
    let mut watch = Watch::start(&invar);
    watch.wait_for("first");
    start(&invar, "late", &[]);
    watch.wait_for("late");
    // One name goes back and forth between the image's program and an added one, until both
    // were met.
    let script = "printf '#!/bin/sh\necho ran' >/tmp/e; chmod +x /tmp/e; ln -s /app/good /tmp/r; \
        (while [ ! -e /tmp/end ]; do ln -s /tmp/e /tmp/n; mv /tmp/n /tmp/r; \
         ln -s /app/good /tmp/n; mv /tmp/n /tmp/r; done) & \
        i=0; good=0; bad=0; while [ $i -lt 3000 ]; do i=$((i+1)); \
          case $(/tmp/r 2>&1) in ran) echo RAN;; good) good=$((good+1));; *) bad=$((bad+1));; esac; \
          [ $i -gt 100 ] && [ $good -gt 5 ] && [ $bad -gt 5 ] && break; done; \
        : >/tmp/end; wait; [ $good -gt 5 ] && [ $bad -gt 5 ] && echo both";
    for name in ["first", "late"] {
        let (out, said) = says(&invar, name, script);
        assert_eq!(out, "both", "{name}: {said}");
    }
    watch.end();
}
