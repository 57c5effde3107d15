//! Networks of real containers, each test on a machine (a network namespace) of its own.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use invar_sys::network;
use invar_testkit::eventually;
use invar_testkit::invar::Invar;
use invar_testkit::machine::{self, HERE, HERE6, Neighbour, ip, nft};
use serde_json::Value;
use support::networks::{address, alone, fetch, get, networks, rules, serve};
use support::{inspect, outcome, pid, shell, signal, status};

fn datagram(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let from: SocketAddr = match address {
        SocketAddr::V4(_) => "0.0.0.0:0".parse().unwrap(),
        SocketAddr::V6(_) => "[::]:0".parse().unwrap(),
    };
    let socket = UdpSocket::bind(from).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    socket.connect(address).ok()?;
    socket.send(b"ping\n").ok()?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
}

#[test]
fn containers_of_a_network_reach_each_other_by_every_name() {
    let invar = alone();
    invar.run(&["network", "create", "front", "--ipv6"]);
    serve(
        &invar,
        "web",
        &["--network", "front", "--network-alias", "www"],
    );
    let id = inspect(&invar, "web")["Id"].as_str().unwrap().to_owned();
    let flags = ["--network", "front", "--cap-add", "NET_RAW"];
    for name in ["web", "WEB", "www", "web.front", "www.front", &id[..12]] {
        assert_eq!(shell(&invar, &flags, &fetch(name)), "web", "{name}");
    }
    let mut settings = inspect(&invar, "web")["NetworkSettings"].take();
    let address6 = settings["GlobalIPv6Address"].take();
    let address6 = address6.as_str().unwrap();
    assert_eq!(shell(&invar, &flags, &fetch(address6)), "web");
    shell(
        &invar,
        &flags,
        "ping -c 1 -W 2 web && ping -6 -c 1 -W 2 web",
    );
    let reverse = "nslookup $(nslookup -type=a web | awk '/^Address/ {a=$2} END {print a}')";
    assert!(shell(&invar, &flags, reverse).contains("web.front"));
    invar.run(&["rename", "web", "site"]);
    assert_eq!(shell(&invar, &flags, &fetch("site")), "web");
    let gone = invar.output(&[
        "run",
        "--rm",
        "--network",
        "front",
        "busybox",
        "nslookup",
        "web",
    ]);
    assert!(!gone.status.success(), "the old name still has an address");
}

#[test]
fn the_default_network_has_addresses_and_a_way_out_but_no_names() {
    let invar = alone();
    let neighbour = Neighbour::connect();
    serve(&invar, "web", &["--network", "bridge"]);
    let server = neighbour.inside(|| TcpListener::bind((machine::THERE, 80)).unwrap());
    let client = std::thread::spawn(move || {
        let (mut connection, client) = server.accept().unwrap();
        connection
            .write_all(format!("{}\n", client.ip()).as_bytes())
            .unwrap();
    });
    let script = format!("nc -w 2 {} 80", machine::THERE);
    let seen = shell(&invar, &["--network", "bridge"], &script);
    client.join().unwrap();
    assert_eq!(seen, HERE, "leaves in the host's name");
    let listens = fs_err::read_to_string("/proc/sys/net/ipv6/conf/cable0/accept_ra").unwrap();
    assert_eq!(listens, "2\n", "the host still listens to its router");
    let fetched = shell(
        &invar,
        &["--network", "bridge"],
        &fetch(&address(&invar, "web").to_string()),
    );
    assert_eq!(fetched, "web");
    let named = shell(
        &invar,
        &["--network", "bridge"],
        "nslookup web >/dev/null 2>&1; echo $?",
    );
    assert_eq!(named, "1");
    assert!(networks(&invar)[0]["name"] == "bridge");
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    let invar = alone();
    let neighbour = Neighbour::connect();
    serve(
        &invar,
        "web",
        &[
            "--network",
            "bridge",
            "-p",
            "8080:80",
            "-p",
            "8000-8002:80-82",
        ],
    );
    let gateway = inspect(&invar, "web")["NetworkSettings"]["Gateway"]
        .as_str()
        .unwrap()
        .to_owned();
    for host in ["127.0.0.1", HERE, &gateway, &format!("[{HERE6}]")] {
        for port in [8080, 8000] {
            let answer = get(&format!("{host}:{port}"));
            assert_eq!(
                answer.as_deref(),
                Some("web"),
                "{host}:{port} from the host"
            );
        }
    }
    for host in [HERE, &format!("[{HERE6}]")] {
        let answer = neighbour.inside(|| get(&format!("{host}:8080")));
        assert_eq!(answer.as_deref(), Some("web"), "{host} from the neighbour");
    }
    let from_inside = fetch(&gateway).replace(" 80 ", " 8080 ");
    assert_eq!(shell(&invar, &["--network", "bridge"], &from_inside), "web");
    let itself = invar.run(&["exec", "web", "sh", "-c", &from_inside]);
    assert_eq!(
        itself, "web",
        "a container reaches itself by its published port"
    );
    assert!(
        invar
            .run(&["port", "web"])
            .contains("80/tcp -> 0.0.0.0:8080\n"),
        "{}",
        invar.run(&["port", "web"])
    );
    assert_eq!(invar.run(&["port", "web", "82"]), "0.0.0.0:8002\n[::]:8002");
    let ports = inspect(&invar, "web")["NetworkSettings"]["Ports"].take();
    assert_eq!(ports["80/tcp"][1]["HostPort"], "8080", "{ports}");
    assert!(invar.run(&["ps"]).contains("8080->80/tcp"));
    invar.run(&["stop", "-t", "0", "web"]);
    assert_eq!(get("127.0.0.1:8080"), None);
    let settings = inspect(&invar, "web")["NetworkSettings"].take();
    assert_eq!(
        (&settings["IPAddress"], &settings["Ports"]),
        (&"".into(), &serde_json::json!({}))
    );
    invar.run(&["start", "web"]);
    eventually("it serves again", || get("127.0.0.1:8080"));
}

#[test]
fn datagrams_reach_a_published_port_from_everywhere() {
    let invar = alone();
    let neighbour = Neighbour::connect();
    let run = ["run", "-d", "--network", "bridge", "-p", "9999:99/udp"];
    let id = invar.run(&[&run[..], &["busybox", "sleep", "1000"]].concat());
    answer_datagrams(pid(&invar, &id), 99);
    for host in ["127.0.0.1", HERE, &format!("[{HERE6}]")] {
        let answer = datagram(&format!("{host}:9999"));
        assert_eq!(answer.as_deref(), Some("ping"), "{host} from the host");
    }
    for host in [HERE, &format!("[{HERE6}]")] {
        let answer = neighbour.inside(|| datagram(&format!("{host}:9999")));
        assert_eq!(answer.as_deref(), Some("ping"), "{host} from the neighbour");
    }
    assert_eq!(
        invar.run(&["port", &id, "99/udp"]),
        "0.0.0.0:9999\n[::]:9999"
    );
}

#[test]
fn a_sender_of_datagrams_that_never_stops_follows_the_container() {
    let invar = alone();
    let neighbour = Neighbour::connect();
    let client = neighbour.inside(|| UdpSocket::bind("0.0.0.0:5555").unwrap());
    client.connect((HERE, 9999)).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let is_answered = || {
        // The host refuses it (ICMP) as long as nobody is there.
        client.send(b"ping").ok();
        client.recv(&mut [0; 64]).is_ok()
    };
    for _ in 0..3 {
        assert!(!is_answered());
    }
    let run = ["run", "-d", "--network", "bridge", "-p", "9999:99/udp"];
    let id = invar.run(&[&run[..], &["busybox", "sleep", "1000"]].concat());
    let mut addresses = BTreeSet::new();
    for _ in 0..2 {
        answer_datagrams(pid(&invar, &id), 99);
        eventually("the container answers", || is_answered().then_some(()));
        let before = address(&invar, &id);
        invar.run(&["stop", "-t", "0", &id]);
        assert!(!is_answered());
        // Somebody else has its address when it comes back.
        let taken = [
            "run",
            "-d",
            "--network",
            "bridge",
            "--ip",
            &before.to_string(),
        ];
        invar.run(&[&taken[..], &["busybox", "sleep", "1000"]].concat());
        addresses.insert(before);
        invar.run(&["start", &id]);
    }
    assert_eq!(addresses.len(), 2, "each time it has another address");
}

/// Sends every datagram back that comes to a port of a container; busybox has no such server.
fn answer_datagrams(container: i32, port: u16) {
    let namespace = network::namespace_of(u32::try_from(container).unwrap()).unwrap();
    let socket = std::thread::spawn(move || {
        network::enter(namespace.as_fd()).unwrap();
        UdpSocket::bind(("::", port)).unwrap()
    });
    let socket = socket.join().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((length, client)) = socket.recv_from(&mut bytes) {
            socket.send_to(&bytes[..length], client).unwrap();
        }
    });
}

#[test]
fn a_published_address_is_kept() {
    let invar = alone();
    let neighbour = Neighbour::connect();
    serve(
        &invar,
        "local",
        &["--network", "bridge", "-p", "127.0.0.1:8080:80"],
    );
    serve(
        &invar,
        "outer",
        &["--network", "bridge", "-p", &format!("{HERE}:8080:80")],
    );
    serve(&invar, "any", &["--network", "bridge", "-p", "80"]);
    assert_eq!(get("127.0.0.1:8080").as_deref(), Some("local"));
    assert_eq!(get(&format!("{HERE}:8080")).as_deref(), Some("outer"));
    assert_eq!(
        neighbour.inside(|| get(&format!("{HERE}:8080"))).as_deref(),
        Some("outer")
    );
    let chosen = invar.run(&["port", "any", "80"]);
    let port = chosen.lines().next().unwrap().rsplit(':').next().unwrap();
    assert_eq!(get(&format!("127.0.0.1:{port}")).as_deref(), Some("any"));
    // Around the published port, straight to the container.
    let inside = address(&invar, "local");
    let reached = neighbour.inside(|| {
        ip(&["route", "add", "10.0.0.0/8", "via", HERE]);
        get(&format!("{inside}:80"))
    });
    assert_eq!(reached, None, "a neighbour reached an unpublished port");
}

#[test]
fn a_container_can_neither_reach_the_host_s_loopback_nor_send_in_another_s_name() {
    let invar = alone();
    serve(&invar, "web", &["--network", "bridge"]);
    let gateway = inspect(&invar, "web")["NetworkSettings"]["Gateway"].take();
    let gateway = gateway.as_str().unwrap();
    let secret = UdpSocket::bind("127.0.0.1:7777").unwrap();
    let open = UdpSocket::bind((gateway, 8888)).unwrap();
    for socket in [&secret, &open] {
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
    }
    // With every right in its network namespace, as after an escape from everything else.
    let attack = |setup: &[&[&str]], from: &str, to: (&str, u16)| {
        let process = u32::try_from(pid(&invar, "web")).unwrap();
        let namespace = network::namespace_of(process).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                network::enter(namespace.as_fd()).unwrap();
                fs_err::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
                for command in setup {
                    ip(command);
                }
                let socket = UdpSocket::bind((from, 0)).unwrap();
                socket.send_to(b"here", to).unwrap();
            });
            inside.join().unwrap();
        });
    };
    let own = address(&invar, "web").to_string();
    attack(&[], &own, (gateway, 8888));
    assert!(open.recv(&mut [0; 64]).is_ok(), "the host is there");
    attack(
        &[
            &[
                "rule",
                "add",
                "pref",
                "10",
                "to",
                "127.0.0.0/8",
                "lookup",
                "100",
            ],
            &["rule", "add", "pref", "20", "lookup", "local"],
            &["rule", "del", "pref", "0"],
            &[
                "route",
                "add",
                "127.0.0.0/8",
                "via",
                gateway,
                "dev",
                "eth0",
                "table",
                "100",
            ],
        ],
        &own,
        ("127.0.0.1", 7777),
    );
    assert!(
        secret.recv(&mut [0; 64]).is_err(),
        "the loopback is reached"
    );
    let alias = ["address", "add", "198.51.100.7/32", "dev", "eth0"];
    attack(&[&alias], "198.51.100.7", (gateway, 8888));
    assert!(open.recv(&mut [0; 64]).is_err(), "another's name is taken");
}

#[test]
fn a_taken_port_is_an_error_before_anything_starts() {
    let invar = alone();
    let listener = TcpListener::bind("127.0.0.1:8080").unwrap();
    let run = [
        "run",
        "--network",
        "bridge",
        "--name",
        "one",
        "-p",
        "8080:80",
        "busybox",
        "true",
    ];
    let (code, _, said) = outcome(&invar, &run);
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("8080/tcp of the host is in use"), "{said}");
    assert!(said.contains("hint:"), "{said}");
    drop(listener);
    invar.run(&["rm", "one"]);
    serve(&invar, "two", &["--network", "bridge", "-p", "8080:80"]);
    let (code, _, said) = outcome(&invar, &run);
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("8080/tcp of the host is in use"), "{said}");
    assert_eq!(
        get("127.0.0.1:8080").as_deref(),
        Some("two"),
        "the first is untouched"
    );
    assert!(
        TcpListener::bind("0.0.0.0:8080").is_err(),
        "the port is held"
    );
    assert_eq!(
        networks(&invar)[0]["containers"].as_array().unwrap().len(),
        1
    );
    invar.run(&["rm", "-f", "two"]);
    TcpListener::bind("0.0.0.0:8080").unwrap();
}

#[test]
fn a_network_without_a_free_address_says_so_and_takes_the_next_when_one_ends() {
    let invar = alone();
    invar.run(&["network", "create", "tiny", "--subnet", "10.9.8.0/30"]);
    serve(&invar, "only", &["--network", "tiny"]);
    assert_eq!(address(&invar, "only").to_string(), "10.9.8.2");
    let run = ["run", "--rm", "--network", "tiny", "busybox", "true"];
    let (code, _, said) = outcome(&invar, &run);
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("all 1 of 10.9.8.0/30 are taken"), "{said}");
    invar.run(&["stop", "-t", "0", "only"]);
    invar.run(&run);
    let table = [
        ("10.9.8.1", "is not for containers"),
        ("10.9.9.2", "is not for containers"),
    ];
    for (address, expected) in table {
        let run = [
            "run",
            "--rm",
            "--network",
            "tiny",
            "--ip",
            address,
            "busybox",
            "true",
        ];
        let (code, _, said) = outcome(&invar, &run);
        assert_eq!(code, Some(125), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn twenty_containers_started_at_once_have_twenty_addresses() {
    let invar = alone();
    std::thread::scope(|scope| {
        for number in 0..20 {
            let invar = &invar;
            scope.spawn(move || {
                let port = format!("{}:80", 9000 + number);
                let name = format!("c{number}");
                let run = [
                    "run",
                    "-d",
                    "--name",
                    &name,
                    "--network",
                    "bridge",
                    "-p",
                    &port,
                ];
                invar.run(&[&run[..], &["busybox", "sleep", "1000"]].concat())
            });
        }
    });
    let network = networks(&invar).remove(0);
    let places = network["containers"].as_array().unwrap();
    let addresses: BTreeSet<String> = places
        .iter()
        .map(|place| place[2]["address"].to_string())
        .collect();
    assert_eq!(addresses.len(), 20, "{addresses:?}");
    let rules = rules();
    for number in 0..20 {
        let own = address(&invar, &format!("c{number}"));
        let rule = format!("tcp . {} : {own} . 80", 9000 + number);
        assert!(rules.contains(&rule), "{rule} is missing in {rules}");
    }
}

#[test]
fn networks_are_kept_apart_and_an_internal_one_is_closed() {
    let invar = alone();
    let neighbour = Neighbour::connect();
    invar.run(&["network", "create", "front"]);
    invar.run(&["network", "create", "back", "--internal"]);
    serve(&invar, "web", &["--network", "front"]);
    serve(&invar, "db", &["--network", "back"]);
    let (web, db) = (address(&invar, "web"), address(&invar, "db"));
    let server = neighbour.inside(|| TcpListener::bind((machine::THERE, 80)).unwrap());
    let tries = [
        ("bridge", web.to_string()),
        ("bridge", db.to_string()),
        ("front", db.to_string()),
        ("back", web.to_string()),
        ("back", machine::THERE.to_owned()),
    ];
    for (network, target) in tries {
        let reached = shell(&invar, &["--network", network], &fetch(&target));
        assert_eq!(reached, "", "{network} reached {target}");
    }
    drop(server);
    assert_eq!(shell(&invar, &["--network", "back"], &fetch("db")), "db");
    let host = TcpListener::bind("0.0.0.0:80").unwrap();
    // Each is closed as soon as it is accepted; the thread ends with the test.
    std::thread::spawn(move || host.incoming().for_each(drop));
    let connects = |network: &str| {
        let gateway = networks(&invar)
            .into_iter()
            .find(|other| other["name"] == network)
            .unwrap();
        let gateway = gateway["gateway"].as_str().unwrap().to_owned();
        let script = format!("nc -w 1 {gateway} 80 </dev/null >/dev/null 2>&1; echo $?");
        shell(&invar, &["--network", network], &script)
    };
    assert_eq!(connects("front"), "0", "the host is there");
    assert_eq!(
        connects("back"),
        "1",
        "an internal network reached the host"
    );
    let outside = "nslookup example.org | grep -c NXDOMAIN";
    assert_ne!(
        shell(&invar, &["--network", "back"], &format!("{outside}; true")),
        "0"
    );
    let run = [
        "run",
        "--rm",
        "--network",
        "back",
        "-p",
        "80:80",
        "busybox",
        "true",
    ];
    let (code, _, said) = outcome(&invar, &run);
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("internal"), "{said}");
}

#[test]
fn a_killed_shim_leaves_nothing_that_the_next_command_does_not_clean() {
    let invar = alone();
    invar.run(&["network", "create", "front"]);
    serve(&invar, "web", &["--network", "front", "-p", "8080:80"]);
    let init = pid(&invar, "web");
    let shim: u32 = support::process_field(init, "PPid").parse().unwrap();
    signal(shim, "KILL");
    let shim = i32::try_from(shim).unwrap();
    eventually("the shim is gone", || {
        (!support::is_alive(shim)).then_some(())
    });
    assert_eq!(status(&invar, "web"), "exited");
    assert!(!rules().contains("8080"), "{}", rules());
    assert_eq!(networks(&invar)[0]["containers"], serde_json::json!([]));
    eventually("the cable is gone", || {
        (!ip(&["link"]).contains("veth")).then_some(())
    });
    TcpListener::bind("0.0.0.0:8080").unwrap();
    invar.run(&["start", "web"]);
    eventually("it serves again", || get("127.0.0.1:8080"));
    invar.run(&["rm", "-f", "web"]);
    invar.run(&["network", "rm", "front"]);
    assert_eq!(nft(&["list", "tables"]), "");
    assert!(!ip(&["link"]).contains("invar-"), "{}", ip(&["link"]));
}

#[test]
fn a_killed_command_leaves_nothing_that_the_next_one_does_not_clean() {
    let invar = alone();
    for delay in 0..12 {
        let name = format!("c{delay}");
        let port = format!("{}:80", 9000 + delay);
        let run = [
            "run",
            "-d",
            "--name",
            &name,
            "--network",
            "bridge",
            "-p",
            &port,
        ];
        let mut command = invar.command(&[&run[..], &["busybox", "sleep", "1000"]].concat());
        let mut command = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        // Not a wait for anything: each round is to be cut off somewhere else.
        std::thread::sleep(Duration::from_millis(delay * 12));
        command.kill().unwrap();
        command.wait().unwrap();
    }
    // What had come far enough runs; of everything else nothing is left.
    eventually("ports and addresses are those of what runs", || {
        let all = invar.run(&["ps", "--format", "jsonl"]);
        let running: BTreeSet<String> = all
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|one| one["endpoints"][0]["ports"][0]["host"].to_string())
            .collect();
        let places: usize = networks(&invar)
            .iter()
            .map(|network| network["containers"].as_array().unwrap().len())
            .sum();
        let rules = rules();
        let passed_on: BTreeSet<String> = (9000..9012)
            .map(|port| port.to_string())
            .filter(|port| rules.contains(&format!("tcp . {port} :")))
            .collect();
        (passed_on == running && places == running.len()).then_some(())
    });
}

#[test]
fn no_handle_of_the_host_s_network_passes_into_a_container() {
    let invar = alone();
    let flags = ["--network", "bridge", "-p", "8080:80", "-p", "9999:99/udp"];
    let handles = shell(
        &invar,
        &flags,
        "ls -l /proc/self/fd | grep -e socket -e net: ; true",
    );
    assert_eq!(handles, "");
}

#[test]
fn a_network_comes_back_after_the_machine_was_started_anew() {
    let invar = alone();
    invar.run(&["network", "create", "front", "--ipv6"]);
    serve(&invar, "web", &["--network", "front", "-p", "8080:80"]);
    let bridge = networks(&invar)[0]["bridge"].as_str().unwrap().to_owned();
    let before = address(&invar, "web");
    invar.run(&["kill", "web"]);
    invar.run(&["wait", "web"]);
    // What such a start takes: links, rules, settings, processes.
    ip(&["link", "del", &bridge]);
    nft(&["flush", "ruleset"]);
    fs_err::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    invar.run(&["start", "web"]);
    eventually("it serves again", || get("127.0.0.1:8080"));
    assert_eq!(
        address(&invar, "web"),
        before,
        "a container keeps its address while nobody else has it"
    );
    assert_eq!(shell(&invar, &["--network", "front"], &fetch("web")), "web");
}

#[test]
fn tables_of_others_are_never_touched() {
    let invar = alone();
    nft(&[
        "add table inet filter; add chain inet filter input { type filter hook input priority 0; }; \
           add rule inet filter input tcp dport 22 accept; add table ip invar; add table inet other",
    ]);
    let theirs = rules();
    serve(&invar, "web", &["--network", "bridge", "-p", "8080:80"]);
    assert!(rules().starts_with(&theirs), "{}", rules());
    invar.run(&["rm", "-f", "web"]);
    invar.run(&["network", "prune"]);
    assert_eq!(rules(), theirs);
}

#[test]
fn a_host_firewall_still_decides_about_published_ports_and_is_named() {
    let invar = alone();
    let neighbour = Neighbour::connect();
    serve(&invar, "web", &["--network", "bridge", "-p", "8080:80"]);
    let reached = || neighbour.inside(|| get(&format!("{HERE}:8080")));
    assert!(reached().is_some());
    nft(
        &["add table inet firewall; add chain inet firewall forward \
           { type filter hook forward priority 10; policy drop; }"],
    );
    assert_eq!(reached(), None);
    let create = [
        "create",
        "--network",
        "bridge",
        "-p",
        "81:80",
        "busybox",
        "true",
    ];
    let (code, _, said) = outcome(&invar, &create);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("inet firewall forward"), "{said}");
    let hint = said
        .lines()
        .find_map(|line| line.strip_prefix("hint: let the bridges pass: "));
    invar_testkit::checked(Command::new("sh").args(["-c", hint.unwrap()]));
    assert_eq!(reached().as_deref(), Some("web"));
    let (code, _, said) = outcome(&invar, &create);
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn a_storm_of_queries_of_one_container_leaves_the_others_their_answers() {
    let invar = alone();
    invar.run(&["network", "create", "front"]);
    serve(&invar, "web", &["--network", "front"]);
    let flood = "while :; do for i in 1 2 3 4 5 6 7 8; do nslookup $RANDOM.test & done; wait; done";
    let run = [
        "run",
        "-d",
        "--network",
        "front",
        "--name",
        "loud",
        "busybox",
        "sh",
        "-c",
    ];
    invar.run(&[&run[..], &[&format!("({flood}) >/dev/null 2>&1")]].concat());
    for _ in 0..5 {
        assert_eq!(shell(&invar, &["--network", "front"], &fetch("web")), "web");
    }
    let resolver = resolver(&invar);
    let memory: u64 = support::process_field(resolver, "RssAnon")
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(memory < 32 << 10, "the resolver has {memory} kB");
    // Killed in the middle of it, it is started again by whoever looks.
    signal(u32::try_from(resolver).unwrap(), "KILL");
    invar.run(&["ps"]);
    assert_eq!(shell(&invar, &["--network", "front"], &fetch("web")), "web");
    invar.run(&["rm", "-f", "loud", "web"]);
    eventually("the resolver ends after the last container", || {
        find_resolver(&invar).is_none().then_some(())
    });
}

/// The resolver of the test's only network.
fn resolver(invar: &Invar) -> i32 {
    eventually("a resolver runs", || find_resolver(invar))
}

fn find_resolver(invar: &Invar) -> Option<i32> {
    let root = invar.root().to_str().unwrap();
    let processes = fs_err::read_dir("/proc").unwrap();
    processes.flatten().find_map(|process| {
        let line = fs_err::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let is_ours = line.contains("\0resolver\0") && line.contains(root);
        is_ours.then(|| process.file_name().to_str()?.parse().ok())?
    })
}

#[test]
fn a_container_can_share_the_network_of_another() {
    let invar = alone();
    serve(
        &invar,
        "web",
        &["--network", "bridge", "--add-host", "db:192.0.2.9"],
    );
    let shared = ["--network", "container:web"];
    assert_eq!(shell(&invar, &shared, &fetch("127.0.0.1")), "web");
    let hosts = invar.run(&["exec", "web", "cat", "/etc/hosts"]);
    assert_eq!(shell(&invar, &shared, "cat /etc/hosts"), hosts);
    assert!(hosts.contains("192.0.2.9\tdb"), "{hosts}");
    invar.run(&["stop", "-t", "0", "web"]);
    let run = [
        "run",
        "--rm",
        "--network",
        "container:web",
        "busybox",
        "true",
    ];
    let (code, _, said) = outcome(&invar, &run);
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("must be running"), "{said}");
}

#[test]
fn what_a_container_is_told_of_names_follows_its_flags() {
    let invar = alone();
    let flags = [
        "--network",
        "bridge",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "a.test",
        "--add-host",
        "box:host-gateway",
        "--hostname",
        "me",
    ];
    let seen = shell(&invar, &flags, "cat /etc/resolv.conf /etc/hosts; hostname");
    let gateway = networks(&invar)[0]["gateway"].as_str().unwrap().to_owned();
    for line in [
        "nameserver 192.0.2.53",
        "search a.test",
        &format!("{gateway}\tbox"),
    ] {
        assert!(
            seen.lines().any(|seen| seen == line),
            "{line:?} is missing in {seen}"
        );
    }
    assert!(seen.contains("\tme\n") && seen.ends_with("\nme"), "{seen}");
}

#[test]
fn networks_are_made_listed_and_removed_with_dockers_words() {
    let invar = alone();
    let id = invar.run(&[
        "network",
        "create",
        "--subnet",
        "10.5.0.0/24",
        "--subnet",
        "fd00:5::/64",
        "--label",
        "a=b",
        "lab",
    ]);
    let shown: Value = serde_json::from_str(&invar.run(&["network", "inspect", &id[..6]])).unwrap();
    assert_eq!(shown[0]["Name"], "lab");
    assert_eq!(shown[0]["IPAM"]["Config"][0]["Gateway"], "10.5.0.1");
    assert_eq!(shown[0]["IPAM"]["Config"][1]["Subnet"], "fd00:5::/64");
    assert_eq!(shown[0]["Labels"]["a"], "b");
    let wrong: &[(&[&str], &str)] = &[
        (&["create", "lab"], "has it"),
        (&["create", "bridge"], "meaning of its own"),
        (&["create", "a/b"], "not a valid name"),
        (
            &["create", "--subnet", "10.5.0.128/25", "x"],
            "overlaps 10.5.0.0/24",
        ),
        (
            &["create", "--subnet", "127.0.0.0/8", "x"],
            "not for networks",
        ),
        (
            &[
                "create",
                "--subnet",
                "10.0.0.0/24",
                "--subnet",
                "10.0.1.0/24",
                "x",
            ],
            "one range",
        ),
        (&["rm", "nope"], "no network named"),
        (&["inspect", "nope"], "no network named"),
    ];
    for (args, expected) in wrong {
        let (code, _, said) = outcome(&invar, &[&["network"], *args].concat());
        assert_ne!(code, Some(0), "{args:?}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    let (code, _, said) = outcome(&invar, &["run", "--network", "nope", "busybox", "true"]);
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("invar network ls"), "{said}");
    assert_eq!(invar.run(&["network", "rm", "lab"]), "lab");
    assert_eq!(invar.run(&["network", "ls", "-q"]), "");
}

#[test]
fn a_host_without_nft_is_told_what_to_install() {
    let invar = alone();
    let hidden = |args: &[&str]| {
        let mut command = Command::new(invar_testkit::require("unshare", "util-linux"));
        let nft = invar_testkit::require("nft", "nftables");
        let script = format!("mount --bind /dev/null {} && exec \"$@\"", nft.display());
        let line = invar.command(args);
        command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(line.get_program());
        command
            .args(line.get_args())
            .env("INVAR_ROOT", invar.root());
        support::outcome_of(&command.output().unwrap())
    };
    let (code, out, said) = hidden(&["run", "--rm", "busybox", "sh", "-c", "echo ran"]);
    assert_eq!((code, out.as_str()), (Some(0), "ran"), "{said}");
    assert!(
        said.contains("has no network") && said.contains("nftables"),
        "{said}"
    );
    for flags in [["--network", "bridge"], ["-p", "80:80"]] {
        let run = [&["run", "--rm"][..], &flags, &["busybox", "true"]].concat();
        let (code, _, said) = hidden(&run);
        assert_eq!(code, Some(125), "{said}");
        assert!(said.contains("install the package nftables"), "{said}");
    }
}
