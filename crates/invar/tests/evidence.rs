//! What a capture keeps, and what verification notices, on every engine.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use fs_err as fs;
use invar_testkit::{checked, require, rootfs};
use rustix::fs::{CWD, Mode, XattrFlags, lsetxattr};
use serde_json::{Value, json};
use support::attacked::{Host, jsonl};
use support::{outcome_of, text};

fn line<'a>(lines: &'a [Value], path: &str) -> &'a Value {
    lines
        .iter()
        .find(|line| line["path"] == path)
        .unwrap_or_else(|| panic!("no line for {path}"))
}

fn sha256sum(path: &Path) -> String {
    let sum = text(&checked(Command::new("sha256sum").arg(path)).stdout);
    sum[..64].to_owned()
}

fn assert_valid(host: &Host, id: &str) {
    let output = host.output(&["evidence", "verify", id]);
    assert_eq!(output.status.code(), Some(0), "{:?}", outcome_of(&output));
}

/// A capture keeps everything an intruder left, and the container goes on.
fn keeps_all(host: &Host) {
    host.attacked("web", &[]);
    let id = host.run(&["capture", "web"]);
    assert_eq!(host.status("web"), "running");
    assert_eq!(host.exec("web", "echo alive"), "alive");
    let dir = host.evidence(&id);

    let changes = jsonl(dir.join("changes.jsonl"));
    let verdicts = |path: &str| {
        let change = line(&changes, path);
        (change["compatible"].clone(), change["actual"].clone())
    };
    let [add, change, delete] = ["A", "C", "D"].map(|letter| json!(letter));
    for (path, kind) in [
        ("/etc/passwd", &change),
        ("/tmp/rootme", &add),
        ("/tmp/fifo", &add),
        ("/srv-link", &add),
        ("/srv/terabyte", &add),
        (r"/srv/names/new\nline", &add),
        (r"/srv/names/red\x1b[31m", &add),
        (r"/srv/names/not\xffutf8", &add),
        (r"/srv/names/back\\slash", &add),
        ("/www/index.html", &delete),
    ] {
        assert_eq!(verdicts(path), (kind.clone(), kind.clone()), "{path}");
    }
    let passwd = line(&changes, "/etc/passwd");
    let kept = dir.join("raw/upper/etc/passwd");
    assert_eq!(passwd["now"]["sha256"], json!(sha256sum(&kept)));
    assert_eq!(passwd["severity"], "critical");
    assert_eq!(passwd["before"]["size"], json!(65));
    assert!(passwd["before"]["sha256"].is_string(), "{passwd}");
    assert_eq!(line(&changes, "/srv-link")["now"]["target"], "/etc/shadow");
    let terabyte = &line(&changes, "/srv/terabyte")["now"];
    assert_eq!(terabyte["size"], json!(1_u64 << 40));
    assert!(terabyte["sha256_sparse"].is_string(), "{terabyte}");
    let deep = format!("/srv{}/file", "/d".repeat(300));
    assert_eq!(line(&changes, &deep)["now"]["size"], json!(6));
    let metadata = fs::symlink_metadata(dir.join("raw/upper/srv/terabyte")).unwrap();
    assert!(metadata.blocks() < 100, "its holes were filled");

    keeps_processes(&dir);
    let said = |name: &str| fs::read_to_string(dir.join("logs").join(name)).unwrap();
    assert!(
        said("stdout.log").ends_with(" said\n"),
        "{}",
        said("stdout.log")
    );
    assert!(said("stderr.log").ends_with(" complained\n"));
    assert_valid(host, &id);
}

/// The deleted program still runs: its bytes and those of the file it holds are there.
fn keeps_processes(dir: &Path) {
    let processes = jsonl(dir.join("processes.jsonl"));
    assert_eq!(processes.len(), 2, "{processes:?}");
    let first = &processes[0];
    assert_eq!(
        (&first["inner_pid"], &first["args"][0]),
        (&json!(1), &json!("sleep"))
    );
    let hidden = &processes[1];
    assert_eq!(hidden["exe"], "/tmp/sleep (deleted)");
    let program = dir.join("files").join(hidden["exe_kept"].as_str().unwrap());
    let busybox = require("busybox", "busybox-static");
    assert_eq!(sha256sum(&program), sha256sum(&busybox));
    let lost = &hidden["lost_files"][0];
    assert_eq!(lost["path"], "/tmp/gone (deleted)");
    let stolen = dir.join("files").join(lost["kept"].as_str().unwrap());
    assert_eq!(fs::read_to_string(stolen).unwrap(), "stolen");
    let pid = hidden["pid"].as_u64().unwrap();
    let args = fs::read(dir.join(format!("proc/{pid}/cmdline"))).unwrap();
    assert_eq!(args, b"/tmp/sleep\x00100000\x00");
    let network = hidden["namespaces"]["net"].as_u64().unwrap();
    assert!(dir.join(format!("net/{network}/tcp")).exists());
}

#[test]
fn a_capture_keeps_all_an_intruder_left_in_an_embedded_container() {
    keeps_all(&Host::embedded());
}

#[test]
fn a_capture_keeps_all_an_intruder_left_in_a_docker_container() {
    keeps_all(&Host::docker());
}

#[test]
fn a_capture_keeps_all_an_intruder_left_in_a_podman_container() {
    keeps_all(&Host::podman());
}

#[test]
fn a_stopped_container_was_killed_frozen_and_its_upper_directory_moved() {
    let host = Host::embedded();
    host.attacked("web", &[]);
    let upper = fs::metadata(host.upper("web")).unwrap().ino();
    let sealed = host.json(&["capture", "--stop", "web"]);
    assert_eq!(host.status("web"), "exited");
    let id = sealed["id"].as_str().unwrap();
    let raw = host.evidence(id).join("raw/upper");
    assert_eq!(fs::metadata(raw).unwrap().ino(), upper, "it was copied");
    assert_eq!(sealed["summary"]["upper"]["method"], "renamed");
    assert_eq!(sealed["summary"]["is_complete"], json!(true));
    keeps_processes(&host.evidence(id));
    assert_valid(&host, id);
    host.run(&["rm", "web"]);
}

#[test]
fn a_docker_container_that_is_only_stopped_does_not_share_files_with_its_evidence() {
    let host = Host::docker();
    host.attacked("web", &[]);
    let sealed = host.json(&["capture", "--stop", "web"]);
    assert_eq!(host.status("web"), "exited");
    assert_eq!(sealed["summary"]["upper"]["method"], "copied");
    let id = sealed["id"].as_str().unwrap();
    let inode = |path: &Path| fs::metadata(path.join("tmp/rootme")).unwrap().ino();
    let raw = host.evidence(id).join("raw/upper");
    assert_ne!(inode(&raw), inode(&host.upper("web")));
    assert_valid(&host, id);
}

#[test]
fn a_container_that_removes_itself_leaves_everything_behind() {
    for host in [Host::embedded(), Host::docker()] {
        host.attacked("web", &["--rm"]);
        let sealed = host.json(&["capture", "--stop", "web"]);
        let id = sealed["id"].as_str().unwrap();
        let dir = host.evidence(id);
        invar_testkit::eventually("the engine removes it", || {
            (host.status("web") == "gone").then_some(())
        });
        let changes = jsonl(dir.join("changes.jsonl"));
        assert_eq!(line(&changes, "/tmp/rootme")["actual"], "A");
        assert!(dir.join("raw/upper/tmp/rootme").exists());
        let said = fs::read_to_string(dir.join("logs/stdout.log")).unwrap();
        assert!(said.ends_with("said\n"), "{said}");
        keeps_processes(&dir);
        assert_valid(&host, id);
    }
}

#[test]
fn what_overlayfs_left_below_is_kept_as_the_container_showed_it() {
    let host = Host::embedded();
    let script = "chmod 600 /etc/passwd; mv /www /www2; echo ready; sleep 100000";
    host.start("web", &[], script);
    support::wait_for_log(host.invar(), "web", "ready");
    let passwd = host.exec("web", "sha256sum /etc/passwd");
    let page = host.exec("web", "sha256sum /www2/index.html");
    let id = host.run(&["capture", "--stop", "web"]);
    let changes = jsonl(host.evidence(&id).join("changes.jsonl"));
    for (path, sum) in [("/etc/passwd", passwd), ("/www2/index.html", page)] {
        assert_eq!(
            line(&changes, path)["now"]["sha256"],
            json!(&sum[..64]),
            "{path}"
        );
        let below = jsonl(host.evidence(&id).join("below.jsonl"));
        let kept = below
            .iter()
            .find(|line| line["entry"]["path"] == path)
            .unwrap();
        let file = host
            .evidence(&id)
            .join("files")
            .join(kept["kept"].as_str().unwrap());
        assert_eq!(sha256sum(&file), sum[..64], "{path}");
    }
    assert_eq!(line(&changes, "/etc/passwd")["now"]["mode"], json!(0o600));
    assert_valid(&host, &id);
}

#[test]
fn a_program_that_exists_in_memory_only_is_kept() {
    let host = Host::Embedded(support::empty());
    host.invar().import("debian", &rootfs::debian_tar());
    let script = r#"my $name = "payload"; my $fd = syscall(319, $name, 0); open(my $f, ">&=", $fd); $| = 1;
        syswrite($f, "in memory only"); print "ready\n"; sleep 100000;"#;
    host.run(&["run", "-d", "--name", "web", "debian", "perl", "-e", script]);
    support::wait_for_log(host.invar(), "web", "ready");
    let id = host.run(&["capture", "--stop", "web"]);
    let processes = jsonl(host.evidence(&id).join("processes.jsonl"));
    let lost = &processes[0]["lost_files"][0];
    assert_eq!(lost["path"], "/memfd:payload (deleted)");
    let kept = host
        .evidence(&id)
        .join("files")
        .join(lost["kept"].as_str().unwrap());
    assert_eq!(fs::read_to_string(kept).unwrap(), "in memory only");
}

#[test]
fn a_paused_container_stays_paused_and_an_exited_one_is_captured_too() {
    let host = Host::embedded();
    host.attacked("web", &[]);
    host.run(&["pause", "web"]);
    let id = host.run(&["capture", "web"]);
    assert_eq!(host.status("web"), "paused");
    keeps_processes(&host.evidence(&id));
    host.run(&["kill", "web"]);
    host.run(&["wait", "web"]);
    let id = host.run(&["capture", "web"]);
    let changes = jsonl(host.evidence(&id).join("changes.jsonl"));
    assert_eq!(line(&changes, "/tmp/rootme")["actual"], "A");
    assert_valid(&host, &id);
}

/// One way of tampering with evidence, and what verification must name.
type Tampering = (&'static str, &'static str, fn(&Path));

const TAMPERINGS: &[Tampering] = &[
    ("a byte flipped in a record", "processes.jsonl", |dir| {
        flip(&dir.join("processes.jsonl"));
    }),
    (
        "a byte flipped in a file of the container",
        "raw/upper/tmp/rootme",
        |dir| {
            flip(&dir.join("raw/upper/tmp/rootme"));
        },
    ),
    (
        "a byte flipped far inside a sparse file",
        "raw/upper/srv/terabyte",
        |dir| {
            let path = dir.join("raw/upper/srv/terabyte");
            let mtime = fs::metadata(&path).unwrap().modified().unwrap();
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(file.file(), b"N", 5_000_000_000).unwrap();
            file.file().set_modified(mtime).unwrap();
        },
    ),
    (
        "a byte flipped with the time restored",
        "raw/upper/etc/passwd",
        |dir| {
            let path = dir.join("raw/upper/etc/passwd");
            let mtime = fs::metadata(&path).unwrap().modified().unwrap();
            flip(&path);
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.file().set_modified(mtime).unwrap();
        },
    ),
    ("a record removed", "changes.jsonl", |dir| {
        fs::remove_file(dir.join("changes.jsonl")).unwrap();
    }),
    (
        "a file of the container removed",
        "raw/upper/srv-link",
        |dir| {
            fs::remove_file(dir.join("raw/upper/srv-link")).unwrap();
        },
    ),
    ("a file added", "planted", |dir| {
        fs::write(dir.join("planted"), "x").unwrap();
    }),
    (
        "a file added to the container's",
        "raw/upper/tmp/planted",
        |dir| {
            fs::write(dir.join("raw/upper/tmp/planted"), "x").unwrap();
        },
    ),
    ("a tree added", "raw/other", |dir| {
        fs::create_dir(dir.join("raw/other")).unwrap();
    }),
    ("a record replaced by a link", "processes.jsonl", |dir| {
        let path = dir.join("processes.jsonl");
        fs::rename(&path, dir.parent().unwrap().join("elsewhere")).unwrap();
        symlink("../elsewhere", path).unwrap();
    }),
    ("mode changed", "raw/upper/tmp/rootme", |dir| {
        let path = dir.join("raw/upper/tmp/rootme");
        fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }),
    ("owner changed", "raw/upper/tmp/fifo", |dir| {
        let path = dir.join("raw/upper/tmp/fifo");
        std::os::unix::fs::lchown(path, Some(1), Some(1)).unwrap();
    }),
    ("time changed", "raw/upper/tmp/rootme", |dir| {
        let path = dir.join("raw/upper/tmp/rootme");
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.file().set_modified(std::time::UNIX_EPOCH).unwrap();
    }),
    ("an attribute added", "raw/upper/tmp/rootme", |dir| {
        let path = dir.join("raw/upper/tmp/rootme");
        lsetxattr(path, "user.note", b"x", XattrFlags::empty()).unwrap();
    }),
    ("a link retargeted", "raw/upper/srv-link", |dir| {
        let path = dir.join("raw/upper/srv-link");
        fs::remove_file(&path).unwrap();
        symlink("/etc/nothing", path).unwrap();
    }),
    ("a deletion undone", "raw/upper/www/index.html", |dir| {
        let path = dir.join("raw/upper/www/index.html");
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    }),
    ("a sum adjusted to a changed file", "SHA256SUMS", |dir| {
        let path = dir.join("processes.jsonl");
        let before = sha256sum(&path);
        flip(&path);
        let sums = fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
        let sums = sums.replace(&before, &sha256sum(&path));
        overwrite(&dir.join("SHA256SUMS"), sums.as_bytes());
    }),
    ("the header rewritten", "evidence.json", |dir| {
        let header = fs::read_to_string(dir.join("evidence.json")).unwrap();
        overwrite(
            &dir.join("evidence.json"),
            header.replace("\"web\"", "\"wob\"").as_bytes(),
        );
    }),
    ("the signature removed", "seal.dsse.json", |dir| {
        fs::remove_file(dir.join("seal.dsse.json")).unwrap();
    }),
    ("the custody log rewritten", "custody.jsonl", |dir| {
        let log = fs::read_to_string(dir.join("custody.jsonl")).unwrap();
        overwrite(
            &dir.join("custody.jsonl"),
            log.replace("verified", "exported").as_bytes(),
        );
    }),
    ("the custody log's end cut off", "custody.jsonl", |dir| {
        let log = fs::read_to_string(dir.join("custody.jsonl")).unwrap();
        let first = log.split_inclusive('\n').next().unwrap();
        overwrite(&dir.join("custody.jsonl"), first.as_bytes());
    }),
];

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    overwrite(path, &bytes);
}

/// In place: the file keeps its number and its other names.
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::metadata(path).unwrap().permissions()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_kind_of_tampering_is_detected_and_named() {
    let host = Host::embedded();
    host.attacked("web", &[]);
    let id = host.run(&["capture", "--stop", "web"]);
    let dir = host.evidence(&id);
    assert_valid(&host, &id);
    let aside = host.invar().root().join("aside");
    for (what, named, tamper) in TAMPERINGS {
        copy(&dir, &aside);
        tamper(&dir);
        let output = host.output(&["evidence", "verify", &id]);
        let (code, out, err) = outcome_of(&output);
        assert_eq!(code, Some(3), "{what}: {out}{err}");
        assert!(
            out.contains(named),
            "{what}: {named} is not named in {out:?}"
        );
        invar_sys::tree::remove(&dir).unwrap();
        fs::rename(&aside, &dir).unwrap();
    }
    assert_valid(&host, &id);
}

fn copy(from: &Path, to: &Path) {
    checked(
        Command::new("cp")
            .arg("-a")
            .arg("--sparse=always")
            .arg(from)
            .arg(to),
    );
}

#[test]
fn evidence_signed_with_another_key_is_not_valid() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let id = host.run(&["capture", "web"]);
    let other = host.invar().root().join("other.pem");
    let key = checked(Command::new(require("openssl", "openssl")).args([
        "genpkey",
        "-algorithm",
        "ed25519",
    ]));
    let private = host.invar().root().join("other.key");
    fs::write(&private, key.stdout).unwrap();
    let openssl = || Command::new("openssl");
    checked(
        openssl()
            .args(["pkey", "-pubout", "-in"])
            .arg(&private)
            .arg("-out")
            .arg(&other),
    );
    let other = other.to_str().unwrap();
    let (code, out, _) = outcome_of(&host.output(&["evidence", "verify", "--key", other, &id]));
    assert_eq!(code, Some(3));
    assert!(out.contains("no signature in it is of the key"), "{out}");
}

#[test]
fn openssl_agrees_that_the_seal_is_signed() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let id = host.run(&["capture", "web"]);
    let root = host.invar().root();
    let envelope: Value =
        serde_json::from_slice(&fs::read(host.evidence(&id).join("seal.dsse.json")).unwrap())
            .unwrap();
    let decode = |value: &Value, name: &str| {
        let path = root.join(name);
        let script =
            "import base64,sys; open(sys.argv[2],'wb').write(base64.b64decode(sys.argv[1]))";
        let mut python = Command::new(require("python3", "python3"));
        checked(
            python
                .args(["-c", script, value.as_str().unwrap()])
                .arg(&path),
        );
        path
    };
    let payload = fs::read(decode(&envelope["payload"], "payload")).unwrap();
    let signature = decode(&envelope["signatures"][0]["sig"], "signature");
    let kind = envelope["payloadType"].as_str().unwrap();
    let message = root.join("message");
    let mut bytes = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(&payload);
    fs::write(&message, bytes).unwrap();
    let mut openssl = Command::new(require("openssl", "openssl"));
    openssl.args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"]);
    openssl.arg(root.join("trust/evidence.pub"));
    openssl
        .arg("-sigfile")
        .arg(signature)
        .arg("-in")
        .arg(message);
    assert!(text(&checked(&mut openssl).stdout).contains("Verified Successfully"));

    let statement: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    let sums = host.evidence(&id).join("SHA256SUMS");
    assert_eq!(statement["subject"][0]["name"], "SHA256SUMS");
    assert_eq!(
        statement["subject"][0]["digest"]["sha256"],
        json!(sha256sum(&sums))
    );
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", "--quiet", "SHA256SUMS"]);
    checked(check.current_dir(host.evidence(&id)));
}

#[test]
fn evidence_is_private_and_sealed_evidence_is_removed_only_with_force() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let id = host.run(&["capture", "web"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let dir = host.evidence(&id);
    assert_eq!(mode(dir.parent().unwrap()), 0o700);
    assert_eq!(mode(&dir), 0o500);
    assert_eq!(mode(&dir.join("SHA256SUMS")), 0o400);
    assert_eq!(mode(&host.invar().root().join("trust/evidence.key")), 0o600);

    let (code, _, err) = outcome_of(&host.output(&["evidence", "rm", &id]));
    assert_eq!(code, Some(1));
    assert!(
        err.contains("is sealed") && err.contains("evidence export"),
        "{err}"
    );
    // The end of an id is enough.
    let short = &id[id.len() - 6..];
    assert_eq!(host.run(&["evidence", "rm", "--force", short]), id);
    assert_eq!(host.run(&["evidence", "ls", "--quiet"]), "");
    let (code, _, err) = outcome_of(&host.output(&["evidence", "verify", &id]));
    assert_eq!(code, Some(1));
    assert!(err.contains(&format!("no evidence named {id:?}")), "{err}");
}

#[test]
fn opened_evidence_can_be_read_and_neither_changed_nor_executed_nor_followed() {
    let host = Host::embedded();
    host.attacked("web", &[]);
    let id = host.run(&["capture", "--stop", "web"]);
    let place = host.invar().root().join("place");
    fs::create_dir(&place).unwrap();
    let look = "cat raw/upper/srv/d/d/../../names/back*; tail -n 1 raw/upper/etc/passwd; \
        touch planted; raw/upper/tmp/rootme true; cat raw/upper/srv-link; pwd";
    let opened = host.output(&["evidence", "open", &id, "--", "sh", "-c", look]);
    let (code, out, err) = outcome_of(&opened);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("evil:x:0:0::/:/bin/sh\n/"), "{out}");
    for refused in [
        "Read-only file system",
        "Permission denied",
        "Too many levels",
    ] {
        assert!(err.contains(refused), "{refused}: {err}");
    }
    // Nothing is left of it.
    let inside = out.lines().last().unwrap();
    assert!(!Path::new(inside).exists(), "{inside}");

    host.run(&["evidence", "open", &id, "--at", place.to_str().unwrap()]);
    let mounted = fs::read(place.join("evidence.json"));
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(!mounted.unwrap().is_empty());
    assert_valid(&host, &id);
}

#[test]
fn a_report_needs_nothing_else_and_escapes_hostile_names() {
    let host = Host::embedded();
    let script = "mkdir '/tmp/<script>alert(1)<' ; touch '/tmp/<script>alert(1)</script>'; \
        touch \"/tmp/$(printf 'a\\342\\200\\256gpj.exe')\"; touch /ready; exec sleep 100000";
    host.start("web", &[], script);
    let upper = host.upper("web");
    invar_testkit::eventually("it is ready", || upper.join("ready").exists().then_some(()));
    let id = host.run(&["capture", "web"]);
    let path = host.invar().root().join("report.html");
    host.run(&["evidence", "report", &id, "-o", path.to_str().unwrap()]);
    let page = fs::read_to_string(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
    assert!(page.contains("/tmp/&lt;script&gt;alert(1)&lt;"), "{page}");
    assert!(page.contains(r"/tmp/a\u{202e}gpj.exe"), "{page}");
    for forbidden in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn the_timeline_has_what_timesketch_needs_in_order() {
    let host = Host::embedded();
    host.attacked("web", &[]);
    let id = host.run(&["capture", "web"]);
    let events = jsonl(host.evidence(&id).join("timeline.jsonl"));
    let mut last = String::new();
    for event in &events {
        for field in ["message", "datetime", "timestamp_desc"] {
            assert!(event[field].is_string(), "{event}");
        }
        let time = event["datetime"].as_str().unwrap();
        assert!(time.ends_with('Z'), "{time}");
        let time = time.trim_end_matches('Z').to_owned();
        // ISO 8601 in UTC compares as text, apart from the length of the fraction.
        let (time_second, last_second) = (time.split('.').next(), last.split('.').next());
        assert!(time_second >= last_second, "{time} after {last}");
        last = time;
    }
    let has = |text: &str| {
        events
            .iter()
            .any(|event| event["message"].as_str().unwrap().contains(text))
    };
    assert!(
        has("/tmp/rootme written")
            && has("started: sleep [/tmp/sleep 100000]")
            && has("capture: frozen")
    );
}

/// Whenever a container ends in a capture, the evidence is whole, or there was no container any
/// more when it was looked up.
#[test]
fn a_container_that_is_just_ending_gives_complete_evidence() {
    for host in [Host::embedded(), Host::docker()] {
        for flags in [&["--rm"][..], &[]] {
            for way in [&["capture"][..], &["capture", "--stop"]] {
                for tenth in 0..5 {
                    let script = format!("echo loot > /loot; sleep 0.{}", tenth * 2);
                    host.start("web", flags, &script);
                    let output = host.output(&[way, &["web"]].concat());
                    let (code, id, err) = outcome_of(&output);
                    let is_gone = err.contains("no container") || err.contains("not found");
                    assert!(code == Some(0) || is_gone, "{flags:?} {way:?}: {err}");
                    if code == Some(0) {
                        assert_valid(&host, &id);
                        let shown = host.json(&["evidence", "show", &id]);
                        let summary = &shown["evidence"]["summary"];
                        assert_eq!(summary["is_complete"], json!(true), "{summary}");
                    }
                    drop(host.output(&["rm", "--force", "web"]));
                    invar_testkit::eventually("it is gone", || {
                        (host.status("web") == "gone").then_some(())
                    });
                }
            }
        }
        let listed = host.json(&["evidence", "ls"]);
        let states = listed.as_array().unwrap().iter();
        assert!(
            states
                .map(|found| &found["state"])
                .all(|state| state == "sealed")
        );
    }
}
