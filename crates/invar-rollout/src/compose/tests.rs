//! Whole files.

use std::path::Path;

use fs_err as fs;
use proptest::prelude::*;

use super::*;

fn read_at(file: &Path, text: &str, profiles: &[&str]) -> Result<(Project, Vec<Warning>)> {
    let profiles: Vec<String> = profiles.iter().copied().map(str::to_owned).collect();
    let options = Options {
        name: Some("shop"),
        profiles: &profiles,
        environment: &|name| (name == "TAG").then(|| "1.4".to_owned()),
    };
    parse(file, text, &options)
}

fn read(text: &str) -> Result<(Project, Vec<Warning>)> {
    read_at(Path::new("/nowhere/compose.yaml"), text, &[])
}

const FULL: &str = r#"
name: other
services:
  web:
    image: registry.example/web:${TAG}
    command: serve --port "80 81"
    entrypoint: [/bin/app]
    environment: { A: 1, B: "${TAG:-x}", TAG: }
    ports: ["8080:80", { target: 90, published: 9090, app_protocol: grpc, host_ip: 127.0.0.1 }]
    volumes: ["./data:/data:ro", "cache:/cache", { type: tmpfs, target: /t, tmpfs: { size: 64m } }]
    read_only: true
    healthcheck: { test: [CMD, wget, -qO-, http://localhost/health], interval: 2s }
    depends_on: { db: { condition: service_healthy } }
    deploy:
      replicas: 2
      resources: { limits: { cpus: "0.5", memory: 64m, pids: 100 } }
      update_config: { order: start-first, failure_action: rollback, parallelism: 2 }
      restart_policy: { condition: on-failure, max_attempts: 3, delay: 5s }
    configs: [{ source: app, target: /etc/app.conf }]
    secrets: [token]
    x-invar:
      drift: replace
      allow: ["/var/cache/nginx/**"]
      health: /health
      rollout: { strategy: canary, steps: [1%, 10%, 50%], hold: 2m, keep: 10m, gates: [drift, errors] }
    color: red
    x-other: { a: 1 }
  db:
    image: db
    build: .
volumes: { cache: }
configs: { app: { content: "tag=${TAG}" } }
secrets: { token: { environment: TAG } }
networks: { front: }
"#;

#[test]
fn a_whole_file_is_read() {
    let (project, warnings) = read(FULL).unwrap();
    assert_eq!(project.name, "shop");
    assert_eq!(project.order().unwrap(), ["db", "web"]);
    let web = &project.services["web"];
    assert_eq!(web.image, "registry.example/web:1.4");
    assert_eq!(
        web.command.as_deref(),
        Some(&["serve", "--port", "80 81"].map(str::to_owned)[..])
    );
    let environment: Vec<_> = web
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(environment, ["A=1", "B=1.4", "TAG=1.4"]);
    assert_eq!(web.ports[0].published, 8080);
    assert_eq!(web.ports[1].protocol, PortProtocol::Http2);
    assert_eq!(
        web.volumes[0].source,
        VolumeSource::Bind("/nowhere/./data".into())
    );
    assert!(web.volumes[0].read_only);
    assert_eq!(project.volumes["cache"].name, "shop_cache");
    assert_eq!(web.depends_on[0].condition, Condition::Healthy);
    assert_eq!(web.deploy.replicas, 2);
    assert_eq!(web.deploy.memory.as_deref(), Some("64m"));
    assert_eq!(web.deploy.restart.as_deref(), Some("on-failure:3"));
    assert_eq!(web.files[0].content, b"tag=1.4");
    assert_eq!(web.files[1].target, "/run/secrets/token");
    assert!(web.files[1].is_secret);
    assert_eq!(web.invar.drift, Some(DriftPolicy::Replace));
    assert_eq!(web.invar.rollout.steps, [100, 1_000, 5_000]);
    assert_eq!(web.invar.rollout.hold.as_secs(), 120);
    assert_eq!(web.invar.rollout.gates, [Gate::Errors, Gate::Drift]);

    let mut named: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    named.sort();
    let expected = [
        ("services.db.build", "22:5"),
        ("services.web.color", "18:5"),
        ("restart_policy.delay", ""),
        ("update_config.parallelism", ""),
    ];
    assert_eq!(named.len(), expected.len(), "{named:#?}");
    for (path, _) in expected {
        assert!(
            named.iter().any(|said| said.contains(path)),
            "{path}: {named:#?}"
        );
    }
}

#[test]
fn a_restart_policy_is_read_in_either_form() {
    for (written, read_as) in [
        ("restart: always", Some("always")),
        ("restart: \"no\"", Some("no")),
        (
            "deploy: { restart_policy: { condition: on-failure, max_attempts: 3 } }",
            Some("on-failure:3"),
        ),
        ("deploy: { restart_policy: {} }", Some("always")),
        ("tty: true", None),
    ] {
        let text = format!("services:\n  web:\n    image: x\n    {written}\n");
        let (project, warnings) = read(&text).unwrap();
        let restart = project.services["web"].deploy.restart.as_deref();
        assert_eq!((restart, warnings.len()), (read_as, 0), "{written}");
    }
}

#[test]
fn of_rollback_config_what_a_pointer_cannot_do_is_named() {
    for (written, named) in [
        ("parallelism: 0", None),
        ("order: start-first", None),
        ("failure_action: pause", None),
        ("parallelism: 2", Some("parallelism")),
        ("order: stop-first", Some("order")),
        ("failure_action: continue", Some("failure_action")),
        ("delay: 5s", Some("delay")),
        ("monitor: 5s", Some("monitor")),
        ("max_failure_ratio: 0.1", Some("max_failure_ratio")),
    ] {
        let text = format!(
            "services:\n  web:\n    image: x\n    deploy: {{ rollback_config: {{ {written} }} }}\n"
        );
        let (_, warnings) = read(&text).unwrap();
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let expected = named.map(|key| format!("rollback_config.{key}: not honoured"));
        assert_eq!(said.len(), usize::from(named.is_some()), "{said:?}");
        assert!(
            said.iter()
                .zip(&expected)
                .all(|(said, key)| said.contains(key)),
            "{written}: {said:?}"
        );
    }
    for written in [
        "order: sideways",
        "failure_action: rollback",
        "parallelism: x",
    ] {
        let text = format!(
            "services:\n  web:\n    image: x\n    deploy: {{ rollback_config: {{ {written} }} }}\n"
        );
        read(&text).unwrap_err();
    }
}

/// A line of a service, and what is said of it.
const BAD: &[(&str, &str)] = &[
    (
        "ports: 80",
        "4:12: services.web.ports is a list, not \"80\"",
    ),
    ("ports: ['x:80']", "4:13: services.web.ports is a port"),
    (
        "tty: maybe",
        "4:10: services.web.tty is true or false, not \"maybe\"",
    ),
    (
        "deploy: { replicas: 0 }",
        "4:25: services.web.deploy.replicas is between 1 and 256",
    ),
    ("command: \"a 'b\"", "a single quote is not closed"),
    ("environment: [=x]", "has no name"),
    (
        "restart: often",
        "4:14: services.web.restart is no, always, unless-stopped or on-failure[:TIMES]",
    ),
    (
        "deploy: { restart_policy: { max_attempts: 3 } }",
        "max_attempts goes with condition: on-failure only",
    ),
    ("healthcheck: { test: [wget] }", "begins with CMD"),
    ("healthcheck: { test: x, interval: 5 }", "is a time such as"),
    (
        "x-invar: { drift: delete }",
        "observe, block, capture or replace",
    ),
    (
        "x-invar: { rollout: { steps: [10%, 1%] } }",
        "grows from more than 0%",
    ),
    (
        "x-invar: { rollout: { steps: [100%] } }",
        "grows from more than 0%",
    ),
    (
        "x-invar: { rollout: { strategy: blue-green, steps: [1%] } }",
        "has no steps",
    ),
    ("volumes: ['data:/x']", "not among the project's volumes"),
    ("secrets: [token]", "not among the project's secrets"),
    ("network_mode: 'container:x'", "is host, none or bridge"),
    (
        "depends_on: [db]",
        "depends on \"db\", which is not a service",
    ),
    (
        "env_file: missing.env",
        "could not read /nowhere/missing.env",
    ),
    (
        "user: ${NO:?say who}",
        "4:11: services.web.user: NO must be set: say who",
    ),
    (
        "user: [a, b]",
        "4:11: services.web.user is a single value, not a list",
    ),
    (
        "deploy: { update_config: { failure_action: continue } }",
        "write rollback or pause",
    ),
    ("extends: web", "could not read"),
    ("image: again", "4:5: \"image\" stands here a second time"),
];

#[test]
fn what_is_wrong_is_named_with_line_and_column() {
    let service = |line: &str| format!("services:\n  web:\n    image: web\n    {line}\n");
    for (line, expected) in BAD {
        let said = read(&service(line)).unwrap_err().to_string();
        assert!(said.contains(expected), "{line}: {said}");
    }
    for (text, expected) in [
        ("services: [a]", "1:11: services is a mapping, not a list"),
        ("services: { web: }", "names no image"),
        ("services: { 'a b': { image: x } }", "not a service name"),
        ("- a", "is a mapping, not a list"),
    ] {
        let said = read(text).unwrap_err().to_string();
        assert!(said.contains(expected), "{text}: {said}");
    }
}

#[test]
fn a_circle_of_services_is_named_as_a_chain() {
    let text = "services:\n  a: { image: x, depends_on: [b] }\n  b: { image: x, depends_on: [c] }\n  \
                c: { image: x, depends_on: [b] }\n";
    let said = read(text).unwrap_err().to_string();
    assert!(said.contains("in a circle: b → c → b"), "{said}");
    assert!(said.contains("compose.yaml:4:"), "{said}");
}

#[test]
fn services_of_other_profiles_are_left_out() {
    let text = "services:\n  web: { image: x }\n  debug: { image: x, profiles: [dev] }\n";
    let names = |profiles: &[&str]| {
        let (project, _) = read_at(Path::new("/nowhere/c.yaml"), text, profiles).unwrap();
        project.services.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["web"]);
    assert_eq!(names(&["dev"]), ["debug", "web"]);
}

#[test]
fn files_extend_and_include_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(".env", "IMAGE=web:2\n");
    write("web.env", "A=file\nB=file\n");
    write(
        "base/common.yaml",
        "services:\n  app:\n    image: ${IMAGE}\n    command: [a, b]\n    environment: [A=base, C=base]\n    \
         volumes: ['./d:/d']\n    depends_on: [gone]\n",
    );
    write("base/db.yaml", "services:\n  db: { image: db }\n");
    let main = "include: [base/db.yaml]\nservices:\n  web:\n    extends: { file: base/common.yaml, service: app }\n    \
                command: [c]\n    env_file: [web.env, { path: no.env, required: false }]\n    environment: { A: mine }\n  \
                web2: { extends: web, tty: true }\n";
    write("compose.yaml", main);
    let (project, warnings) = read_at(&directory.path().join("compose.yaml"), main, &[]).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(project.order().unwrap(), ["db", "web", "web2"]);
    for name in ["web", "web2"] {
        let web = &project.services[name];
        assert_eq!(web.image, "web:2");
        assert_eq!(web.command.as_deref(), Some(&["c".to_owned()][..]));
        let mut environment: Vec<_> = web
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("-")))
            .collect();
        environment.sort();
        assert_eq!(environment, ["A=mine", "B=file", "C=base"]);
        let data = directory.path().join("base/./d");
        assert_eq!(web.volumes[0].source, VolumeSource::Bind(data));
    }
    assert!(project.services["web2"].tty);
    let circle = "services:\n  a: { extends: b }\n  b: { extends: a }\n";
    write("circle.yaml", circle);
    let said = read_at(&directory.path().join("circle.yaml"), circle, &[]).unwrap_err();
    assert!(
        said.to_string().contains("extend each other in a circle"),
        "{said}"
    );
    let own = "include: [own.yaml]\nservices: {}\n";
    write("own.yaml", own);
    let said = read_at(&directory.path().join("own.yaml"), own, &[]).unwrap_err();
    assert!(said.to_string().contains("more than 64 files"), "{said}");
}

#[test]
fn a_merge_key_shares_settings() {
    let text = "x-common: &common { image: web, tty: true }\nservices:\n  a: { <<: *common }\n  \
                b: { <<: *common, tty: false }\n";
    let (project, warnings) = read(text).unwrap();
    assert!(project.services["a"].tty && !project.services["b"].tty);
    assert!(warnings.is_empty());
}

proptest! {
    #[test]
    fn no_file_panics(text in "(services|web|image|ports|deploy|x-invar|: |\n|  |- |\\{|\\}|\\[|\\]|\\$|%|&a|\\*a|<<|'|\"|[a-z0-9]){0,40}") {
        drop(read(&text));
    }

    /// Changing one byte of a good file gives another good file or an error with a place.
    #[test]
    fn a_damaged_file_is_an_error_with_its_place(at in 0..FULL.len(), byte in 32_u8..127) {
        let mut bytes = FULL.as_bytes().to_vec();
        bytes[at] = byte;
        if let Err(error) = read(&String::from_utf8(bytes).unwrap()) {
            let said = error.to_string();
            prop_assert!(
                said.contains("compose.yaml:") || said.contains("could not read"),
                "{}", said
            );
        }
    }
}

#[test]
fn a_service_is_in_one_network_of_the_project() {
    let asked = |network: &str, aliases: &[&str]| NetworkMode::Project {
        network: network.to_owned(),
        aliases: aliases.iter().copied().map(str::to_owned).collect(),
        is_asked: true,
    };
    let own = NetworkMode::Project {
        network: "default".to_owned(),
        aliases: Vec::new(),
        is_asked: false,
    };
    for (written, mode, named) in [
        ("tty: true", own, 0),
        ("network_mode: bridge", NetworkMode::Bridge, 0),
        ("networks: []", NetworkMode::None, 0),
        ("networks: [back]", asked("back", &[]), 0),
        ("networks: [back, front]", asked("back", &[]), 1),
        (
            "networks: { front: { aliases: [www] }, back: }",
            asked("front", &["www"]),
            1,
        ),
        (
            "networks: { back: { ipv4_address: 10.1.2.3 } }",
            asked("back", &[]),
            1,
        ),
    ] {
        let text = format!(
            "name: shop\nservices:\n  web:\n    image: x\n    {written}\nnetworks:\n  front:\n  \
             back: {{ internal: true, name: inner, ipam: {{ config: [{{ subnet: 10.1.2.0/24 }}] }} }}\n"
        );
        let (project, warnings) = read(&text).unwrap();
        assert_eq!(project.services["web"].network, mode, "{written}");
        assert_eq!(warnings.len(), named, "{written}: {warnings:?}");
        assert_eq!(project.networks["front"].name, "shop_front");
        let back = &project.networks["back"];
        assert!(back.is_internal && back.name == "inner");
        assert_eq!(back.subnets, ["10.1.2.0/24"]);
    }
    for (written, reason) in [
        ("networks: [other]", "not among the project's networks"),
        (
            "networks: [default]\n    network_mode: host",
            "either networks or network_mode",
        ),
        ("networks: { default: 7 }", "is a mapping"),
    ] {
        let text = format!("services:\n  web:\n    image: x\n    {written}\n");
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(reason), "{written}: {error}");
    }
}
