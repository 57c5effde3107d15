//! `invar run`: what a program gets, and what comes back of it.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use fs_err as fs;
use invar_testkit::{require, rootfs};
use support::{
    busybox, empty, outcome, outcome_of, shell, signal, spawn, text, tree, wait_for_log, with_input,
};

#[test]
fn exit_codes_are_those_of_docker() {
    let invar = busybox();
    let table: &[(&[&str], i32)] = &[
        (&["busybox", "true"], 0),
        (&["busybox", "sh", "-c", "exit 3"], 3),
        (&["busybox", "sh", "-c", "exit 255"], 255),
        (&["busybox", "no-such-program"], 127),
        (&["busybox", "/no/such/program"], 127),
        (&["busybox", "/etc/passwd"], 126),
        (&["busybox", "/etc"], 126),
        (&["--init", "busybox", "sh", "-c", "kill -KILL $$"], 137),
        (&["--init", "busybox", "sh", "-c", "kill -TERM $$"], 143),
        (&["no-such-image"], 125),
        (&["busybox"], 125),
        (&["--no-such-flag", "busybox", "true"], 125),
        (&["--name", "not/valid", "busybox", "true"], 125),
        (&["-v", "/no/such/path:/data", "busybox", "true"], 125),
        (&["-w", "relative", "busybox", "true"], 125),
        (&["-u", "nobody-knows", "busybox", "true"], 125),
        (&[], 125),
    ];
    for (args, expected) in table {
        let (code, _, said) = outcome(&invar, &[&["run", "--rm"], *args].concat());
        assert_eq!(code, Some(*expected), "{args:?}: {said}");
    }
    assert_eq!(
        invar.run(&["ps", "-aq"]),
        "",
        "a failed run --rm left a container"
    );
}

#[test]
fn settings_reach_the_program() {
    let invar = busybox();
    let table: &[(&[&str], &str, &str)] = &[
        (&["-e", "GREETING=hello"], "echo $GREETING", "hello"),
        (&["-w", "/etc"], "pwd", "/etc"),
        (&["-w", "/tmp/new/place"], "pwd", "/tmp/new/place"),
        (&["--writable", "-w", "/new/place"], "pwd", "/new/place"),
        (&[], "pwd", "/"),
        (&["-u", "nobody"], "id -u; id -g", "65534\n65534"),
        (&["-u", "12:34"], "id -u; id -g", "12\n34"),
        (&["-u", "nobody:root"], "id -u; id -g", "65534\n0"),
        (&["--hostname", "box.test"], "hostname", "box.test"),
        (&[], "echo $HOME", "/root"),
        (&[], "echo $$", "1"),
        (&[], "ls /proc/1/exe >/dev/null && echo own", "own"),
    ];
    for (flags, script, expected) in table {
        assert_eq!(
            shell(&invar, flags, script),
            *expected,
            "{flags:?} {script}"
        );
    }
    let args = [
        "run",
        "--rm",
        "--entrypoint",
        "echo",
        "busybox",
        "-n",
        "--rm",
        "x",
    ];
    assert_eq!(
        invar.run(&args),
        "--rm x",
        "flags after the image are the program's"
    );
}

#[test]
fn the_default_host_name_is_the_short_id() {
    let invar = busybox();
    let id = invar.run(&["run", "-d", "busybox", "hostname"]);
    assert_eq!(id.len(), 64);
    assert_eq!(invar.run(&["wait", &id]), "0");
    assert_eq!(invar.run(&["logs", &id]), id[..12]);
}

#[test]
fn the_last_setting_of_a_variable_wins() {
    let invar = empty();
    let tar = rootfs::busybox_tar();
    let file = invar.root().join("env");
    fs::write(&file, "# comment\nB=file\nC=file\n").unwrap();
    let import = [
        "import", "-e", "A=image", "-e", "B=image", "-e", "C=image", "web",
    ];
    invar_testkit::checked(invar.command(&import).arg(&tar));
    let run = |flags: &[&str]| {
        let program = ["web", "sh", "-c", "echo $A $B $C"];
        invar.run(&[&["run", "--rm"], flags, &program].concat())
    };
    let file = file.to_str().unwrap();
    assert_eq!(run(&[]), "image image image");
    assert_eq!(run(&["--env-file", file]), "image file file");
    assert_eq!(
        run(&["--env-file", file, "-e", "C=flag"]),
        "image file flag"
    );
    assert_eq!(
        run(&["-e", "C=flag", "--env-file", file]),
        "image file flag"
    );
}

#[test]
fn standard_input_is_passed_only_when_asked_for() {
    let invar = busybox();
    let output = with_input(
        invar.command(&["run", "--rm", "-i", "busybox", "cat"]),
        b"x\n",
    );
    assert_eq!(outcome_of(&output), (Some(0), "x".into(), String::new()));
    let output = with_input(invar.command(&["run", "--rm", "busybox", "cat"]), b"x\n");
    assert_eq!(outcome_of(&output), (Some(0), String::new(), String::new()));
}

#[test]
fn the_streams_are_whole_and_kept_apart() {
    let invar = busybox();
    let script = "echo out; echo err >&2";
    let found = outcome(&invar, &["run", "--rm", "busybox", "sh", "-c", script]);
    assert_eq!(found, (Some(0), "out".into(), "err".into()));

    let bytes: Vec<u8> = (0..8_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let output = with_input(
        invar.command(&["run", "--rm", "-i", "busybox", "cat"]),
        &bytes,
    );
    assert!(
        output.stdout == bytes,
        "{} of {} bytes",
        output.stdout.len(),
        bytes.len()
    );
}

#[test]
fn a_reader_that_goes_away_does_not_hang_the_command() {
    let invar = busybox();
    let mut child = spawn(&invar, &["run", "--rm", "--init", "busybox", "yes"]);
    drop(child.stdout.take());
    let code = child.wait().unwrap().code();
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
}

#[test]
fn signals_of_the_command_reach_the_program() {
    let invar = busybox();
    for name in ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"] {
        let container = format!("got-{}", name.to_lowercase());
        let script = format!("trap 'exit 7' {name}; echo ready; while :; do sleep 0.05; done");
        let args = ["run", "--name", &container, "busybox", "sh", "-c", &script];
        let mut child = spawn(&invar, &args);
        wait_for_log_of_new(&invar, &container);
        signal(child.id(), name);
        assert_eq!(child.wait().unwrap().code(), Some(7), "{name}");
    }
}

fn wait_for_log_of_new(invar: &invar_testkit::invar::Invar, name: &str) {
    invar_testkit::eventually(&format!("{name} exists"), || {
        invar
            .output(&["inspect", "--type", "container", name])
            .status
            .success()
            .then_some(())
    });
    wait_for_log(invar, name, "ready");
}

#[test]
fn a_signal_that_the_caller_ignores_is_not_passed_on() {
    let invar = busybox();
    let script = "trap 'exit 6' HUP; trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_invar"))
        .args(["run", "--name", "kept", "busybox", "sh", "-c", script])
        .env("INVAR_ROOT", invar.root())
        .env("INVAR_NETWORK", "none")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for_log_of_new(&invar, "kept");
    signal(child.id(), "HUP");
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_program_that_ignores_the_third_request_is_left_with_a_word() {
    let invar = busybox();
    let script = "trap '' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = spawn(
        &invar,
        &["run", "--name", "deaf", "busybox", "sh", "-c", script],
    );
    wait_for_log_of_new(&invar, "deaf");
    for _ in 0..3 {
        signal(child.id(), "INT");
        // Signals of one kind that are pending together arrive once.
        invar_testkit::eventually("the signal was taken", || {
            let pending = support::process_field(child.id().cast_signed(), "ShdPnd");
            u64::from_str_radix(&pending, 16)
                .is_ok_and(|set| set == 0)
                .then_some(())
        });
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // Line by line: the container may still hold the stream open.
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let hint = said.find(|line| {
        line.as_ref()
            .is_ok_and(|line| line.contains("invar stop deaf"))
    });
    assert!(hint.is_some());
    let state = &support::inspect(&invar, "deaf")["State"];
    assert_eq!(state["Status"], "running", "{state}");
}

#[test]
fn the_program_starts_with_no_signal_blocked_or_ignored() {
    let invar = busybox();
    // No shell in the container: it ignores some itself. The one outside ignores what the command
    // must not hand on.
    let program = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"];
    let ignoring = |args: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' HUP INT QUIT USR1; exec \"$@\"", "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_invar")).args(args);
        text(
            &invar_testkit::checked(
                shell
                    .args(program)
                    .env("INVAR_ROOT", invar.root())
                    .env("INVAR_NETWORK", "none"),
            )
            .stdout,
        )
    };
    let nothing = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000";
    assert_eq!(ignoring(&["run", "--rm", "busybox"]), nothing);
    invar.run(&["run", "-d", "--name", "up", "busybox", "sleep", "1000"]);
    assert_eq!(ignoring(&["exec", "up"]), nothing);
}

#[test]
fn the_program_gets_no_handle_besides_its_streams() {
    let invar = busybox();
    // The fourth is the directory being listed.
    let listed = invar.run(&["run", "--rm", "busybox", "ls", "/proc/self/fd"]);
    assert_eq!(listed, "0\n1\n2\n3");
    invar.run(&["run", "-d", "--name", "up", "busybox", "sleep", "1000"]);
    assert_eq!(
        invar.run(&["exec", "up", "ls", "/proc/self/fd"]),
        "0\n1\n2\n3"
    );
}

#[test]
fn a_name_is_given_once_and_must_be_valid() {
    let invar = busybox();
    invar.run(&["create", "--name", "only", "busybox", "true"]);
    let (code, _, said) = outcome(&invar, &["run", "--name", "only", "busybox", "true"]);
    assert_eq!(code, Some(125));
    assert!(
        said.contains("\"only\" is taken") && said.contains("invar rm -f only"),
        "{said}"
    );
    for name in ["a b", "../up", "-x", ""] {
        let name = format!("--name={name}");
        let (code, _, said) = outcome(&invar, &["run", &name, "busybox", "true"]);
        assert_eq!(code, Some(125), "{name}");
        assert!(said.contains("not a valid name"), "{said}");
    }
}

#[test]
fn the_id_is_printed_and_written_to_a_new_file_only() {
    let invar = busybox();
    let path = invar.root().join("id");
    let file = path.to_str().unwrap();
    let args = ["run", "-d", "--cidfile", file, "busybox", "true"];
    let id = invar.run(&args);
    assert_eq!(fs::read_to_string(&path).unwrap(), id);
    let (code, _, said) = outcome(&invar, &args);
    assert_eq!(code, Some(125));
    assert!(said.contains("may belong to a running container"), "{said}");

    fs::remove_file(&path).unwrap();
    let args = ["run", "--cidfile", file, "--name", "/", "busybox", "true"];
    assert_eq!(outcome(&invar, &args).0, Some(125));
    assert!(!path.exists(), "an id file without a container");
}

#[test]
fn a_removed_container_leaves_nothing_on_disk_or_mounted() {
    let invar = busybox();
    // The first container makes the directories that all share.
    shell(&invar, &["--writable"], "true");
    let before = tree(invar.root());
    let attached = [
        "run",
        "--rm",
        "--writable",
        "busybox",
        "sh",
        "-c",
        "echo x > /new; exit 4",
    ];
    assert_eq!(outcome(&invar, &attached).0, Some(4));
    let detached = ["run", "-d", "--rm", "--name", "gone", "busybox", "true"];
    invar.run(&detached);
    invar_testkit::eventually("the container is removed", || {
        invar.run(&["ps", "-aq"]).is_empty().then_some(())
    });
    let left = invar_testkit::eventually("its files are removed", || {
        let left: Vec<_> = tree(invar.root())
            .into_iter()
            .filter(|path| !before.contains(path))
            .collect();
        left.is_empty().then_some(left)
    });
    assert!(left.is_empty());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(invar.root().to_str().unwrap()), "{mounts}");
}

#[test]
fn twenty_containers_start_at_once() {
    let invar = busybox();
    let children: Vec<_> = (0..20)
        .map(|number| {
            let word = format!("container {number}");
            (
                word.clone(),
                spawn(&invar, &["run", "--rm", "busybox", "echo", &word]),
            )
        })
        .collect();
    for (word, child) in children {
        let found = outcome_of(&child.wait_with_output().unwrap());
        assert_eq!(found, (Some(0), word, String::new()));
    }
    assert_eq!(invar.run(&["ps", "-aq"]), "");
}

#[test]
fn the_code_of_a_container_that_ends_at_once_is_never_lost() {
    let invar = busybox();
    for round in 0..60 {
        let (code, _, said) = outcome(&invar, &["run", "--rm", "busybox", "sh", "-c", "exit 3"]);
        assert_eq!(code, Some(3), "round {round}: {said}");
    }
}

#[test]
fn images_of_a_users_own_state_root_need_no_root() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let (binary, tar) = (
        directory.path().join("invar"),
        directory.path().join("box.tar"),
    );
    fs::copy(env!("CARGO_BIN_EXE_invar"), &binary).unwrap();
    fs::copy(invar_testkit::rootfs::busybox_tar(), &tar).unwrap();
    fs::set_permissions(&tar, Permissions::from_mode(0o644)).unwrap();
    let as_user = |root: &str, args: &[&str]| {
        Command::new(require("setpriv", "util-linux"))
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(args)
            .current_dir(directory.path())
            .env("INVAR_ROOT", directory.path().join(root))
            .output()
            .unwrap()
    };
    for (args, shown) in [
        (&["import", "box", "box.tar"][..], "sha256:"),
        (&["tag", "box", "again"], ""),
        (&["images"], "again"),
        (&["inspect", "box"], "sha256:"),
        (&["image", "fsck"], ""),
        (&["save", "box", "-o", "saved.tar"], ""),
        (&["load", "-i", "saved.tar"], "Loaded image"),
        (&["rmi", "again"], ""),
        (&["image", "prune"], "removed"),
        (&["ps", "--all", "--engine", "embedded"], ""),
        (&["evidence", "ls"], ""),
    ] {
        let output = as_user("mine", args);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        assert!(said.contains(shown), "{args:?}: {said}");
    }
    // Containers need root there too, and another's state root is not the user's.
    let refused = as_user("mine", &["create", "box", "true"]);
    assert!(text(&refused.stderr).contains("needs root: CAP_SYS_ADMIN is missing"));
    fs::create_dir(directory.path().join("others")).unwrap();
    let refused = as_user("others", &["images"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(
        said.contains("is not yours") && said.contains("--root"),
        "{said}"
    );
}

#[test]
fn without_root_it_says_what_is_missing_and_how_to_get_it() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let binary = directory.path().join("invar");
    fs::copy(env!("CARGO_BIN_EXE_invar"), &binary).unwrap();
    for (args, code) in [
        (["run", "busybox", "true"], 125),
        (["exec", "web", "true"], 125),
        (["stop", "web", "db"], 1),
    ] {
        let output = Command::new(require("setpriv", "util-linux"))
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(args)
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(
            said.contains("needs root: CAP_SYS_ADMIN is missing"),
            "{said}"
        );
        assert!(
            said.contains(&format!("sudo {} {}", binary.display(), args.join(" "))),
            "{said}"
        );
    }
}

#[test]
fn a_user_opens_its_own_output_by_name() {
    let invar = busybox();
    let script = "echo out > /dev/stdout && echo err > /dev/stderr && echo done";
    let program = ["busybox", "sh", "-c", script];
    for user in ["0", "33", "33:44"] {
        let run = [&["run", "--rm", "-u", user][..], &program].concat();
        let (code, out, err) = outcome(&invar, &run);
        assert_eq!(
            (code, out.as_str()),
            (Some(0), "out\ndone"),
            "{user}: {err}"
        );
        assert_eq!(err, "err", "{user}");
        let name = format!("u{}", user.replace(':', "-"));
        let create = ["create", "--name", &name, "-u", user];
        invar.run(&[&create[..], &program].concat());
        invar.run(&["start", &name]);
        assert_eq!(invar.run(&["wait", &name]), "0", "{user}");
        wait_for_log(&invar, &name, "done");
        wait_for_log(&invar, &name, "err");
    }
}
