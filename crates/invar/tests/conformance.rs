//! What runc and Invar make of one specification, compared from inside, section by section of the
//! OCI runtime specification. What differs is listed with its reason, here and in
//! docs/conformance.md; anything else that differs is an error.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use fs_err as fs;
use invar_testkit::invar::Invar;
use invar_testkit::{checked, require, rootfs};
use serde_json::{Value, json};
use support::{busybox, inspect, wait_for_log};

const REPORT: &str = include_str!("support/report.sh");

/// Lines of the report that may differ, by how they begin, and why.
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "mount /sys ",
        "read-only by its mount; runc mounts the file system itself read-only too",
    ),
    (
        "status Seccomp:",
        "Invar installs its filter itself, so the specification has none",
    ),
    ("mount / ", "the root is another file system"),
    (
        "mount /etc/",
        "bind mounts of the engine's files, from another file system",
    ),
];

/// The settings that are compared: one of each kind.
const SETTINGS: &[&str] = &[
    "--network",
    "none",
    "--hostname",
    "conforming",
    "--memory",
    "64m",
    "--pids-limit",
    "100",
    "--cpus",
    "0.5",
    "--cap-add",
    "NET_RAW",
    "--cap-drop",
    "KILL",
    "--env",
    "GIVEN=a b",
    "--workdir",
    "/www",
    "--tmpfs",
    "/scratch:size=1m,mode=700",
    "--volume",
    "kept:/data:ro",
];

struct Ours {
    report: String,
    specification: Value,
    limits: BTreeMap<String, String>,
}

fn ours(invar: &Invar, user: &str) -> Ours {
    let script = format!("{REPORT}\nsleep 1000");
    let args = [
        &["run", "-d", "--name", "ours", "--user", user],
        SETTINGS,
        &["busybox", "sh", "-c", &script],
    ]
    .concat();
    invar.run(&args);
    wait_for_log(invar, "ours", "\nend");
    let id = inspect(invar, "ours")["Id"].as_str().unwrap().to_owned();
    let directory = invar.root().join("containers").join(&id);
    let file = support::tree(&directory)
        .into_iter()
        .find(|path| path.ends_with("/config.json"))
        .unwrap();
    let text = fs::read_to_string(directory.join(file)).unwrap();
    let group = format!("invar/{id}");
    let found = Ours {
        report: invar.run(&["logs", "ours"]),
        specification: serde_json::from_str(&text).unwrap(),
        limits: limits(&group),
    };
    invar.run(&["rm", "-f", "ours"]);
    found
}

/// The limits the kernel has for a control group.
fn limits(group: &str) -> BTreeMap<String, String> {
    let mount = Path::new("/sys/fs/cgroup");
    let mut found = BTreeMap::new();
    for (hierarchy, file) in [
        ("memory", "memory.limit_in_bytes"),
        ("pids", "pids.max"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.cfs_period_us"),
        ("devices", "devices.list"),
        ("", "memory.max"),
        ("", "pids.max"),
        ("", "cpu.max"),
    ] {
        let path = mount.join(hierarchy).join(group).join(file);
        if let Ok(text) = fs::read_to_string(path) {
            let sorted: BTreeSet<&str> = text.lines().collect();
            let sorted: Vec<&str> = sorted.into_iter().collect();
            found.insert(format!("{hierarchy} {file}"), sorted.join("; "));
        }
    }
    found
}

/// runc's report and limits for the same specification, over an unpacked root.
fn theirs(specification: &Value) -> (String, BTreeMap<String, String>) {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    fs::create_dir(&root).unwrap();
    checked(
        Command::new("tar")
            .arg("-xf")
            .arg(rootfs::busybox_tar())
            .arg("-C")
            .arg(&root),
    );
    for directory in ["dev", "proc", "sys", "scratch", "data", "run"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in ["hosts", "hostname", "resolv.conf"] {
        fs::write(root.join("etc").join(file), "").unwrap();
    }
    let name = format!("conformance-{}", std::process::id());
    let group = format!("/invar-conformance/{name}");
    let mut bundle = specification.clone();
    bundle["root"]["path"] = json!(root);
    bundle["linux"]["cgroupsPath"] = json!(group);
    bundle["process"]["args"][2] = json!(format!("{REPORT}\nsleep 1000"));
    // Invar's last step changes directory, after every handle on the host is harmless.
    bundle["process"]["cwd"] = json!("/www");
    for namespace in bundle["linux"]["namespaces"].as_array_mut().unwrap() {
        // The shim is in the container's own already.
        namespace.as_object_mut().unwrap().remove("path");
    }
    let engine = place.path().join("engine");
    fs::create_dir(&engine).unwrap();
    for mount in bundle["mounts"].as_array_mut().unwrap() {
        let destination = mount["destination"].as_str().unwrap().to_owned();
        if let Some(file) = destination.strip_prefix("/etc/") {
            // The shim's are in memory of its own mount namespace.
            let path = engine.join(file);
            fs::write(&path, "").unwrap();
            mount["source"] = json!(path);
        }
    }
    let bundle_path = place.path().join("config.json");
    fs::write(&bundle_path, bundle.to_string()).unwrap();
    let runc = || {
        let mut command = Command::new(require("runc", "runc"));
        command.arg("--root").arg(place.path().join("state"));
        command
    };
    let output = place.path().join("output");
    let file = fs::File::create(&output).unwrap().into_parts().0;
    let status = runc()
        .args(["run", "--detach", "--bundle"])
        .arg(place.path())
        .arg(&name)
        .stdin(std::process::Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .status()
        .unwrap();
    let said = fs::read_to_string(&output).unwrap();
    assert!(status.success(), "{said}");
    let report = invar_testkit::eventually("runc's report is whole", || {
        let said = fs::read_to_string(&output).unwrap();
        said.contains("\nend").then_some(said)
    });
    let found = limits(group.trim_start_matches('/'));
    checked(runc().args(["delete", "--force", &name]));
    (report, found)
}

/// The report without what is another for every container; namespaces become own or host's.
fn normal(report: &str) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for line in report.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let line = match words[..] {
            ["namespace", kind, id] => {
                let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
                let whose = if host.display().to_string() == id {
                    "host"
                } else {
                    "own"
                };
                format!("namespace {kind} {whose}")
            }
            _ => line.to_owned(),
        };
        lines.insert(line);
    }
    lines
}

#[test]
fn runc_and_invar_make_the_same_of_one_specification() {
    let invar = busybox();
    for user in ["0", "33:34"] {
        let ours = ours(&invar, user);
        let (report, limits) = theirs(&ours.specification);
        let (mine, runc) = (normal(&ours.report), normal(&report));
        let is_known =
            |line: &&String| DIFFERENCES.iter().any(|(begin, _)| line.starts_with(begin));
        let only_mine: Vec<_> = mine
            .difference(&runc)
            .filter(|line| !is_known(line))
            .collect();
        let only_runc: Vec<_> = runc
            .difference(&mine)
            .filter(|line| !is_known(line))
            .collect();
        assert!(
            only_mine.is_empty() && only_runc.is_empty(),
            "user {user}\nonly Invar: {only_mine:#?}\nonly runc: {only_runc:#?}"
        );
        assert!(mine.len() > 60, "{}", ours.report);
        assert_eq!(ours.limits, limits, "user {user}");
        // The list of differences is not longer than they are.
        for (begin, reason) in DIFFERENCES {
            let of = |lines: &BTreeSet<String>| -> Vec<String> {
                let found = lines.iter().filter(|line| line.starts_with(begin));
                found.cloned().collect()
            };
            assert_ne!(of(&mine), of(&runc), "no difference: {begin}: {reason}");
        }
    }
}
