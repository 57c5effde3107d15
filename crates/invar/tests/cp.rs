//! `invar cp`: both directions, as a stream, and against containers that fight it.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;

use fs_err as fs;
use invar_testkit::invar::Invar;
use support::{busybox, outcome, outcome_of, text, with_input};

/// A writable container that runs, and an empty directory of the host.
fn stage() -> (Invar, PathBuf) {
    let invar = busybox();
    invar.run(&[
        "run",
        "-d",
        "--name",
        "c",
        "--writable",
        "busybox",
        "sleep",
        "1000",
    ]);
    let host = invar.root().join("host");
    fs::create_dir(&host).unwrap();
    (invar, host)
}

fn shell(invar: &Invar, script: &str) -> String {
    invar.run(&["exec", "c", "sh", "-c", script])
}

fn str(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn files_and_directories_go_where_docker_puts_them() {
    let (invar, host) = stage();
    shell(
        &invar,
        "mkdir -p /d/sub; echo one > /d/one; echo two > /d/sub/two; ln -s one /d/link",
    );
    // Source, target and what is then there.
    let new = host.join("new");
    invar.run(&["cp", "c:/d", str(&new)]);
    assert_eq!(fs::read_to_string(new.join("sub/two")).unwrap(), "two\n");
    assert_eq!(
        fs::read_link(new.join("link")).unwrap(),
        PathBuf::from("one")
    );
    invar.run(&["cp", "c:/d", str(&new)]);
    assert!(new.join("d/one").exists(), "into a directory that is there");
    let contents = host.join("contents");
    fs::create_dir(&contents).unwrap();
    invar.run(&["cp", "c:/d/.", str(&contents)]);
    assert!(contents.join("one").exists() && !contents.join("d").exists());
    invar.run(&["cp", "c:d/one", str(&host.join("renamed"))]);
    assert_eq!(fs::read_to_string(host.join("renamed")).unwrap(), "one\n");
    invar.run(&["cp", "-L", "c:/d/link", str(&host.join("followed"))]);
    assert_eq!(fs::read_to_string(host.join("followed")).unwrap(), "one\n");

    invar.run(&["cp", &format!("{}/.", str(&contents)), "c:/srv"]);
    assert_eq!(shell(&invar, "cat /srv/sub/two"), "two");
    invar.run(&["cp", str(&host.join("renamed")), "c:/tmp/"]);
    assert_eq!(shell(&invar, "cat /tmp/renamed"), "one");
    invar.run(&["cp", str(&host.join("renamed")), "c:/d/sub/two"]);
    assert_eq!(shell(&invar, "cat /d/sub/two"), "one");

    for (source, target, reason) in [
        ("c:/nothing", str(&host), "is not there"),
        (
            "c:/d/one",
            str(&host.join("nothing/")),
            "is not a directory",
        ),
        ("c:/d", str(&host.join("renamed")), "is a file"),
        ("c:/d", "c:/e", "between two containers"),
        (str(&host), str(&new), "is in a container"),
    ] {
        let target = target.to_owned()
            + if reason == "is not a directory" {
                "/"
            } else {
                ""
            };
        let (code, _, said) = outcome(&invar, &["cp", source, &target]);
        assert!(
            code == Some(1) && said.contains(reason),
            "{source} {target}: {said}"
        );
    }
}

#[test]
fn owners_and_setuid_are_kept_only_when_asked_for() {
    let (invar, host) = stage();
    shell(
        &invar,
        "echo x > /tool; chown 1234:77 /tool; chmod 6755 /tool",
    );
    invar.run(&["cp", "c:/tool", str(&host.join("plain"))]);
    let plain = fs::metadata(host.join("plain")).unwrap();
    assert_eq!(
        (plain.mode() & 0o7777, plain.uid(), plain.gid()),
        (0o755, 0, 0)
    );
    invar.run(&["cp", "-a", "c:/tool", str(&host.join("kept"))]);
    let kept = fs::metadata(host.join("kept")).unwrap();
    assert_eq!(
        (kept.mode() & 0o7777, kept.uid(), kept.gid()),
        (0o6755, 1234, 77)
    );
    invar.run(&["cp", "-a", str(&host.join("kept")), "c:/back"]);
    assert_eq!(shell(&invar, "stat -c '%a %u %g' /back"), "6755 1234 77");
}

#[test]
fn tar_streams_go_both_ways() {
    let (invar, host) = stage();
    shell(
        &invar,
        "mkdir -p /d/sub; echo one > /d/sub/one; ln -s sub/one /d/link",
    );
    let output = invar.output(&["cp", "c:/d", "-"]);
    let file = host.join("d.tar");
    fs::write(&file, &output.stdout).unwrap();
    invar_testkit::checked(
        Command::new("tar")
            .arg("-xf")
            .arg(&file)
            .arg("-C")
            .arg(&host),
    );
    assert_eq!(fs::read_to_string(host.join("d/link")).unwrap(), "one\n");
    invar.run(&["exec", "c", "mkdir", "/into"]);
    let output = with_input(invar.command(&["cp", "-", "c:/into"]), &output.stdout);
    assert_eq!(outcome_of(&output).0, Some(0), "{output:?}");
    assert_eq!(shell(&invar, "cat /into/d/link"), "one");
}

#[test]
fn a_container_that_does_not_run_is_copied_too() {
    let (invar, host) = stage();
    shell(&invar, "echo kept > /file");
    invar.run(&["stop", "-t", "0", "c"]);
    invar.run(&["cp", "c:/file", str(&host.join("file"))]);
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "kept\n");
    fs::write(host.join("new"), "new\n").unwrap();
    invar.run(&["cp", str(&host.join("new")), "c:/new"]);
    invar.run(&["start", "c"]);
    assert_eq!(shell(&invar, "cat /new"), "new");
    invar.run(&[
        "create",
        "--name",
        "plain",
        "-v",
        "data:/data",
        "busybox",
        "true",
    ]);
    let (_, _, said) = outcome(&invar, &["cp", str(&host.join("new")), "plain:/new"]);
    assert!(
        said.contains("read-only") && said.contains("--writable"),
        "{said}"
    );
    let (_, _, said) = outcome(&invar, &["cp", "plain:/data/x", str(&host)]);
    assert!(said.contains("start it first"), "{said}");
}

#[test]
fn a_read_only_root_is_refused_by_the_kernel_and_a_tmpfs_of_it_is_not() {
    let invar = busybox();
    invar.run(&["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let file = invar.root().join("file");
    fs::write(&file, "new\n").unwrap();
    let (code, _, said) = outcome(&invar, &["cp", str(&file), "c:/etc/file"]);
    assert!(
        code == Some(1) && said.contains("Read-only file system"),
        "{said}"
    );
    invar.run(&["cp", str(&file), "c:/tmp/file"]);
    assert_eq!(shell(&invar, "cat /tmp/file"), "new");
}

#[test]
fn no_link_of_a_container_leads_to_the_host() {
    let (invar, host) = stage();
    let secret = host.join("secret");
    fs::write(&secret, "secret\n").unwrap();
    let out = host.join("out");
    fs::create_dir(&out).unwrap();
    // Links that would lead to the host when they were followed from its root.
    let script = format!(
        "mkdir -p /d; ln -s {0} /d/absolute; ln -s ../../../../../../../..{0} /d/relative; \
         ln -s {1} /d/directory; ln -s /proc/self/root{0} /d/magic; ln -s /proc/1/root{0} /d/one",
        str(&secret),
        str(&host)
    );
    shell(&invar, &script);
    for name in ["absolute", "relative", "magic", "one", "directory/secret"] {
        let source = format!("c:/d/{name}");
        let (code, _, said) = outcome(&invar, &["cp", "-L", &source, str(&out)]);
        assert_ne!(code, Some(0), "{name}: {said}");
    }
    invar.run(&["cp", "c:/d", str(&out)]);
    assert!(
        fs::symlink_metadata(out.join("d/absolute"))
            .unwrap()
            .is_symlink()
    );
    // And in: what the link names is inside.
    fs::write(host.join("mine"), "mine\n").unwrap();
    let (_, _, said) = outcome(
        &invar,
        &["cp", str(&host.join("mine")), "c:/d/directory/written"],
    );
    assert!(!host.join("written").exists(), "{said}");
    let (_, _, said) = outcome(&invar, &["cp", str(&host.join("mine")), "c:/d/absolute"]);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret\n", "{said}");
}

#[test]
fn a_link_exchanged_while_copying_never_leads_out() {
    let (invar, host) = stage();
    let secret = host.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "secret\n").unwrap();
    let out = host.join("out");
    // One name that is a directory and a link to the host's in turn (CVE-2018-15664).
    let script = format!(
        "mkdir -p /d/x /d/real; echo mine > /d/real/file; ln -s {} /d/link; \
         while true; do mv -T /d/x /d/y 2>/dev/null; rm -rf /d/x; cp -a /d/link /d/x; rm -f /d/x; \
         cp -a /d/real /d/x; done",
        str(&secret)
    );
    invar.run(&[
        "exec",
        "c",
        "sh",
        "-c",
        &format!("({script}) > /dev/null 2>&1 &"),
    ]);
    fs::write(host.join("mine"), "mine\n").unwrap();
    for _ in 0..150 {
        drop(invar.output(&["cp", "c:/d/x/file", str(&out)]));
        if let Ok(found) = fs::read_to_string(&out) {
            // The container may have written a part of it so far.
            assert!("mine\n".starts_with(&found), "{found:?}");
            fs::remove_file(&out).unwrap();
        }
        drop(invar.output(&["cp", str(&host.join("mine")), "c:/d/x/file"]));
        assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "secret\n");
    }
    let left: Vec<String> = support::tree(&secret);
    assert_eq!(
        left,
        [str(&secret.join("file"))],
        "nothing is written on the host"
    );
}

#[test]
fn nothing_of_the_container_is_executed_or_loaded() {
    // CVE-2019-14271: the copying program loaded a library of the container.
    let (invar, host) = stage();
    let script = "mkdir -p /lib /lib64 /etc; for l in libnss_files.so.2 libc.so.6 libm.so.6; do \
                  echo evil > /lib/$l; cp /lib/$l /lib64/$l; done; echo /lib/evil.so > /etc/ld.so.preload; \
                  echo 'passwd: evil' > /etc/nsswitch.conf; echo x > /x";
    shell(&invar, script);
    let output = Command::new(invar_testkit::require("strace", "strace"))
        .args([
            "-f",
            "-e",
            "trace=openat,openat2,execve",
            env!("CARGO_BIN_EXE_invar"),
            "cp",
            "c:/x",
        ])
        .arg(&host)
        .env("INVAR_ROOT", invar.root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let calls = text(&output.stderr);
    assert_eq!(calls.matches("execve(").count(), 1, "{calls}");
    let loads = calls
        .lines()
        .filter(|line| line.contains("evil") || line.contains("libnss"));
    assert_eq!(loads.count(), 0, "{calls}");
}

#[test]
fn devices_and_sockets_are_left_out_and_pipes_do_not_hold_it_up() {
    let (invar, host) = stage();
    shell(
        &invar,
        "mkdir /d; mkfifo /d/pipe; echo x > /d/file; nc -lU /d/socket & sleep 0.2; ls /d",
    );
    let (code, _, said) = outcome(&invar, &["cp", "c:/d", str(&host.join("d"))]);
    assert_eq!(code, Some(0), "{said}");
    assert!(host.join("d/pipe").symlink_metadata().is_ok() && host.join("d/file").exists());
    let (code, _, said) = outcome(&invar, &["cp", "c:/dev/null", str(&host.join("null"))]);
    assert!(
        said.contains("left out") && !host.join("null").exists(),
        "{code:?} {said}"
    );
}

#[test]
fn a_hostile_tar_stream_makes_nothing_outside() {
    let (invar, host) = stage();
    let secret = host.join("secret");
    fs::write(&secret, "secret\n").unwrap();
    let script = r#"
import io, sys, tarfile
kind, target = sys.argv[1], sys.argv[2]
out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|")
def add(name, type=tarfile.REGTYPE, link="", data=b"evil\n"):
    info = tarfile.TarInfo(name); info.type = type; info.linkname = link
    info.size = len(data) if type == tarfile.REGTYPE else 0
    info.devmajor, info.devminor = 8, 0
    out.addfile(info, io.BytesIO(data))
if kind == "dots": add("../../../../../../../.." + target)
if kind == "absolute": add(target)
if kind == "link": add("l", tarfile.SYMTYPE, target); add("l")
if kind == "through": add("l", tarfile.SYMTYPE, target.rsplit("/", 1)[0]); add("l/secret")
if kind == "hard": add("h", tarfile.LNKTYPE, "../../../../../../.." + target); add("h")
if kind == "device": add("disk", tarfile.BLKTYPE)
out.close()
"#;
    for kind in ["dots", "absolute", "link", "through", "hard", "device"] {
        let stream = Command::new("python3")
            .args(["-c", script, kind, str(&secret)])
            .output()
            .unwrap();
        assert!(stream.status.success(), "{stream:?}");
        shell(&invar, "rm -rf /into; mkdir /into");
        let output = with_input(invar.command(&["cp", "-", "c:/into"]), &stream.stdout);
        assert_eq!(
            fs::read_to_string(&secret).unwrap(),
            "secret\n",
            "{kind}: {output:?}"
        );
        let devices = shell(&invar, "find /into -type b");
        assert_eq!(devices, "", "{kind}");
    }
}

#[test]
fn what_cannot_be_written_leaves_nothing_half_written() {
    let (invar, host) = stage();
    fs::write(host.join("big"), vec![b'x'; 3 << 20]).unwrap();
    invar.run(&[
        "run",
        "-d",
        "--name",
        "small",
        "--tmpfs",
        "/t:size=1m",
        "busybox",
        "sleep",
        "1000",
    ]);
    let (code, _, said) = outcome(&invar, &["cp", str(&host.join("big")), "small:/t/big"]);
    assert!(code == Some(1) && said.contains("No space left"), "{said}");
    assert_eq!(invar.run(&["exec", "small", "ls", "-A", "/t"]), "");
    // A link of the host's own user is the user's own.
    symlink(host.join("big"), host.join("link")).unwrap();
    invar.run(&["cp", "-L", str(&host.join("link")), "c:/big"]);
    assert_eq!(shell(&invar, "wc -c < /big").trim(), (3 << 20).to_string());
    assert_eq!(
        fs::metadata(host.join("big")).unwrap().permissions().mode() & 0o777,
        0o644
    );
}
