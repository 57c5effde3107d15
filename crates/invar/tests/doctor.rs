//! `invar doctor`
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{empty, outcome, text};

fn finding<'a>(diagnosis: &'a Value, name: &str) -> &'a Value {
    let findings = diagnosis["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|finding| finding["name"] == name)
        .unwrap_or_else(|| panic!("{name}: {diagnosis}"))
}

#[test]
fn a_host_that_runs_these_tests_is_found_to_run_containers() {
    let invar = empty();
    let (code, said, _) = outcome(&invar, &["doctor"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("Level L"), "{said}");
    let diagnosis: Value =
        serde_json::from_str(&invar.run(&["doctor", "--format", "json"])).unwrap();
    assert_eq!(diagnosis["can_run_containers"], true);
    for name in ["overlay", "seccomp", "cgroups", "recursive_read_only"] {
        assert_eq!(finding(&diagnosis, name)["verdict"], "works", "{name}");
    }
    let release = text(&Command::new("uname").arg("-r").output().unwrap().stdout);
    assert_eq!(finding(&diagnosis, "linux")["found"], release.as_str());
}

#[test]
fn what_is_missing_comes_with_a_way_to_get_it() {
    let invar = empty();
    let mut command = invar.command(&["doctor", "--format", "json"]);
    // Where no program is found, and no daemon listens.
    command
        .env("PATH", "/nowhere")
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let diagnosis: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let nft = finding(&diagnosis, "nft");
    assert_eq!(nft["verdict"], "missing");
    assert!(
        nft["how_to_get_it"].as_str().unwrap().contains("nftables"),
        "{nft}"
    );
    assert_eq!(finding(&diagnosis, "docker")["verdict"], "missing");
}

#[test]
fn without_cgroups_it_ends_with_1_and_says_what_is_needed() {
    let invar = empty();
    let script = "mount -t tmpfs none /sys/fs/cgroup && exec \"$0\" doctor --format json";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_invar")])
        .env("INVAR_ROOT", invar.root())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(diagnosis["can_run_containers"], false);
    assert_eq!(finding(&diagnosis, "cgroups")["verdict"], "needed");
    assert_eq!(finding(&diagnosis, "memory")["verdict"], "missing");
}

#[test]
fn nothing_is_left_behind() {
    let invar = empty();
    invar.run(&["doctor"]);
    assert_eq!(support::tree(invar.root()), Vec::<String>::new());
    let groups = Command::new("find")
        .args([
            "/sys/fs/cgroup",
            "-maxdepth",
            "2",
            "-name",
            "invar-doctor-*",
        ])
        .output()
        .unwrap();
    // Another test's doctor may be at it: only groups of processes that have ended count.
    let left = text(&groups.stdout);
    let left = left.lines().filter(|path| {
        let pid = path.rsplit('-').next().unwrap();
        !std::path::Path::new("/proc").join(pid).exists()
    });
    assert_eq!(left.count(), 0);
}
