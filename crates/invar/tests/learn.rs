//! `invar learn`: what is proposed works.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use invar_testkit::eventually;
use serde_json::Value;
use support::attacked::Host;
use support::outcome_of;

const WORK: &str = "mkdir -p /var/cache/app /var/lib/app /tmp/x; echo 1 > /var/cache/app/a; \
                    echo 1 > /tmp/x/y; echo 1 > /tmp/z; echo 1 > /var/lib/app/db; sleep 100000";

fn learns(host: &Host) -> String {
    host.start("web", &[], WORK);
    eventually("it has written", || {
        host.upper("web")
            .join("var/lib/app/db")
            .exists()
            .then_some(())
    });
    let found: Value =
        serde_json::from_str(&host.run(&["learn", "--format", "json", "web"])).unwrap();
    let places: Vec<_> = found["places"]
        .as_array()
        .unwrap()
        .iter()
        .map(|place| {
            (
                place["dir"].as_str().unwrap(),
                place["holder"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        places,
        [("/var/cache/app", "tmpfs"), ("/var/lib/app", "volume")]
    );
    assert_eq!(found["scratch"], 2);
    host.run(&["learn", "web"])
}

#[test]
fn what_is_proposed_lets_the_program_run_with_a_read_only_root() {
    let host = Host::embedded();
    let proposed = learns(&host);
    // The flags as they stand, without their reasons.
    let flags: Vec<&str> = proposed
        .lines()
        .flat_map(|line| line.split_whitespace().take(2))
        .filter(|word| word.starts_with('-') || word.starts_with('/') || word.contains(':'))
        .collect();
    let args = [
        &["run", "-d", "--name", "strict"],
        &flags[..],
        &["busybox", "sh", "-c", WORK],
    ]
    .concat();
    host.run(&args);
    eventually("it works", || {
        let done = host.output(&["exec", "strict", "cat", "/tmp/z", "/var/lib/app/db"]);
        done.status.success().then_some(())
    });
    assert_eq!(host.run(&["diff", "strict"]), "");
    let compose = host.run(&["learn", "--format", "compose", "web"]);
    assert!(
        compose.contains("read_only: true") && compose.contains("- \"/var/cache/app\""),
        "{compose}"
    );
}

#[test]
fn what_it_proposes_as_a_policy_is_one() {
    let host = Host::docker();
    learns(&host);
    let part = host.run(&["learn", "--format", "policy", "web"]);
    let file = host.invar().root().join("policy.toml");
    fs_err::write(&file, format!("version = 1\n{part}")).unwrap();
    let (code, _, err) = outcome_of(&host.output(&["agent", "check", file.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{part}: {err}");
}
