//! What happens to blocked containers when the agent is killed, as its policy says.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use fs_err as fs;
use invar_testkit::eventually;
use serde_json::Value;
use support::agent::{DROP_A_PROGRAM, Running, seal, watched};
use support::attacked::Host;

const FREEZE: &str = "version = 1\n[agent]\non_agent_loss = \"freeze\"\n\
                      [default]\nmode = \"block\"\n\
                      [[container]]\nname = \"seen\"\nmode = \"observe\"\n";

/// Runs a program that is not of the image.
const FOREIGN: &str =
    "mkdir -p /tmp/d; cp /bin/busybox /tmp/d; /tmp/d/busybox echo ran || echo refused";

/// The process that watches over an agent.
fn warden_of(agent: &Running) -> Option<u32> {
    let end = format!("\0{}\0", agent.child.id());
    let all = fs::read_dir("/proc").unwrap();
    let mut numbers = all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    numbers.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("\0warden\0") && line.ends_with(&end)
    })
}

/// An agent with this policy that guards `web`, and its warden.
fn guarding(host: &Host, policy: &str) -> (Running, u32) {
    let agent = Running::start(host, policy);
    eventually("it is watched", || watched(host, "web"));
    let warden = eventually("there is a warden", || warden_of(&agent));
    (agent, warden)
}

fn kill(agent: &mut Running) {
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
}

fn says(agent: &Running, words: &str) -> Value {
    agent.alert(words, |alert| {
        alert["text"]
            .as_str()
            .is_some_and(|text| text.contains(words))
    })
}

fn is_eventually(host: &Host, name: &str, status: &str) {
    eventually(&format!("{name} is {status}"), || {
        (host.status(name) == status).then_some(())
    });
}

/// The container runs, and what is not of its image does not.
fn is_guarded(host: &Host) {
    is_eventually(host, "web", "running");
    eventually("it is watched again", || watched(host, "web"));
    let said = host.exec("web", FOREIGN);
    assert!(said.contains("refused"), "{said}");
}

fn what_is_blocked_is_frozen_until_the_next_agent(host: &Host) {
    host.start("web", &[], "sleep 100000");
    host.start("seen", &[], "sleep 100000");
    let (mut agent, _) = guarding(host, FREEZE);
    eventually("both are watched", || watched(host, "seen"));
    is_guarded(host);
    kill(&mut agent);
    let told = says(&agent, "the agent was lost");
    assert_eq!(told["severity"], "critical");
    let text = told["text"].as_str().unwrap();
    assert!(text.contains(":web") && !text.contains("seen"), "{text}");
    assert_eq!(host.status("web"), "paused");
    assert_eq!(host.status("seen"), "running");

    let (agent, warden) = guarding(host, FREEZE);
    says(&agent, ":web is watched again and goes on");
    is_guarded(host);
    // An orderly end leaves everything as it is, and no warden.
    assert!(agent.ends());
    assert!(!fs::exists(format!("/proc/{warden}")).unwrap());
    assert_eq!(host.status("web"), "running");
}

#[test]
fn what_is_blocked_on_the_embedded_engine_is_frozen_until_the_next_agent() {
    what_is_blocked_is_frozen_until_the_next_agent(&Host::embedded());
}

#[test]
fn what_is_blocked_on_docker_is_frozen_until_the_next_agent() {
    what_is_blocked_is_frozen_until_the_next_agent(&Host::docker());
}

#[test]
fn without_that_key_a_killed_agent_leaves_everything_running() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let mut agent = Running::start(&host, "version = 1\n[default]\nmode = \"block\"\n");
    eventually("it is watched", || watched(&host, "web"));
    is_guarded(&host);
    assert_eq!(warden_of(&agent), None);
    kill(&mut agent);
    // It fails open: what `is_guarded` looks for can be missed.
    assert_eq!(host.exec("web", FOREIGN), "ran");
    assert_eq!(host.status("web"), "running");
}

#[test]
fn a_warden_that_is_killed_is_followed_by_another() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let (mut agent, warden) = guarding(&host, FREEZE);
    // What a service manager sends to all of a service does not end it.
    support::signal(warden, "TERM");
    support::signal(warden, "KILL");
    says(&agent, "the warden has ended (signal: 9");
    eventually("another one", || {
        warden_of(&agent).filter(|other| *other != warden)
    });
    kill(&mut agent);
    is_eventually(&host, "web", "paused");
    let agent = Running::start(&host, "version = 1\n[default]\nmode = \"block\"\n");
    // Whatever the policy says by now.
    is_guarded(&host);
    assert!(agent.ends());
}

#[test]
fn an_agent_that_is_started_again_at_once_has_everything_going_on() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let (mut lost, _) = guarding(&host, FREEZE);
    kill(&mut lost);
    let (agent, _) = guarding(&host, FREEZE);
    says(
        &lost,
        "the agent was lost; frozen until it is back: embedded:web",
    );
    says(&agent, "embedded:web is watched again and goes on");
    is_guarded(&host);
    assert!(agent.ends());
}

#[test]
fn containers_that_are_gone_are_in_nobody_s_way() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    host.start("other", &[], "sleep 100000");
    let (mut agent, _) = guarding(&host, FREEZE);
    eventually("both are watched", || watched(&host, "other"));
    // One before the warden looks for it, one while it is frozen.
    host.remove("other");
    kill(&mut agent);
    says(
        &agent,
        "the agent was lost; frozen until it is back: embedded:web",
    );
    host.remove("web");
    let agent = Running::start(&host, FREEZE);
    host.start("web", &[], "sleep 100000");
    is_guarded(&host);
    let said = agent.alerts();
    let is_about_frozen = |alert: &Value| alert["text"].as_str().unwrap().contains("frozen");
    assert!(!said.iter().any(is_about_frozen), "{said:?}");
    assert!(agent.ends());
}

#[test]
fn what_a_response_has_frozen_stays_frozen() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let policy = FREEZE.replace("[default]\n", "[default]\nrespond = \"freeze\"\n");
    let (mut agent, _) = guarding(&host, &policy);
    seal(&host, "web");
    // Its end is not waited for: it may be frozen with the container.
    let mut attack = host.command(&["exec", "web", "sh", "-c", DROP_A_PROGRAM]);
    let mut attack = attack.spawn().unwrap();
    says(&agent, "frozen; let it go on");
    kill(&mut agent);
    says(&agent, "there was nothing to freeze");
    let (agent, _) = guarding(&host, &policy);
    host.start("late", &[], "sleep 100000");
    eventually("it has looked again", || watched(&host, "late"));
    assert_eq!(host.status("web"), "paused");
    host.run(&["agent", "release", "web"]);
    assert_eq!(host.status("web"), "running");
    attack.wait().unwrap();
    assert!(agent.ends());
}

#[test]
fn a_response_that_was_killed_is_finished_although_the_container_is_frozen() {
    for step in ["replacing", "replaced"] {
        let host = Host::embedded();
        host.start("web", &[], "sleep 100000");
        let old = host.id("web");
        let policy = FREEZE.replace("[default]\n", "[default]\nrespond = \"replace\"\n");
        let mut lost = Running::start_with(&host, &policy, &[("INVAR_AGENT_KILL_AT", step)]);
        seal(&host, "web");
        eventually("there is a warden", || warden_of(&lost));
        drop(host.output(&["exec", "web", "sh", "-c", DROP_A_PROGRAM]));
        eventually("the agent is killed", || lost.child.try_wait().unwrap());
        says(&lost, "the agent was lost");
        let agent = Running::start(&host, &policy);
        let done = agent.alert("the response", |alert| alert["kind"] == "response");
        let text = done["text"].as_str().unwrap();
        assert!(text.contains("replaced by"), "{step}: {text}");
        assert_ne!(host.id("web"), old, "{step}");
        is_eventually(&host, "web", "running");
        assert_eq!(host.names(), ["web"], "{step}");
        assert!(agent.ends());
    }
}
