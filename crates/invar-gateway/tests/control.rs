//! What the control socket takes, refuses and survives.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "in tests a panic is the report, and json! makes values"
)]

mod rig;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fs_err as fs;
use rig::client::{Http, get};
use rig::upstream::Upstream;
use rig::{Gateway, eventually, free_address, service};
use serde_json::{Value, json};

fn refused(applied: &Value) -> Vec<(String, String, bool)> {
    applied["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refusal| {
            let text = |key: &str| refusal[key].as_str().unwrap().to_owned();
            (
                text("kind"),
                text("name"),
                refusal["kept_last_good"].as_bool().unwrap(),
            )
        })
        .collect()
}

#[test]
fn wrong_items_are_named_and_take_no_good_one_down() {
    let (web, api) = (Upstream::start("web"), Upstream::start("api"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free_address();
    let good = json!({
        "listeners": [{"address": address}],
        "services": [service("web", &[("r1", &[web.address])]), service("api", &[("r1", &[api.address])])],
        "routes": [{"host": "web.test", "service": "web"}, {"host": "api.test", "service": "api"}],
    });
    let gateway = Gateway::with(good.clone());
    let ask = |host: &str| {
        let mut connection = Http::connect(address).unwrap();
        connection
            .send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
            .unwrap();
        connection.reply().unwrap().text()
    };
    let mut bad = good;
    bad["services"][1]["stable"] = json!("r9");
    bad["services"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "new", "revisions": []}));
    bad["routes"][1]["service"] = json!("nowhere");
    bad["routes"].as_array_mut().unwrap().extend([
        json!({"host": "a b", "service": "web"}),
        json!({"host": "new.test", "service": "web"}),
    ]);
    bad["listeners"].as_array_mut().unwrap().extend([
        json!({"address": taken, "protocol": "tcp", "service": "nowhere"}),
        json!({"address": occupied.local_addr().unwrap()}),
    ]);
    let applied = gateway.ask(json!({"op": "apply", "config": bad}));
    let name = |text: &str| text.to_owned();
    assert_eq!(
        refused(&applied),
        [
            (name("service"), name("api"), true),
            (name("service"), name("new"), false),
            (name("route"), name("api.test/"), true),
            (name("route"), name("a b/"), false),
            (name("listener"), taken.to_string(), false),
            (
                name("listener"),
                occupied.local_addr().unwrap().to_string(),
                false
            ),
        ]
    );
    assert_eq!(
        (ask("web.test"), ask("api.test"), ask("new.test")),
        (name("web"), name("api"), name("web"))
    );
    assert_eq!(gateway.status().refused.len(), 6);
}

#[test]
fn listeners_come_and_go_without_touching_open_connections() {
    let upstream = Upstream::start("r1");
    let (first, second) = (free_address(), free_address());
    let config = |listeners: Value| {
        json!({
            "listeners": listeners,
            "services": [service("web", &[("r1", &[upstream.address])])],
            "routes": [{"host": "*", "service": "web"}],
        })
    };
    let gateway = Gateway::with(config(json!([{"address": first}])));
    let mut kept = Http::connect(first).unwrap();
    kept.get("/").unwrap();
    gateway.ask(json!({"op": "apply", "config": config(json!([{"address": second}]))}));
    assert_eq!(get(second, "/").text(), "r1");
    eventually("the first address is closed", || {
        Http::connect(first).is_err()
    });
    assert_eq!(kept.get("/").unwrap().text(), "r1");
}

#[test]
fn an_apply_without_a_word_about_traffic_leaves_it_as_it_is() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    let gateway = Gateway::start(json!([web.clone()]));
    gateway
        .client()
        .switch("web", "r2", Duration::ZERO)
        .unwrap();
    let mut same = web;
    same.as_object_mut().unwrap().remove("stable");
    let config = json!({
        "listeners": [{"address": gateway.address}],
        "services": [same],
        "routes": [{"host": "*", "service": "web"}],
    });
    gateway.ask(json!({"op": "apply", "config": config}));
    assert_eq!(get(gateway.address, "/").text(), "r2");
}

#[test]
fn revisions_are_added_warm_and_forgotten_when_they_have_no_traffic() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let gateway = Gateway::start(json!([service("web", &[("r1", &[one.address])])]));
    gateway.ask(
        json!({"op": "revision", "service": "web", "revision": "r2", "endpoints": [two.address]}),
    );
    assert_eq!(get(gateway.address, "/").text(), "r1");
    gateway
        .client()
        .switch("web", "r2", Duration::ZERO)
        .unwrap();
    let forget = |revision: &str| {
        let request = json!({"op": "forget", "service": "web", "revision": revision});
        gateway
            .client()
            .ask::<Value>(&serde_json::from_value(request).unwrap())
    };
    assert!(
        forget("r2")
            .unwrap_err()
            .to_string()
            .contains("has traffic")
    );
    forget("r1").unwrap();
    assert!(
        !gateway.status().services["web"]
            .revisions
            .contains_key("r1")
    );
    assert_eq!(get(gateway.address, "/").text(), "r2");
}

#[test]
fn the_control_socket_is_for_its_owner_and_survives_nonsense() {
    let gateway = Gateway::start(json!([service("web", &[("r1", &[free_address()])])]));
    let mode = fs::metadata(gateway.control())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let state = fs::metadata(gateway.directory.path().join("state")).unwrap();
    assert_eq!(state.permissions().mode() & 0o777, 0o700);
    let mut stream = UnixStream::connect(gateway.control()).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    for (line, expected) in [
        ("nonsense", "expected ident"),
        ("{}", "missing field `op`"),
        (r#"{"op":"dance"}"#, "unknown variant"),
        (r#"{"op":"taken"}"#, "nothing was handed over"),
        (
            r#"{"op":"switch","service":"x","to":"y"}"#,
            "no service named",
        ),
        (
            r#"{"op":"renew","service":"web","more":1}"#,
            "unknown field",
        ),
        (r#"{"op":"upgrade"}"#, "--take-over"),
        (
            r#"{"op":"canary","service":"web","canary":{"weights":{"r1":1}}}"#,
            "takes what is left",
        ),
    ] {
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["ok"], false, "{line}");
        assert!(
            answer["error"].as_str().unwrap().contains(expected),
            "{line}: {answer}"
        );
    }
    drop(stream);
    gateway.status();
}

#[test]
fn a_state_that_cannot_be_saved_does_not_stop_a_rollback() {
    let (one, two) = (Upstream::start("r1"), Upstream::start("r2"));
    let web = service("web", &[("r1", &[one.address]), ("r2", &[two.address])]);
    let gateway = Gateway::start(json!([web]));
    let state = gateway.directory.path().join("state");
    fs::rename(&state, gateway.directory.path().join("elsewhere")).unwrap();
    let switched = gateway
        .client()
        .switch("web", "r2", Duration::ZERO)
        .unwrap();
    assert!(switched.not_saved.unwrap().contains("gateway.json.new"));
    assert_eq!(get(gateway.address, "/").text(), "r2");
}
