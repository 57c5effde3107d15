//! What the tests of the container commands share.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "in tests a panic is the report; no test file needs all of it"
)]

pub(crate) mod agent;
pub(crate) mod attacked;
pub(crate) mod networks;
pub(crate) mod shop;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use fs_err as fs;
use invar_testkit::invar::Invar;
use invar_testkit::{eventually, require, rootfs};
use serde_json::Value;

/// The binary with an empty state root.
pub(crate) fn empty() -> Invar {
    Invar::new(env!("CARGO_BIN_EXE_invar"))
}

/// The binary with the image `busybox`.
pub(crate) fn busybox() -> Invar {
    let invar = empty();
    invar.import("busybox", &rootfs::busybox_tar());
    invar
}

/// What a program wrote, as text without the last newline.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// Exit code, standard output and standard error of `invar ARGS`.
pub(crate) fn outcome(invar: &Invar, args: &[&str]) -> (Option<i32>, String, String) {
    outcome_of(&invar.output(args))
}

/// The parts of an output.
pub(crate) fn outcome_of(output: &Output) -> (Option<i32>, String, String) {
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Runs a shell script in a new container that is removed at its end; it must succeed.
pub(crate) fn shell(invar: &Invar, flags: &[&str], script: &str) -> String {
    let args = [&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat();
    invar.run(&args)
}

/// Runs a command with this on its standard input.
pub(crate) fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The program may end before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// `invar ARGS` with its output kept, running.
pub(crate) fn spawn(invar: &Invar, args: &[&str]) -> Child {
    invar
        .command(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// One container of `invar inspect`.
pub(crate) fn inspect(invar: &Invar, name: &str) -> Value {
    let all: Value = serde_json::from_str(&invar.run(&["inspect", name])).unwrap();
    all[0].clone()
}

/// Its state in Docker's word: `running`, `exited`, …
pub(crate) fn status(invar: &Invar, name: &str) -> String {
    inspect(invar, name)["State"]["Status"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Its first process as the host numbers it.
pub(crate) fn pid(invar: &Invar, name: &str) -> i32 {
    let pid = inspect(invar, name)["State"]["Pid"].as_i64().unwrap();
    i32::try_from(pid).unwrap()
}

/// Waits until the container's log has this text.
pub(crate) fn wait_for_log(invar: &Invar, name: &str, wanted: &str) {
    eventually(&format!("{wanted:?} in the log of {name}"), || {
        let output = invar.output(&["logs", name]);
        let all = text(&output.stdout) + &text(&output.stderr);
        all.contains(wanted).then_some(())
    });
}

/// Whether a process exists and is not a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}

/// A field of `/proc/PID/status`.
pub(crate) fn process_field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}:")))
        .unwrap()
        .trim()
        .to_owned()
}

/// Sends a signal with the host's own tool.
pub(crate) fn signal(pid: u32, name: &str) {
    invar_testkit::checked(Command::new("kill").args(["-s", name, &pid.to_string()]));
}

/// Runs a shell command on a terminal of 33 rows and 101 columns. Each step waits until its text
/// was printed and then sends keys (`send:…`), changes the size (`size:ROWSxCOLUMNS`), or ends the
/// process whose id is in a file (`end:PATH`). Returns everything printed; the last line is
/// `exit=CODE`.
pub(crate) fn on_terminal(invar: &Invar, command: &str, steps: &[(&str, &str)]) -> String {
    let mut python = Command::new(require("python3", "python3"));
    python
        .args(["-c", include_str!("terminal.py"), command])
        .env("INVAR_ROOT", invar.root())
        .env("INVAR_NETWORK", "none")
        .env("INVAR", env!("CARGO_BIN_EXE_invar"));
    for (wanted, action) in steps {
        python.arg(wanted).arg(action);
    }
    text(&invar_testkit::checked(&mut python).stdout).replace('\r', "")
}

/// The files and directories below a path, itself not among them. Of a running container: the
/// kernel and its programs make and remove files while it is listed.
pub(crate) fn tree(path: &Path) -> Vec<String> {
    let mut find = Command::new("find");
    find.arg(path).args(["-mindepth", "1"]).env("LC_ALL", "C");
    let listing = find.output().unwrap();
    let complaints = text(&listing.stderr);
    assert!(
        complaints
            .lines()
            .all(|line| line.ends_with("No such file or directory")),
        "find {}: {complaints}",
        path.display()
    );
    text(&listing.stdout).lines().map(str::to_owned).collect()
}
