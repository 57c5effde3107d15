//! Temporary file systems, volumes and bind mounts in a capture, and how long it holds a container
//! up.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

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
