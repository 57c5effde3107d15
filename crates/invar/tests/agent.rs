//! The agent as a process: what it sees, decides and does, on the embedded engine and on Docker.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use fs_err as fs;
use invar_testkit::docker::PrivateDocker;
use invar_testkit::{eventually, rootfs};
use serde_json::{Value, json};
use support::agent::{DROP_A_PROGRAM, Running, seal, watched};
use support::attacked::Host;
use support::outcome_of;

fn incidents(host: &Host) -> Vec<Value> {
    let found = host.json(&["agent", "incidents"]);
    found.as_array().unwrap().clone()
}

const REPLACE: &str = "version = 1\n[default]\nmode = \"block\"\nrespond = \"replace\"\n";

fn a_dropped_program_is_refused_and_its_container_replaced(host: &Host) {
    host.start("web", &[], "sleep 100000");
    let old = host.id("web");
    let agent = Running::start(host, REPLACE);
    seal(host, "web");
    host.exec("web", &format!("{DROP_A_PROGRAM} || true"));
    let told = agent.alert("the incident", |alert| alert["kind"] == "incident");
    assert_eq!(told["event"]["container"]["id"], json!(old));
    let done = agent.alert("the response", |alert| alert["kind"] == "response");
    assert!(
        done["text"].as_str().unwrap().contains("replaced by"),
        "{done}"
    );
    let new = host.id("web");
    assert_ne!(new, old);
    assert_eq!(host.status("web"), "running");
    assert_eq!(host.status(&old), "gone");
    let fresh = host.exec("web", "ls /tmp");
    assert!(!fresh.contains("evil"), "{fresh}");

    let evidence = done["evidence"].as_str().unwrap();
    let (code, _, err) = outcome_of(&host.output(&["evidence", "verify", evidence]));
    assert_eq!(code, Some(0), "{err}");
    let witness = fs::read_to_string(host.evidence(evidence).join("witness.jsonl")).unwrap();
    let seen: Vec<Value> = witness
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(seen[0]["format"], "invar-witness");
    let evil = seen
        .iter()
        .find(|line| line["path"] == "/tmp/evil")
        .unwrap();
    assert_eq!(evil["sureness"], "seen-live");
    // The fresh container is watched as the old one was, and one incident was enough.
    eventually("the fresh one is watched", || {
        watched(host, "web").filter(|watched| watched["id"] == json!(new))
    });
    assert_eq!(incidents(host).len(), 1);
    assert!(agent.ends());
}

#[test]
fn a_dropped_program_is_refused_and_its_embedded_container_replaced() {
    a_dropped_program_is_refused_and_its_container_replaced(&Host::embedded());
}

#[test]
fn a_dropped_program_is_refused_and_its_docker_container_replaced() {
    a_dropped_program_is_refused_and_its_container_replaced(&Host::docker());
}

#[test]
fn a_dropped_program_is_refused_and_its_podman_container_replaced() {
    a_dropped_program_is_refused_and_its_container_replaced(&Host::podman());
}

#[test]
fn what_happens_before_a_container_is_sealed_is_no_drift() {
    let host = Host::embedded();
    let policy = "version = 1\n[alerts]\nseverity = \"critical\"\n[default]\nseverity = \"info\"\nseal = \"command\"\n";
    let agent = Running::start(&host, policy);
    host.start(
        "web",
        &[],
        "echo early > /etc/early; until [ -e /tmp/go ]; do sleep 0.05; done; sleep 100000",
    );
    eventually("it is watched", || watched(&host, "web"));
    host.exec("web", "echo x > /etc/still-early");
    eventually("it is counted", || {
        watched(&host, "web").filter(|web| web["events"].as_u64() > Some(0))
    });
    assert_eq!(incidents(&host), Vec::<Value>::new());
    host.run(&["agent", "seal", "web"]);
    host.exec("web", "echo x > /etc/late");
    agent.alert("the late one", |alert| {
        alert["kind"] == "incident" && alert["event"]["path"] == "/etc/late"
    });
}

#[test]
fn what_the_policy_expects_is_nothing_and_labels_are_heeded() {
    let host = Host::embedded();
    let policy = "version = 1\n[default]\nallow = [\"/etc/cron.d/**\", \
                  { path = \"/root/.ssh/**\", program = \"/bin/busybox\" }]\n";
    let agent = Running::start(&host, policy);
    let allow = "invar.allow=/etc/sudoers.d/** /x";
    let labels = ["--label", allow, "--label", "invar.drift=capture"];
    host.start("web", &labels, "sleep 100000");
    seal(&host, "web");
    assert_eq!(watched(&host, "web").unwrap()["respond"], "capture");
    host.exec(
        "web",
        "mkdir -p /etc/cron.d /root/.ssh /etc/sudoers.d; echo 1 > /etc/cron.d/x; \
         echo 1 > /root/.ssh/authorized_keys; echo 1 > /etc/sudoers.d/x; sleep 1",
    );
    host.exec("web", "echo 1 > /etc/ld.so.preload");
    let first = agent.alert("the unexpected", |alert| alert["kind"] == "incident");
    assert_eq!(first["event"]["path"], "/etc/ld.so.preload", "{first}");
    let done = agent.alert("the capture", |alert| alert["kind"] == "response");
    let (code, _, err) =
        outcome_of(&host.output(&["evidence", "verify", done["evidence"].as_str().unwrap()]));
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(host.status("web"), "running");
}

#[test]
fn a_service_that_is_attacked_again_and_again_is_frozen_in_the_end() {
    let host = Host::embedded();
    let policy =
        format!("{REPLACE}cooldown = {{ most = 1, within = \"10m\", then = \"freeze\" }}\n");
    // It attacks itself: as built, it is vulnerable.
    host.start(
        "web",
        &[],
        &format!("sleep 1; {DROP_A_PROGRAM}; sleep 100000"),
    );
    let agent = Running::start(&host, &policy);
    let told = agent.alert("it gives up", |alert| {
        alert["kind"] == "agent"
            && alert["text"]
                .as_str()
                .unwrap()
                .contains("attacked again after 1 replacements")
    });
    assert_eq!(told["severity"], "critical");
    eventually("it is frozen", || {
        (host.status("web") == "paused").then_some(())
    });
    let responds: Vec<_> = incidents(&host)
        .iter()
        .map(|one| one["respond"].clone())
        .collect();
    assert_eq!(responds, [json!("freeze"), json!("replace")]);
    host.run(&["agent", "release", "web"]);
    assert_eq!(host.status("web"), "running");
}

#[test]
fn a_response_that_was_killed_is_finished_by_the_next_agent() {
    for step in ["replacing", "replaced"] {
        let host = Host::embedded();
        host.start("web", &[], "sleep 100000");
        let old = host.id("web");
        let mut agent = Running::start_with(&host, REPLACE, &[("INVAR_AGENT_KILL_AT", step)]);
        seal(&host, "web");
        host.output(&["exec", "web", "sh", "-c", DROP_A_PROGRAM]);
        eventually("the agent is killed", || agent.child.try_wait().unwrap());
        let left = Running::start(&host, REPLACE);
        let done = left.alert("the response", |alert| alert["kind"] == "response");
        assert!(
            done["text"].as_str().unwrap().contains("replaced by"),
            "{step}: {done}"
        );
        assert_ne!(host.id("web"), old, "{step}");
        assert_eq!(host.status("web"), "running", "{step}");
        assert_eq!(host.names(), ["web"], "{step}");
        let (code, _, err) =
            outcome_of(&host.output(&["evidence", "verify", done["evidence"].as_str().unwrap()]));
        assert_eq!(code, Some(0), "{step}: {err}");
        drop(agent);
    }
}

#[test]
fn a_second_agent_is_refused_and_a_killed_one_leaves_nothing_in_the_way() {
    let host = Host::embedded();
    let agent = Running::start(&host, "version = 1\n");
    let (code, _, err) = outcome_of(&host.output(&["agent"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("an agent runs already"), "{err}");
    drop(agent);
    let agent = Running::start(&host, "version = 1\n");
    assert!(agent.ends());
    let (code, _, err) = outcome_of(&host.output(&["agent", "status"]));
    assert_eq!(code, Some(1));
    assert!(
        err.contains("no agent answers") && err.contains("invar agent"),
        "{err}"
    );
}

#[test]
fn a_policy_that_is_not_good_is_named_with_its_line_and_leaves_the_old_one_in_force() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let agent = Running::start(&host, "version = 1\n[default]\nmode = \"block\"\n");
    let file = host.invar().root().join("agent.toml");
    fs::write(&file, "version = 1\n[default]\nmode = \"loud\"\n").unwrap();
    let (code, _, err) = outcome_of(&host.output(&["agent", "check", file.to_str().unwrap()]));
    assert_eq!(code, Some(1));
    assert!(
        err.contains("agent.toml:3: unknown variant `loud`"),
        "{err}"
    );
    support::signal(agent.child.id(), "HUP");
    agent.alert("the problem", |alert| {
        alert["kind"] == "agent"
            && alert["text"]
                .as_str()
                .unwrap()
                .contains("the policy stays as it was")
    });
    eventually("it is watched", || watched(&host, "web"));
    assert_eq!(watched(&host, "web").unwrap()["mode"], "block");
    let status = host.json(&["agent", "status"]);
    assert!(
        status["policy_problem"].as_str().unwrap().contains(":3:"),
        "{status}"
    );

    fs::write(&file, "version = 1\n[default]\nmode = \"observe\"\n").unwrap();
    host.run(&["agent", "reload"]);
    eventually("the new one is in force", || {
        watched(&host, "web").filter(|web| web["mode"] == "observe")
    });
    assert_eq!(
        host.json(&["agent", "status"])["policy_problem"],
        Value::Null
    );
}

/// Answers posts: first with what was asked for, then with 200; what was posted.
fn webhook(refusals: usize) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let taken = Arc::new(Mutex::new(Vec::new()));
    let posted = Arc::clone(&taken);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let status = if number < refusals {
                "503 Busy"
            } else {
                "200 OK"
            };
            if number >= refusals {
                taken
                    .lock()
                    .unwrap()
                    .push(serde_json::from_slice(&body).unwrap());
            }
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            .unwrap();
        }
    });
    (url, posted)
}

#[test]
fn a_webhook_that_refuses_gets_its_alert_later_also_from_the_next_agent() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let (url, posted) = webhook(2);
    let policy =
        format!("version = 1\n[default]\nmode = \"block\"\n[[alerts.webhook]]\nurl = \"{url}\"\n");
    let agent = Running::start(&host, &policy);
    seal(&host, "web");
    host.output(&["exec", "web", "sh", "-c", DROP_A_PROGRAM]);
    agent.alert("the incident", |alert| alert["kind"] == "incident");
    drop(agent);
    let _agent = Running::start(&host, &policy);
    let alert = eventually("it is posted", || posted.lock().unwrap().first().cloned());
    assert!(
        alert["text"].as_str().unwrap().contains("embedded:web"),
        "{alert}"
    );
    assert_eq!(alert["alert"]["format"], "invar-alert");
    eventually("nothing waits", || {
        let status = host.json(&["agent", "status"]);
        (status["alerts"]["waiting"] == 0).then_some(())
    });
}

#[test]
fn metrics_are_served_and_say_what_was_refused() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let policy = format!(
        "version = 1\n[agent]\nmetrics = \"127.0.0.1:{port}\"\n[default]\nmode = \"block\"\n"
    );
    let agent = Running::start(&host, &policy);
    seal(&host, "web");
    host.output(&["exec", "web", "sh", "-c", DROP_A_PROGRAM]);
    agent.alert("the incident", |alert| alert["kind"] == "incident");
    let text = eventually("it is counted", || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let blocked = text
            .lines()
            .find(|line| line.starts_with("invar_agent_blocked_total "))?;
        (!blocked.ends_with(" 0")).then_some(text.clone())
    });
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    assert!(
        text.contains("invar_agent_containers{mode=\"block\",phase=\"sealed\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("invar_agent_incidents_total{respond=\"alert\"} 1"),
        "{text}"
    );
}

#[test]
fn who_changed_a_path_is_said_with_how_sure_that_is() {
    let host = Host::embedded();
    host.start("web", &[], "echo x > /etc/before; sleep 100000");
    eventually("it has written", || {
        host.upper("web").join("etc/before").exists().then_some(())
    });
    let table = host.run(&["diff", "--who", "web"]);
    assert!(table.contains("unknown (not watched)"), "{table}");
    let _agent = Running::start(&host, "version = 1\n");
    eventually("it is watched", || watched(&host, "web"));
    host.exec("web", "echo x > /etc/after; sleep 0.2");
    let who = eventually("it is seen", || {
        let found = host.json(&["diff", "--who", "web"]);
        let of = |path: &str| {
            let changes = found["changes"].as_array().unwrap();
            changes
                .iter()
                .find(|change| change["path"] == path)
                .unwrap()["who"]
                .clone()
        };
        (of("/etc/after")["sureness"] == "seen-live").then(|| (of("/etc/before"), of("/etc/after")))
    });
    assert_eq!(who.0["sureness"], "before-the-agent");
    assert_eq!(who.1["actor"]["session"]["kind"], "exec", "{who:?}");
    assert_eq!(who.1["actor"]["uid"], 0);
}

#[test]
fn a_quarantined_container_goes_on_without_its_network_until_it_is_released() {
    let host = Host::embedded();
    host.start(
        "web",
        &["--network", "bridge"],
        "mkdir /www2; echo page > /www2/index.html; httpd -f -p 80 -h /www2",
    );
    let address = host.inspect("web", "/NetworkSettings/IPAddress");
    let address = format!("{}:80", address.as_str().unwrap());
    let reaches = || {
        let address = address.parse().unwrap();
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(500))
            .is_ok()
    };
    eventually("it serves", || reaches().then_some(()));
    let policy = "version = 1\n[default]\nmode = \"block\"\nrespond = \"quarantine\"\n";
    let agent = Running::start(&host, policy);
    seal(&host, "web");
    host.output(&["exec", "web", "sh", "-c", DROP_A_PROGRAM]);
    let done = agent.alert("the response", |alert| alert["kind"] == "response");
    assert!(
        done["text"]
            .as_str()
            .unwrap()
            .contains("cut off its network"),
        "{done}"
    );
    assert!(!reaches());
    assert_eq!(host.status("web"), "running");
    host.run(&["agent", "release", "web"]);
    eventually("it serves again", || reaches().then_some(()));
}

/// Docker ends and is started again under the agent; whether containers go on meanwhile.
fn docker_is_restarted(live_restore: bool) {
    let args: &[&str] = if live_restore {
        &["--live-restore"]
    } else {
        &[]
    };
    let docker = PrivateDocker::start_with(args);
    docker.import(&rootfs::busybox_tar(), "busybox");
    let mut host = Host::Docker(support::empty(), docker);
    host.start("web", &["--restart", "always"], "sleep 100000");
    let before = host.pid("web");
    let agent = Running::start(&host, "version = 1\n[default]\nmode = \"block\"\n");
    eventually("it is watched", || watched(&host, "web"));
    let text_has = |words: &'static str| {
        move |alert: &Value| {
            alert["text"]
                .as_str()
                .is_some_and(|text| text.contains(words))
        }
    };
    let Host::Docker(_, docker) = &mut host else {
        unreachable!("it was made so");
    };
    docker.end_daemon();
    agent.alert("it is away", text_has("docker does not answer"));
    docker.start_daemon();
    let back = agent.alert("it is back", text_has("docker answers again"));
    let back = back["text"].as_str().unwrap();
    if live_restore {
        assert!(
            back.contains("nothing that was watched has ended"),
            "{back}"
        );
        assert_eq!(host.pid("web"), before);
    } else {
        assert!(back.ends_with("not watched until now: web"), "{back}");
    }
    let init = eventually("it runs", || {
        (host.status("web") == "running").then(|| host.pid("web"))
    });
    assert_eq!(init == before, live_restore);
    eventually("what is not of the image is refused", || {
        let script =
            "mkdir -p /tmp/d; cp /bin/busybox /tmp/d; /tmp/d/busybox echo ran || echo refused";
        host.exec("web", script).contains("refused").then_some(())
    });
    let status = host.json(&["agent", "status"]);
    assert_eq!(status["engines_unreachable"], json!([]));
    assert!(agent.ends());
}

#[test]
fn docker_that_is_restarted_keeps_its_live_containers_watched() {
    docker_is_restarted(true);
}

#[test]
fn docker_that_starts_its_containers_again_has_them_watched_again() {
    docker_is_restarted(false);
}
