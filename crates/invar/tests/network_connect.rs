//! Containers that join and leave networks, each test on a machine of its own.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use invar_testkit::eventually;
use invar_testkit::invar::Invar;
use invar_testkit::machine::{self, Neighbour, ip};
use serde_json::{Value, json};
use support::networks::{alone, fetch, get, networks, rules, serve};
use support::{inspect, outcome, pid, shell, signal, status};

/// `eth0`, `eth1`, … of a running container.
fn links(invar: &Invar, name: &str) -> String {
    let listed = invar.run(&["exec", name, "ls", "/sys/class/net"]);
    let links = listed.split_whitespace().filter(|link| *link != "lo");
    links.collect::<Vec<_>>().join(" ")
}

fn places(invar: &Invar, name: &str) -> Value {
    inspect(invar, name)["NetworkSettings"]["Networks"].take()
}

fn fetched(invar: &Invar, from: &str, host: &str) -> String {
    invar.run(&["exec", from, "sh", "-c", &fetch(host)])
}

/// A container in `front`, one in `back`.
fn two() -> Invar {
    let invar = alone();
    invar.run(&["network", "create", "front"]);
    invar.run(&["network", "create", "back", "--ipv6"]);
    serve(&invar, "web", &["--network", "front", "-p", "8080:80"]);
    serve(&invar, "db", &["--network", "back"]);
    invar
}

#[test]
fn a_running_container_joins_a_network_with_its_names_and_leaves_it() {
    let invar = two();
    assert_eq!(fetched(&invar, "web", "db"), "", "they are kept apart");
    invar.run(&["network", "connect", "--alias", "www", "back", "web"]);
    assert_eq!(links(&invar, "web"), "eth0 eth1");
    for (from, name) in [
        ("web", "db"),
        ("web", "db.back"),
        ("db", "web"),
        ("db", "www"),
        ("db", "www.back"),
    ] {
        let seen = fetched(&invar, from, name);
        assert_eq!(seen, if from == "web" { "db" } else { "web" }, "{name}");
    }
    let other = shell(&invar, &["--network", "front"], &fetch("db"));
    assert_eq!(other, "", "a neighbour of the container is not in it");
    let found = places(&invar, "web");
    assert_eq!(found["back"]["Aliases"], json!(["www"]), "{found}");
    let address = found["back"]["IPAddress"].as_str().unwrap();
    let hosts = invar.run(&["exec", "web", "cat", "/etc/hosts"]);
    assert!(hosts.contains(&format!("{address}\tweb")), "{hosts}");
    assert!(found["back"]["GlobalIPv6Address"] != "", "{found}");
    assert_eq!(
        networks(&invar)[1]["containers"].as_array().unwrap().len(),
        2
    );
    let (code, _, said) = outcome(&invar, &["network", "connect", "back", "web"]);
    assert_ne!(code, Some(0));
    assert!(said.contains("is in it already"), "{said}");

    invar.run(&["network", "disconnect", "-f", "back", "web"]);
    assert_eq!(links(&invar, "web"), "eth0");
    assert_eq!(places(&invar, "web")["back"], Value::Null);
    assert_eq!(fetched(&invar, "web", "db"), "");
    assert_eq!(get("127.0.0.1:8080").as_deref(), Some("web"));
    let (code, _, said) = outcome(&invar, &["network", "disconnect", "back", "web"]);
    assert_ne!(code, Some(0));
    assert!(said.contains("is not in it"), "{said}");
}

#[test]
fn what_was_joined_is_there_again_after_a_restart_and_a_stopped_container_can_join() {
    let invar = two();
    invar.run(&["network", "connect", "back", "web"]);
    invar.run(&["restart", "-t", "0", "web"]);
    assert_eq!(links(&invar, "web"), "eth0 eth1");
    assert_eq!(fetched(&invar, "web", "db"), "db");
    eventually("its port is published again", || get("127.0.0.1:8080"));

    invar.run(&["stop", "-t", "0", "web"]);
    invar.run(&["network", "disconnect", "back", "web"]);
    invar.run(&["network", "create", "third", "--subnet", "10.77.0.0/24"]);
    let connect = ["network", "connect", "--ip", "10.77.0.9", "third", "web"];
    invar.run(&connect);
    invar.run(&["start", "web"]);
    assert_eq!(links(&invar, "web"), "eth0 eth1");
    let found = places(&invar, "web");
    assert_eq!(found["third"]["IPAddress"], "10.77.0.9", "{found}");
    let asked = json!({ "IPv4Address": "10.77.0.9" });
    assert_eq!(found["third"]["IPAMConfig"], asked);
    assert_eq!(found["front"]["IPAMConfig"], Value::Null);
    // A network that a container asks for is not pruned.
    invar.run(&["stop", "-t", "0", "web"]);
    assert_eq!(invar.run(&["network", "prune"]), "");
}

#[test]
fn the_first_network_can_be_left_and_the_way_out_goes_through_another() {
    let invar = alone();
    let _neighbour = Neighbour::connect();
    invar.run(&["network", "create", "closed", "--internal"]);
    let flags = ["--network", "closed", "--cap-add", "NET_RAW"];
    serve(&invar, "web", &flags);
    let ping = format!("ping -c 1 -W 2 {}", machine::THERE);
    let reaches = || {
        let output = invar.output(&["exec", "web", "sh", "-c", &ping]);
        output.status.success().then_some(())
    };
    assert_eq!(reaches(), None);
    let route = |invar: &Invar| invar.run(&["exec", "web", "ip", "route"]);
    assert!(!route(&invar).contains("default"), "{}", route(&invar));
    invar.run(&["network", "create", "open"]);
    invar.run(&["network", "connect", "open", "web"]);
    assert!(route(&invar).contains("dev eth1"), "{}", route(&invar));
    eventually("the neighbour is reached", reaches);
    invar.run(&["network", "disconnect", "closed", "web"]);
    assert_eq!(links(&invar, "web"), "eth1");
    invar.run(&["network", "connect", "bridge", "web"]);
    assert_eq!(links(&invar, "web"), "eth0 eth1");
    invar.run(&["network", "disconnect", "open", "web"]);
    assert!(route(&invar).contains("default via"), "{}", route(&invar));
    eventually("the neighbour is reached by the other way", reaches);
    invar.run(&["restart", "-t", "0", "web"]);
    assert_eq!(links(&invar, "web"), "eth0");
    assert!(places(&invar, "web")["bridge"].is_object());
    // And out of every network.
    invar.run(&["network", "disconnect", "bridge", "web"]);
    assert_eq!(links(&invar, "web"), "");
    assert_eq!(places(&invar, "web"), json!({}));
}

#[test]
fn a_killed_shim_leaves_nothing_of_any_network_of_its_container() {
    let invar = two();
    invar.run(&["network", "connect", "back", "web"]);
    let shim = support::process_field(pid(&invar, "web"), "PPid");
    let shim: u32 = shim.parse().unwrap();
    signal(shim, "KILL");
    let shim = i32::try_from(shim).unwrap();
    eventually("the shim is gone", || {
        (!support::is_alive(shim)).then_some(())
    });
    assert_eq!(status(&invar, "web"), "exited");
    assert!(!rules().contains("8080"), "{}", rules());
    let inside = |invar: &Invar, index: usize| {
        let all = networks(invar);
        all[index]["containers"].as_array().unwrap().len()
    };
    assert_eq!((inside(&invar, 0), inside(&invar, 1)), (0, 1));
    eventually("both cables are gone", || {
        (ip(&["link"]).matches("veth").count() == 1).then_some(())
    });
    invar.run(&["start", "web"]);
    assert_eq!(links(&invar, "web"), "eth0 eth1");
    assert_eq!(fetched(&invar, "db", "web"), "web");
}

#[test]
fn a_killed_command_is_made_good_by_the_next_one() {
    let invar = two();
    for delay in 0..8 {
        let connect = ["network", "connect", "back", "web"];
        let mut command = invar.command(&connect).spawn().unwrap();
        // Not a wait for anything: each round is to be cut off somewhere else.
        std::thread::sleep(std::time::Duration::from_millis(delay * 8));
        command.kill().unwrap();
        command.wait().unwrap();
        // It may not have begun; what it has done is undone.
        outcome(&invar, &["network", "disconnect", "back", "web"]);
        assert_eq!(links(&invar, "web"), "eth0", "after {delay}");
        invar.run(&connect);
        assert_eq!(fetched(&invar, "web", "db"), "db", "after {delay}");
        invar.run(&["network", "disconnect", "back", "web"]);
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let invar = two();
    let sleep = ["busybox", "sleep", "1000"];
    let run = |flags: &[&str]| invar.run(&[&["run", "-d"], flags, &sleep].concat());
    run(&["--name", "host", "--network", "host"]);
    run(&["--name", "guest", "--network", "container:web"]);
    for (args, expected) in [
        (&["back", "host"][..], "no link of its own"),
        (&["back", "guest"], "connect that one"),
        (&["nowhere", "web"], "no network named"),
        (&["back", "nobody"], "no container named"),
        (
            &["--ip", "192.0.2.1", "back", "web"],
            "is not for containers",
        ),
        (&["--alias", "not/a name", "back", "web"], "not/a name"),
    ] {
        let (code, _, said) = outcome(&invar, &[&["network", "connect"], args].concat());
        assert_ne!(code, Some(0), "{args:?}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    assert_eq!(links(&invar, "web"), "eth0");
    assert_eq!(places(&invar, "web").as_object().unwrap().len(), 1);
    invar.run(&["network", "connect", "back", "web"]);
}
