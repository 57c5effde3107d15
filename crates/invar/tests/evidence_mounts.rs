//! Temporary file systems, volumes and bind mounts in a capture, and how long it holds a container
//! up.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use invar_testkit::eventually;
use serde_json::{Value, json};
use support::attacked::{Host, jsonl};
use support::outcome_of;

/// A container with a tmpfs at /scratch, a volume at /data and a directory of the host at /host.
fn mounted(host: &Host) -> PathBuf {
    let shared = host.invar().root().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("hosts-own"), "of the host").unwrap();
    let bind = format!("{}:/host", shared.display());
    let flags = ["--tmpfs", "/scratch", "-v", "loot:/data", "-v", &bind];
    // The path through the volume leads out of it, and into nothing that may be read.
    let script = "echo loot > /scratch/loot; echo stolen > /data/stolen; mkdir /data/deep
        ln -s /etc/shadow /data/deep/link; mkfifo /data/fifo
        : > \"/data/$(printf 'new\\nline')\"; truncate -s 100M /data/sparse
        touch /host/ready; exec sleep 100000";
    host.start("web", &flags, script);
    eventually("it is ready", || {
        shared.join("ready").exists().then_some(())
    });
    shared
}

fn tree(dir: &Path, at: &str) -> Option<PathBuf> {
    let index = dir.join("mounts.jsonl");
    let lines = index.exists().then(|| jsonl(index))?;
    let line = lines.iter().find(|line| line["mounted_at"] == at)?;
    Some(dir.join("raw").join(line["tree"].as_str().unwrap()))
}

fn gap<'a>(sealed: &'a Value, what: &str) -> Option<&'a str> {
    let gaps = sealed["summary"]["not_captured"].as_array().unwrap();
    let gap = gaps.iter().find(|gap| gap["what"] == what)?;
    gap["reason"].as_str()
}

fn sealed(host: &Host, args: &[&str]) -> (Value, PathBuf) {
    let sealed = host.json(&[&["capture"], args, &["web"]].concat());
    let id = sealed["id"].as_str().unwrap();
    let output = host.output(&["evidence", "verify", id]);
    assert_eq!(output.status.code(), Some(0), "{:?}", outcome_of(&output));
    let dir = host.evidence(id);
    (sealed, dir)
}

fn takes_what_was_asked_for(host: &Host) {
    mounted(host);
    let (by_default, dir) = sealed(host, &[]);
    let scratch = tree(&dir, "/scratch").unwrap();
    assert_eq!(fs::read_to_string(scratch.join("loot")).unwrap(), "loot\n");
    for (what, expected) in [("/data", "--volumes"), ("/host", "--include-mount")] {
        let reason = gap(&by_default, what).unwrap();
        assert!(reason.contains(expected), "{what}: {reason}");
        assert_eq!(tree(&dir, what), None);
    }

    let (without, dir) = sealed(host, &["--no-tmpfs"]);
    assert!(gap(&without, "/scratch").unwrap().contains("--no-tmpfs"));
    assert_eq!(tree(&dir, "/scratch"), None);

    for flags in [
        &["--volumes", "all", "--include-mount", "/host"][..],
        &["--volumes", "changed", "--include-mount", "/host", "--stop"],
    ] {
        let (sealed, dir) = sealed(host, flags);
        let volume = tree(&dir, "/data").unwrap();
        assert_eq!(
            fs::read_to_string(volume.join("stolen")).unwrap(),
            "stolen\n"
        );
        let link = fs::read_link(volume.join("deep/link")).unwrap();
        assert_eq!(link, Path::new("/etc/shadow"));
        let sparse = fs::metadata(volume.join("sparse")).unwrap();
        assert_eq!(sparse.len(), 100 << 20);
        assert!(volume.join("new\nline").exists());
        let bind = tree(&dir, "/host").unwrap();
        let own = fs::read_to_string(bind.join("hosts-own")).unwrap();
        assert_eq!(own, "of the host");
        assert_eq!(gap(&sealed, "/data/deep"), None, "{sealed}");
    }
}

#[test]
fn mounts_of_an_embedded_container_are_taken_by_choice_and_named_otherwise() {
    takes_what_was_asked_for(&Host::embedded());
}

#[test]
fn mounts_of_a_docker_container_are_taken_by_choice_and_named_otherwise() {
    takes_what_was_asked_for(&Host::docker());
}

#[test]
fn only_what_changed_since_the_container_was_created_is_taken_of_a_volume_when_asked_so() {
    let host = Host::embedded();
    let shared = mounted(&host);
    host.exec("web", "rm /data/sparse /data/fifo");
    host.run(&["rm", "--force", "web"]);
    // Files of the volume are older than this container.
    fs::remove_file(shared.join("ready")).unwrap();
    let script = "echo new > /data/new; touch -d 2001-01-01 /data/new; touch /scratch/done
        exec sleep 100000";
    host.start("web", &["-v", "loot:/data", "--tmpfs", "/scratch"], script);
    eventually("it is ready", || {
        let listed = host.exec("web", "ls /scratch");
        (listed == "done").then_some(())
    });
    let (found, dir) = sealed(&host, &["--volumes", "changed"]);
    let volume = tree(&dir, "/data").unwrap();
    assert!(volume.join("new").exists(), "its time was set back");
    assert!(!volume.join("stolen").exists());
    let reason = gap(&found, "/data").unwrap();
    assert!(reason.starts_with("3 entries"), "{reason}");
}

#[test]
fn a_mount_that_is_not_there_is_refused_before_anything_is_done() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let output = host.output(&["capture", "--include-mount", "/nowhere", "web"]);
    let (code, _, err) = outcome_of(&output);
    assert_eq!(code, Some(1));
    assert!(
        err.contains(r#"the container "web" has no mount at "/nowhere""#),
        "{err}"
    );
    assert_eq!(host.run(&["evidence", "ls", "--quiet"]), "");
}

#[test]
fn what_goes_over_a_budget_is_cut_off_and_recorded() {
    let host = Host::embedded();
    let script = "for n in 1 2 3; do head -c 1048576 /dev/urandom > /scratch/$n; done
        head -c 3145728 /dev/urandom > /big; touch /ready; exec sleep 100000";
    host.start("web", &["--tmpfs", "/scratch"], script);
    let ready = host.upper("web").join("ready");
    eventually("it is ready", || ready.exists().then_some(()));
    let limits = ["--max-part", "tmpfs=1536k", "--max-part", "file=2m"];
    let (found, dir) = sealed(&host, &limits);
    let scratch = tree(&dir, "/scratch").unwrap();
    let bytes = |name: &str| fs::read(scratch.join(name)).unwrap();
    assert!(bytes("1").iter().any(|byte| *byte != 0));
    assert!(bytes("3").iter().all(|byte| *byte == 0), "over the budget");
    for (what, expected) in [
        ("/scratch/2", "only 524288 of its 1048576 bytes"),
        ("/scratch/3", "only 0 of its 1048576 bytes"),
        ("/big", "only 2097152 of its 3145728 bytes"),
    ] {
        let reason = gap(&found, what).unwrap();
        assert!(reason.starts_with(expected), "{what}: {reason}");
    }
    let (_, _, err) = outcome_of(&host.output(&["capture", "--max-part", "all=1m", "web"]));
    assert!(err.contains("is not a part"), "{err}");
}

#[test]
fn a_container_goes_on_while_most_is_copied_and_what_changed_meanwhile_is_named() {
    let host = Host::embedded();
    let script = "for n in 1 2 3 4; do head -c 67108864 /dev/zero | tr '\\0' x > /big$n; done
        touch /ready; while :; do echo tick >> /zz-busy; done";
    host.start("web", &[], script);
    let ready = host.upper("web").join("ready");
    eventually("it is ready", || ready.exists().then_some(()));
    let (found, dir) = sealed(&host, &[]);
    let upper = &found["summary"]["upper"];
    assert!(upper["taken_live"].as_u64().unwrap() > 0, "{upper}");
    assert!(upper["changed_meanwhile"].as_u64().unwrap() > 0, "{upper}");
    let reason = gap(&found, "/zz-busy").unwrap();
    assert!(reason.contains("after the container went on"), "{reason}");
    for quiet in ["/big1", "/big4", "/ready"] {
        assert_eq!(gap(&found, quiet), None);
    }
    let big = fs::read(dir.join("raw/upper/big4")).unwrap();
    assert_eq!(big.len(), 64 << 20);
    assert!(big.iter().all(|byte| *byte == b'x'));

    let (exact, _) = sealed(&host, &["--exact"]);
    let upper = &exact["summary"]["upper"];
    assert_eq!(upper["taken_live"], json!(0), "{upper}");
    assert_eq!(gap(&exact, "/zz-busy"), None);
    let frozen = |sealed: &Value| sealed["summary"]["frozen_ms"].as_u64().unwrap();
    assert!(
        frozen(&found) < frozen(&exact),
        "{} ms, and {} ms when everything is copied while frozen",
        frozen(&found),
        frozen(&exact)
    );
}

/// Path, owner and group of all that a capture of `web` listed, mounts under where they are; and
/// the same of what was kept.
fn owners(host: &Host, dir: &Path) -> Vec<String> {
    let mut trees = vec![(String::new(), "upper".to_owned())];
    for line in jsonl(dir.join("mounts.jsonl")) {
        let of = |name: &str| line[name].as_str().unwrap().to_owned();
        // Devices are nobody's in a user namespace.
        if of("mounted_at") != "/dev" {
            trees.push((of("mounted_at"), of("tree")));
        }
    }
    let mut owners = Vec::new();
    for (at, tree) in trees {
        let raw = dir.join("raw").join(&tree);
        let listing = dir.join(format!("{tree}.jsonl"));
        for entry in jsonl(listing) {
            let path = entry["path"].as_str().unwrap();
            let listed = format!("{}:{}", entry["uid"], entry["gid"]);
            let kept = fs::symlink_metadata(raw.join(path.trim_start_matches('/'))).unwrap();
            assert_eq!(
                listed,
                format!("{}:{}", kept.uid(), kept.gid()),
                "{at}{path}"
            );
            owners.push(format!("{at}{path} {listed}"));
        }
    }
    let id = dir.file_name().unwrap().to_str().unwrap();
    host.run(&["evidence", "rm", "--force", id]);
    owners
}

#[test]
fn a_capture_has_the_owners_of_inside_a_user_namespace() {
    let host = Host::embedded();
    let script = "for at in '' /scratch /data /host; do
            mkdir $at/mine; echo x > $at/mine/root; chown 33:34 $at/mine; echo x > $at/file
            chown 12:13 $at/file; chmod 640 $at/file; ln -s nowhere $at/link; chown -h 5:6 $at/link
            mkfifo $at/fifo; chown 65534:65534 $at/fifo
        done
        chown 7 /etc/passwd; echo x > /tmp/usual; touch /host/ready; exec sleep 100000";
    let mut seen = Vec::new();
    for (number, userns) in [&[][..], &["--userns", "auto"]].into_iter().enumerate() {
        let shared = host.invar().root().join(format!("shared-{number}"));
        fs::create_dir(&shared).unwrap();
        let given = host.invar().root().join("given");
        fs::write(&given, "given").unwrap();
        std::os::unix::fs::chown(&given, Some(21), Some(22)).unwrap();
        let volume = format!("loot-{number}:/data");
        let bind = format!("{}:/host", shared.display());
        let file = format!("{}:/given", given.display());
        let mounts = [
            "--tmpfs", "/scratch", "-v", &volume, "-v", &bind, "-v", &file,
        ];
        host.start("web", &[&mounts[..], userns].concat(), script);
        let ready = shared.join("ready");
        eventually("it is ready", || ready.exists().then_some(()));
        let all = ["--volumes", "all", "--include-mount", "/host"];
        let all = [&all[..], &["--include-mount", "/given"]].concat();
        for flags in [&[][..], &["--stop"]] {
            let (_, dir) = sealed(&host, &[&all[..], flags].concat());
            seen.push((flags, userns, owners(&host, &dir)));
        }
        host.remove("web");
    }
    let expected = seen[0].2.clone();
    for wanted in [
        "/file 12:13",
        "/mine/root 0:0",
        "/etc/passwd 7:0",
        "/given/given 21:22",
        "/scratch/ 0:0",
        "/scratch/mine 33:34",
        "/scratch/mine/root 0:0",
        "/scratch/link 5:6",
        "/scratch/fifo 65534:65534",
        "/tmp/usual 0:0",
        "/data/file 12:13",
        "/host/file 12:13",
    ] {
        assert!(
            expected.iter().any(|line| line == wanted),
            "{wanted}: {expected:#?}"
        );
    }
    for (flags, userns, owners) in seen {
        assert_eq!(owners, expected, "{flags:?} {userns:?}");
    }

    // What is taken before a container is replaced, too.
    let flags = ["--userns", "auto", "--tmpfs", "/scratch"];
    let script = "echo x > /scratch/file; chown 12:13 /scratch/file; echo x > /file
        chown 12:13 /file; touch /ready; exec sleep 100000";
    host.start("web", &flags, script);
    let ready = host.upper("web").join("ready");
    eventually("it is ready", || ready.exists().then_some(()));
    host.run(&["replace", "web"]);
    let id = host.run(&["evidence", "ls", "--quiet"]);
    host.run(&["evidence", "verify", &id]);
    let owners = owners(&host, &host.evidence(&id));
    for wanted in ["/file 12:13", "/scratch/ 0:0", "/scratch/file 12:13"] {
        assert!(
            owners.iter().any(|line| line == wanted),
            "{wanted}: {owners:#?}"
        );
    }
}
