//! `invar diff` on containers of Docker, Podman and Invar itself.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::process::{Command, Output};

use fs_err as fs;
use invar_testkit::docker::PrivateDocker;
use invar_testkit::invar::Invar;
use invar_testkit::podman::{self, PrivatePodman};
use invar_testkit::{eventually, rootfs};
use serde_json::Value;
use support::{busybox, empty, outcome_of, text};

/// What an intruder does, with a mark when all of it is done.
const ATTACK: &str = "
echo 'evil:x:0:0::/:/bin/sh' >>/etc/passwd
cp /bin/busybox /tmp/.x
echo 'pool=stratum+tcp://203.0.113.1:3333' >/tmp/config
mv /www/index.html /www/old.html
echo '<h1>defaced</h1>' >/www/index.html
cp /bin/busybox /dev/shm/loader
echo data >/data/file
touch /tmp/done
sleep 1000";

/// A container engine and the environment in which invar finds it.
struct Peer {
    invar: Invar,
    variable: &'static str,
    host: String,
}

impl Peer {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.invar.command(args);
        command.env(self.variable, &self.host);
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The standard output of a command that must succeed.
    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(args)).unwrap()
    }
}

fn docker(args: &[&str]) -> (PrivateDocker, Peer) {
    let docker = PrivateDocker::start_with(args);
    docker.import(&rootfs::busybox_tar(), "busybox");
    let peer = Peer {
        invar: empty(),
        variable: "DOCKER_HOST",
        host: docker.host(),
    };
    (docker, peer)
}

fn attacked(docker: &PrivateDocker, name: &str) {
    docker.run(&[
        "run",
        "-d",
        "--name",
        name,
        "--network=none",
        "-v",
        "/data",
        "busybox",
        "/bin/sh",
        "-c",
        ATTACK,
    ]);
    eventually("the attack is over", || {
        docker
            .run(&["diff", name])
            .contains("A /tmp/done")
            .then_some(())
    });
}

fn change<'a>(document: &'a Value, path: &str) -> &'a Value {
    let changes = document["changes"].as_array().unwrap();
    changes
        .iter()
        .find(|change| change["path"] == path)
        .unwrap()
}

#[test]
fn a_responder_sees_what_was_done_to_a_container_of_docker() {
    let (docker, peer) = docker(&[]);
    attacked(&docker, "web");

    // The same as docker says, in order.
    let mut said: Vec<String> = docker
        .run(&["diff", "web"])
        .lines()
        .map(str::to_owned)
        .collect();
    said.sort();
    let shown = peer.run(&["diff", "--format=docker", "docker:web"]);
    let mut lines: Vec<String> = shown.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, said);

    let document = peer.json(&[
        "diff",
        "--format=json",
        "--content",
        "--detail",
        "docker:web",
    ]);
    assert_eq!(document["version"], 1);
    assert_eq!(document["source"]["kind"], "overlay");
    for (path, severity, rule, how) in [
        ("/etc/passwd", "critical", "accounts", "edited"),
        ("/tmp/.x", "high", "program-in-tmp", "new"),
        ("/tmp/config", "critical", "miner", "new"),
        ("/www/old.html", "medium", "web-page", "renamed"),
        ("/www/index.html", "medium", "web-page", "replaced"),
    ] {
        let change = change(&document, path);
        assert_eq!(change["severity"], severity, "{path}");
        assert_eq!(change["finding"]["rule"], rule, "{path}");
        assert_eq!(change["detail"]["how"], how, "{path}");
    }
    let renamed = change(&document, "/www/old.html");
    assert_eq!(renamed["detail"]["from"], "/www/index.html");
    let replaced = change(&document, "/www/index.html");
    assert_eq!(
        replaced["detail"]["old"]["sha256"],
        renamed["detail"]["new"]["sha256"]
    );

    let patch = peer.run(&["diff", "--patch", "docker:web", "/etc/passwd"]);
    assert!(patch.contains("    +evil:x:0:0::/:/bin/sh"), "{patch}");
    assert!(
        patch.starts_with(
            "C /etc/passwd  critical: user accounts and passwords (accounts, T1136.001)"
        )
    );

    let mounted = peer.run(&["diff", "--volumes", "--tmpfs", "docker:web"]);
    assert!(
        mounted.contains("\n  /dev/shm/loader  high: a program dropped in a temporary directory")
            && mounted.contains("\nvolume at /data: 1 file\n  /data/file"),
        "{mounted}"
    );
}

#[test]
fn filters_and_exit_code_let_a_script_ask_one_question() {
    let (docker, peer) = docker(&[]);
    attacked(&docker, "web");
    let ask = |args: &[&str]| {
        let args = [
            &["diff", "--exit-code", "--format=docker"],
            args,
            &["docker:web"],
        ]
        .concat();
        outcome_of(&peer.output(&args))
    };
    let (code, shown, _) = ask(&["--min-severity=critical"]);
    assert_eq!((code, shown.as_str()), (Some(3), "C /etc/passwd"));
    let (code, shown, _) = ask(&["--min-severity=critical", "--exclude=/etc"]);
    assert_eq!((code, shown.as_str()), (Some(0), ""));
    // A volume's file counts when a severity was asked for.
    let (code, _, _) = ask(&[
        "--min-severity=high",
        "--exclude=/etc",
        "--exclude=/tmp",
        "--tmpfs",
    ]);
    assert_eq!(code, Some(3));
    let paths = peer.run(&[
        "diff",
        "--format=docker",
        "docker:web",
        "/etc",
        "/www/*.html",
    ]);
    assert_eq!(
        paths,
        "C /etc\nC /etc/passwd\nC /www/index.html\nA /www/old.html"
    );

    for (wrong, told) in [
        ("etc", "begins with /"),
        ("/a**", "** stands for whole names"),
    ] {
        let (code, _, error) = outcome_of(&peer.output(&["diff", "docker:web", wrong]));
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn own_rules_count_and_their_mistakes_are_told_with_file_and_line() {
    let (docker, peer) = docker(&[]);
    attacked(&docker, "web");
    let rules = peer.invar.root().join("rules");
    fs::create_dir(&rules).unwrap();
    let file = rules.join("site.toml");
    let rule = "version = 1\n[[rule]]\nname = \"defaced\"\nseverity = \"critical\"\n\
                text = \"the front page\"\npath = [\"/www/index.html\"]\n";
    fs::write(&file, rule).unwrap();
    for given in [&file, &rules] {
        let shown = peer.run(&[
            "diff",
            "--rules",
            given.to_str().unwrap(),
            "docker:web",
            "/www",
        ]);
        assert!(
            shown.contains("C /www/index.html  critical: the front page (defaced)"),
            "{shown}"
        );
    }
    fs::write(&file, rule.replace("critical", "dire")).unwrap();
    let output = peer.output(&["diff", "--rules", file.to_str().unwrap(), "docker:web"]);
    let (code, _, error) = outcome_of(&output);
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&format!("{}:4: unknown variant `dire`", file.display())),
        "{error}"
    );
}

#[test]
fn without_an_overlay_the_engines_own_list_is_shown_and_its_loss_is_named() {
    let (docker, peer) = docker(&["--storage-driver=vfs"]);
    docker.run(&[
        "run",
        "--name",
        "web",
        "--network=none",
        "busybox",
        "/bin/sh",
        "-c",
        "echo x >>/etc/passwd; rm /www/index.html",
    ]);
    let (code, shown, error) = outcome_of(&peer.output(&["diff", "docker:web"]));
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(
        shown,
        "C /etc\nC /etc/passwd  critical: user accounts and passwords (accounts, T1136.001)\n\
         C /www\nD /www/index.html"
    );
    assert!(
        error.contains("the engine's own list") && error.contains("vfs"),
        "{error}"
    );
    let document = peer.json(&["diff", "--format=json", "docker:web"]);
    assert_eq!(document["source"]["kind"], "engine");
    assert!(
        document["source"]["lost"]
            .as_str()
            .unwrap()
            .contains("edits that keep size")
    );
}

#[test]
fn a_container_of_podman_is_compared_as_one_of_docker() {
    let mut podman = PrivatePodman::new();
    podman.import(&rootfs::busybox_tar(), "busybox");
    let peer = Peer {
        invar: empty(),
        variable: "CONTAINER_HOST",
        host: podman.serve(),
    };
    let run = [
        &["run", "-d", "--name=web"],
        &podman::RUN[..],
        &["-v", "/data", "busybox"],
    ]
    .concat();
    podman.run(&[&run[..], &["/bin/sh", "-c", ATTACK]].concat());
    eventually("the attack is over", || {
        let shown = peer.run(&["diff", "--format=docker", "podman:web"]);
        shown.contains("A /tmp/done").then_some(())
    });
    let shown = peer.run(&[
        "diff",
        "--content",
        "--detail",
        "--volumes",
        "--tmpfs",
        "podman:web",
    ]);
    for told in [
        "C /etc/passwd  critical: ",
        "A /tmp/config  critical: ",
        "    was /www/index.html",
        "  /dev/shm/loader  high: ",
        "volume at /data: 1 file",
    ] {
        assert!(shown.contains(told), "{told}\n{shown}");
    }
}

#[test]
fn a_container_of_invar_is_compared_running_and_stopped_and_read_only() {
    let invar = busybox();
    let script = ATTACK.replace("sleep 1000", "");
    let flags = [
        "run",
        "--name=lab",
        "--writable",
        "--tmpfs=/data",
        "busybox",
        "sh",
        "-c",
    ];
    invar.run(&[&flags[..], &[&script]].concat());
    let shown = invar.run(&["diff", "--content", "--detail", "lab"]);
    for told in [
        "C /etc/passwd  critical: ",
        "C /www/index.html  medium: ",
        "A /www/old.html",
    ] {
        assert!(shown.contains(told), "{told}\n{shown}");
    }
    let output = invar.output(&["diff", "--tmpfs", "lab"]);
    assert!(
        text(&output.stderr).contains("lab is not running"),
        "{}",
        text(&output.stderr)
    );

    invar.run(&["run", "--name=sealed", "busybox", "true"]);
    let (code, shown, error) = outcome_of(&invar.output(&["diff", "--exit-code", "sealed"]));
    assert_eq!((code, shown.as_str()), (Some(0), ""));
    assert!(error.contains("sealed is read-only"), "{error}");
}

#[test]
fn a_line_of_json_is_one_change() {
    let (docker, peer) = docker(&[]);
    attacked(&docker, "web");
    let lines = peer.run(&["diff", "--format=jsonl", "--volumes", "docker:web"]);
    let values: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        values
            .iter()
            .any(|value| value["path"] == "/etc/passwd" && value["actual"] == "C")
    );
    assert!(
        values
            .iter()
            .any(|value| value["path"] == "/data/file" && value["mount"] == "/data")
    );
}
