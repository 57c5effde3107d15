//! Services under real traffic: the example of the README, bad revisions, and a driver that is
//! killed wherever it stands.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use fs_err as fs;
use invar_testkit::docker::PrivateDocker;
use invar_testkit::podman::PrivatePodman;
use invar_testkit::{checked, eventually};
use support::outcome;
use support::shop::{Client, Load, Rig};

const CANARY: &str =
    "    deploy: { replicas: 2 }\n    x-invar: { rollout: { steps: [10%, 50%], hold: 2s } }\n";
const AT_ONCE: &str = "    x-invar: { rollout: { hold: 1s, healthy_within: 5s } }\n";

const BRIEF: &str =
    "    x-invar: { rollout: { steps: [50%], hold: 500ms, keep: 0, margin: 3% } }\n";

fn version(version: &str, rest: &str) -> String {
    format!("    image: app:{version}\n{rest}")
}

#[test]
fn a_canary_that_fails_three_in_a_hundred_is_rolled_back_and_a_good_one_is_not() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", CANARY));
    assert_eq!(rig.ask(), "v1");
    let load = Load::start(rig.port);

    let (code, out, err) = rig.deploy(&version("v2", CANARY));
    assert_eq!(code, Some(1), "{out}\n{err}");
    assert!(
        out.contains("was rolled back") && out.contains("it failed "),
        "{out}"
    );
    assert_eq!(rig.ask(), "v1");
    assert_eq!(rig.containers().len(), 2, "only the old ones are left");

    rig.must_deploy(&version("v3", CANARY));
    assert_eq!(rig.ask(), "v3");
    let seen = load.end();
    let failed: u64 = seen
        .iter()
        .filter(|(answer, _)| !answer.starts_with("200 ") && *answer != "500 v2")
        .map(|(_, count)| count)
        .sum();
    assert_eq!(failed, 0, "{seen:?}");
    assert!(seen["500 v2"] < 40, "the trial was short: {seen:?}");

    // Warm: back at once, as a whole.
    let told = checked(&mut rig.command(&["rollback", "web"]));
    assert!(support::text(&told.stdout).contains("serves"));
    assert_eq!(rig.ask(), "v1");
    let history = rig.invar.run(&["history", "shop.web"]);
    for wanted in ["rollout 4", "reverting", "evidence errors", "µs, with"] {
        assert!(history.contains(wanted), "{wanted}: {history}");
    }
    let page = rig.invar.root().join("history.html");
    checked(
        &mut rig
            .invar
            .command(&["history", "web", "--html", page.to_str().unwrap()]),
    );
    assert!(fs::read_to_string(page).unwrap().contains("<polyline"));
}

#[test]
fn a_revision_that_does_not_work_leaves_the_old_one_and_says_why() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", AT_ONCE));
    let load = Load::start(rig.port);
    for (service, expected) in [
        (version("gone", AT_ONCE), "gone"),
        (
            version(
                "v3",
                "    entrypoint: [/missing]\n    x-invar: { rollout: { hold: 1s } }\n",
            ),
            "its container 1 ",
        ),
        (
            version(
                "v3",
                &format!("    healthcheck: {{ test: [CMD, /missing] }}\n{AT_ONCE}"),
            ),
            "became well within 5 s",
        ),
        (
            version("v3", "    ports: ['1:80']\n"),
            "stands here a second time",
        ),
    ] {
        let (code, out, err) = rig.deploy(&service);
        assert_eq!(code, Some(1), "{service}: {out}\n{err}");
        assert!(
            (out.clone() + &err).contains(expected),
            "{service}: {out}\n{err}"
        );
        assert_eq!(rig.ask(), "v1");
    }
    let seen = load.end();
    assert!(seen.keys().all(|answer| answer == "200 v1"), "{seen:?}");
    assert_eq!(rig.containers().len(), 1);
}

#[test]
fn a_deploy_that_is_killed_anywhere_is_finished_by_the_next_one() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", BRIEF));
    let load = Load::start(rig.port);
    let mut kills = 0;
    for (round, dies_at) in [0, 1, 3, 5, 7, 9, 12, 16].into_iter().enumerate() {
        let wanted = if round % 2 == 0 { "v3" } else { "v1" };
        let file = rig.file(&version(wanted, BRIEF));
        let killed = rig
            .command(&["deploy", "-f", file.to_str().unwrap()])
            .env("INVAR_ROLLOUT_DIES_AT", dies_at.to_string())
            .output()
            .unwrap();
        assert_ne!(killed.status.code(), Some(1), "{dies_at}: {killed:?}");
        kills += u32::from(killed.status.signal() == Some(9));
        rig.must_deploy(&version(wanted, BRIEF));
        assert_eq!(rig.ask(), wanted, "killed at {dies_at}");
    }
    let seen = load.end();
    assert!(kills >= 6, "only {kills} were killed");
    let is_good = |answer: &String| answer == "200 v1" || answer == "200 v3";
    assert!(seen.keys().all(is_good), "{seen:?}");
}

#[test]
fn a_dry_run_says_what_is_replaced_and_why_and_changes_nothing() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", "    environment: { COLOR: red }\n"));
    let before = rig.containers();
    let file = rig.file(&version(
        "v3",
        "    environment: { COLOR: blue }\n    deploy: { replicas: 2 }\n",
    ));
    let args = ["deploy", "--dry-run", "-f", file.to_str().unwrap()];
    let plan = support::text(&checked(&mut rig.command(&args)).stdout);
    for wanted in [
        "shop.web is replaced",
        "image: app:v1",
        "environment COLOR: a value → another value",
    ] {
        assert!(plan.contains(wanted), "{wanted}: {plan}");
    }
    assert_eq!(rig.containers(), before);
    let (code, _, err) = outcome(&rig.invar, &["rollback", "nothing"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("no service named \"nothing\""), "{err}");
}

/// A bridge for one daemon, gone at the end.
struct Bridge(String);

impl Bridge {
    fn new() -> Self {
        let number = std::process::id() % 200;
        let bridge = Self(format!("inv-t{number}"));
        for args in [
            format!("link add {} type bridge", bridge.0),
            format!("addr add 10.213.{number}.1/24 dev {}", bridge.0),
            format!("link set {} up", bridge.0),
        ] {
            checked(Command::new("ip").args(args.split(' ')));
        }
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["link", "del", &self.0]).status());
    }
}

#[test]
fn containers_of_docker_are_deployed_and_reached_on_their_bridge() {
    let rig = Rig::new();
    let bridge = Bridge::new();
    // The later one of two equal flags counts.
    let docker = PrivateDocker::start_with(&[&format!("--bridge={}", bridge.0)]);
    for version in ["v1", "v3"] {
        let archive = rig.invar.root().join("image.tar");
        let archive = archive.to_str().unwrap();
        rig.invar
            .run(&["save", "-o", archive, &format!("app:{version}")]);
        docker.run(&["load", "-i", archive]);
        fs::remove_file(archive).unwrap();
    }
    let deploy = |name: &str| {
        let file = rig.file(&version(name, CANARY));
        let args = ["deploy", "--engine", "docker", "-f", file.to_str().unwrap()];
        let output = rig
            .command(&args)
            .env("DOCKER_HOST", docker.host())
            .output();
        let (code, out, err) = support::outcome_of(&output.unwrap());
        assert_eq!(code, Some(0), "{out}\n{err}");
    };
    deploy("v1");
    assert_eq!(rig.ask(), "v1");
    let load = Load::start(rig.port);
    deploy("v3");
    let seen = load.end();
    assert_eq!(rig.ask(), "v3");
    assert!(
        seen.keys().all(|answer| answer.starts_with("200 ")),
        "{seen:?}"
    );
    checked(
        rig.command(&["rollback", "web"])
            .env("DOCKER_HOST", docker.host()),
    );
    assert_eq!(rig.ask(), "v1");
    docker.run(&["ps", "--quiet"]).lines().for_each(|id| {
        docker.run(&["rm", "--force", id]);
    });
}

#[test]
fn containers_of_podman_are_deployed_through_its_service() {
    let rig = Rig::new();
    let mut podman = PrivatePodman::new();
    let host = podman.serve();
    for version in ["v1", "v3"] {
        let archive = rig.invar.root().join("image.tar");
        let archive = archive.to_str().unwrap();
        let image = format!("app:{version}");
        rig.invar.run(&["save", "-o", archive, &image]);
        podman.run(&["load", "-i", archive]);
        fs::remove_file(archive).unwrap();
    }
    let deploy = |name: &str| {
        let rest = format!("    network_mode: host\n{AT_ONCE}");
        let file = rig.file(&version(name, &rest));
        // Podman's init is a program of its own that not every host has.
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("init: true", "stop_grace_period: 1s")).unwrap();
        let args = ["deploy", "--engine", "podman", "-f", file.to_str().unwrap()];
        let output = rig.command(&args).env("CONTAINER_HOST", &host).output();
        let (code, out, err) = support::outcome_of(&output.unwrap());
        assert_eq!(code, Some(0), "{out}\n{err}");
    };
    deploy("v1");
    assert_eq!(rig.ask(), "v1");
    let load = Load::start(rig.port);
    deploy("v3");
    checked(
        rig.command(&["rollback", "web"])
            .env("CONTAINER_HOST", &host),
    );
    let seen = load.end();
    assert_eq!(rig.ask(), "v1");
    assert!(seen.contains_key("200 v3"), "{seen:?}");
    assert!(
        seen.keys().all(|answer| answer.starts_with("200 ")),
        "{seen:?}"
    );
}

/// What stays of a service's container when it is replaced: its name.
fn first_container(rig: &Rig) -> (String, String) {
    let listed = rig.invar.run(&["ps", "--format", "jsonl"]);
    let first: serde_json::Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    let text = |name: &str| first[name].as_str().unwrap().to_owned();
    (text("name"), text("id"))
}

#[test]
fn a_container_of_a_service_is_replaced_without_dropping_a_request() {
    for network in ["bridge", "host"] {
        let rig = Rig::new();
        let rest = format!("    network_mode: {network}\n    read_only: false\n{AT_ONCE}");
        rig.must_deploy(&version("v1", &rest));
        assert_eq!(rig.ask(), "v1");
        let load = Load::start(rig.port);
        for _ in 0..3 {
            let (name, id) = first_container(&rig);
            let mut replace = rig.command(&["replace", "--format", "json", &name]);
            let done = support::text(&checked(&mut replace).stdout);
            let done: serde_json::Value = serde_json::from_str(&done).unwrap();
            assert_eq!(done["old"], serde_json::json!(id), "{network}");
            // The name is the same, so the service knows the fresh one as its own.
            assert_eq!(first_container(&rig).0, name, "{network}");
            assert_ne!(first_container(&rig).1, id, "{network}");
        }
        let seen = load.end();
        assert!(
            seen.keys().all(|answer| answer == "200 v1"),
            "{network}: {seen:?}"
        );
        assert!(seen["200 v1"] > 20, "{network}: {seen:?}");
        assert_eq!(rig.containers().len(), 1, "{network}");
        // And goes on being deployed.
        rig.must_deploy(&version("v3", &rest));
        assert_eq!(rig.ask(), "v3");
    }
}

#[test]
fn an_attacked_container_of_a_service_is_healed_by_the_agent_without_dropping_a_request() {
    let rig = Rig::new();
    let rest = format!("    network_mode: bridge\n    read_only: false\n{AT_ONCE}");
    rig.must_deploy(&version("v1", &rest));
    let policy = rig.invar.root().join("agent.toml");
    fs::write(
        &policy,
        "version = 1\n[default]\nmode = \"block\"\nrespond = \"replace\"\n",
    )
    .unwrap();
    let gateway = rig.invar.root().join("gateway.sock");
    let mut agent = rig
        .invar
        .command(&["agent", "--policy"])
        .arg(&policy)
        .arg("--gateway")
        .arg(&gateway)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (name, id) = first_container(&rig);
    eventually("it is watched", || {
        let status = rig.invar.output(&["agent", "status", "--format", "json"]);
        support::text(&status.stdout).contains(&id).then_some(())
    });
    let load = Load::start(rig.port);
    // The image has one program; a copy of it at another place is not of the image.
    let upper = rig.invar.root().join("containers").join(&id).join("upper");
    fs::copy("/bin/busybox", upper.join("evil")).unwrap();
    rig.invar.output(&["exec", &name, "/evil", "true"]);
    eventually("it is healed", || {
        let incidents = rig.invar.run(&["agent", "incidents", "--format", "json"]);
        let incidents: serde_json::Value = serde_json::from_str(&incidents).unwrap();
        let outcome = incidents[0]["outcome"].as_str()?.to_owned();
        assert!(outcome.contains("replaced by"), "{outcome}");
        Some(())
    });
    let seen = load.end();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_ne!(first_container(&rig).1, id);
    assert!(seen.keys().all(|answer| answer == "200 v1"), "{seen:?}");
}

#[test]
fn a_service_that_is_not_in_the_file_any_more_is_named_and_taken_away_when_asked() {
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap().port();
    drop(listener);
    let two = format!(
        "{}  api:\n    image: app:v3\n    command: [/app]\n    ports: ['127.0.0.1:{other}:80']\n",
        version("v1", "")
    );
    rig.must_deploy(&two);
    assert_eq!(Client::new(other).ask().unwrap().1, "v3");
    let one = version("v1", "");
    let (code, out, err) = rig.deploy(&one);
    assert_eq!(code, Some(0), "{out}\n{err}");
    assert!(
        err.contains("shop.api is not in the file any more"),
        "{err}"
    );
    assert!(err.contains("invar undeploy shop.api"), "{err}");
    assert_eq!(Client::new(other).ask().unwrap().1, "v3");

    let load = Load::start(rig.port);
    let file = rig.file(&one);
    let args = ["deploy", "--remove-orphans", "-f", file.to_str().unwrap()];
    let said = support::text(&checked(&mut rig.command(&args)).stdout);
    assert!(said.contains("shop.api: is not served any more"), "{said}");
    let seen = load.end();
    assert!(seen.keys().all(|answer| answer == "200 v1"), "{seen:?}");
    assert!(TcpStream::connect(("127.0.0.1", other)).is_err());
    assert_eq!(rig.containers().len(), 1);

    checked(&mut rig.command(&["undeploy", "web"]));
    assert!(TcpStream::connect(("127.0.0.1", rig.port)).is_err());
    assert_eq!(rig.containers().len(), 0);
    let (code, _, err) = support::outcome_of(&rig.command(&["rollback", "web"]).output().unwrap());
    assert_eq!(code, Some(1), "{err}");
    // And can come back.
    rig.must_deploy(&one);
    assert_eq!(rig.ask(), "v1");
}

#[test]
fn a_warm_revision_whose_time_is_over_goes_with_the_next_deploy_of_anything() {
    let rig = Rig::new();
    let keep = "    x-invar: { rollout: { hold: 200ms, keep: 1s } }\n";
    rig.must_deploy(&version("v1", keep));
    rig.must_deploy(&version("v3", keep));
    assert_eq!(rig.containers().len(), 2, "the one before is warm");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    rig.must_deploy(&version("v3", keep));
    assert_eq!(rig.containers().len(), 1);
}

#[test]
fn a_canary_that_tries_to_run_a_foreign_program_is_rolled_back() {
    let rig = Rig::new();
    // Files may change in it: only what the agent refuses counts.
    let rest = "    network_mode: bridge\n    read_only: false\n    x-invar: { allow: [/evil], rollout: \
                { steps: [50%], hold: 60s } }\n";
    rig.must_deploy(&version("v1", rest));
    let policy = rig.invar.root().join("agent.toml");
    fs::write(&policy, "version = 1\n[default]\nmode = \"block\"\n").unwrap();
    let mut agent = rig.invar.command(&["agent", "--policy"]);
    let mut agent = agent.arg(&policy).stdout(Stdio::null()).spawn().unwrap();
    let file = rig.file(&version("v3", rest));
    let mut deploy = rig.command(&["deploy", "-f", file.to_str().unwrap()]);
    let deploy = deploy.stdout(Stdio::piped()).stderr(Stdio::piped());
    let deploy = deploy.spawn().unwrap();
    let (name, id) = eventually("the new one is watched", || {
        let status = rig.invar.output(&["agent", "status", "--format", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        let listed = rig.invar.run(&["ps", "--format", "jsonl"]);
        let mut all = listed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let newest: serde_json::Value =
            all.find(|one: &serde_json::Value| one["image"].to_string().contains("app:v3"))?;
        let id = newest["id"].as_str()?.to_owned();
        let watched = status["containers"]
            .as_array()?
            .iter()
            .any(|one| one["id"] == id.as_str());
        watched.then(|| (newest["name"].as_str().unwrap().to_owned(), id))
    });
    let upper = rig.invar.root().join("containers").join(id).join("upper");
    fs::copy("/bin/busybox", upper.join("evil")).unwrap();
    rig.invar.output(&["exec", &name, "/evil", "true"]);
    let ended = deploy.wait_with_output().unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    let said = support::text(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("tried to run what is not of the image: exec-blocked /evil"),
        "{said}"
    );
    assert_eq!(rig.ask(), "v1");
}

/// The first process of the service's only container.
fn first_process(rig: &Rig) -> Option<String> {
    let (_, id) = first_container(rig);
    let described = rig.invar.run(&["inspect", &format!("embedded:{id}")]);
    let described: serde_json::Value = serde_json::from_str(&described).unwrap();
    let pid = &described[0]["State"]["Pid"];
    pid.as_u64()
        .filter(|pid| *pid > 0)
        .map(|pid| pid.to_string())
}

#[test]
fn a_restart_policy_brings_back_what_ended() {
    for network in ["network_mode: host", "network_mode: bridge"] {
        let rig = Rig::new();
        let rest = format!("    {network}\n    restart: always\n{AT_ONCE}");
        rig.must_deploy(&version("v1", &rest));
        let before = first_process(&rig).unwrap();
        checked(Command::new("kill").args(["-9", &before]));
        eventually("it runs again", || {
            first_process(&rig).filter(|after| *after != before)
        });
        eventually("it serves again", || {
            let (status, body) = Client::new(rig.port).ask().ok()?;
            (status == 200).then(|| assert_eq!(body, "v1", "{network}"))
        });
    }
}

/// The container's address in its network.
fn address(rig: &Rig, name: &str) -> String {
    let networks = &support::inspect(&rig.invar, name)["NetworkSettings"]["Networks"];
    let address = &networks["shop_default"]["IPAddress"];
    address.as_str().unwrap().to_owned()
}

/// Ends the service's container, gives its address to one that answers `v3`, and starts it again.
fn move_elsewhere(rig: &Rig) {
    let (name, _) = first_container(rig);
    let before = address(rig, &name);
    rig.invar.run(&["stop", "-t", "0", &name]);
    let thief = ["run", "-d", "--network", "shop_default", "--ip", &before];
    let program = ["-e", "PORT=80", "app:v3", "/app"];
    rig.invar.run(&[&thief[..], &program].concat());
    rig.invar.run(&["start", &name]);
    assert_ne!(address(rig, &name), before);
}

#[test]
fn a_container_that_comes_back_at_another_address_is_followed_by_the_gateway() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", AT_ONCE));
    move_elsewhere(&rig);
    eventually("the gateway has the new address", || {
        (Client::new(rig.port).ask().ok()?.1 == "v1").then_some(())
    });
}

#[test]
fn a_deploy_of_the_same_file_tells_the_gateway_where_containers_are() {
    let rig = Rig::new();
    rig.must_deploy(&version("v1", AT_ONCE));
    move_elsewhere(&rig);
    // Whoever is first, it or the gateway: afterwards it is so.
    rig.must_deploy(&version("v1", AT_ONCE));
    assert_eq!(rig.ask(), "v1");
    assert_eq!(rig.containers().len(), 2, "the service's and the other one");
}

#[test]
fn a_warm_revision_is_not_found_by_the_service_s_name_and_is_again_after_a_rollback() {
    let rig = Rig::new();
    let is_named = |version: &str| {
        let listed = rig.invar.run(&["ps", "--format", "json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let mut names = listed.as_array().unwrap().iter();
        names.any(|one| {
            let inspected = support::inspect(&rig.invar, one["name"].as_str().unwrap());
            let place = &inspected["NetworkSettings"]["Networks"]["shop_default"];
            let image = inspected["Config"]["Image"].as_str().unwrap();
            image == format!("app:{version}") && place["Aliases"].to_string().contains("\"web\"")
        })
    };
    rig.must_deploy(&version("v1", AT_ONCE));
    rig.must_deploy(&version("v3", AT_ONCE));
    let only = |this: &str, other: &str| {
        eventually(&format!("{this} alone is found"), || {
            (is_named(this) && !is_named(other)).then_some(())
        });
    };
    only("v3", "v1");
    checked(&mut rig.command(&["rollback", "web"]));
    only("v1", "v3");
}
