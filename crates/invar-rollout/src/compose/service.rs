//! One service: every key of the specification is read, or named as not honoured.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Result, Warning};
use super::fields::Fields;
use super::grants::{self, Source};
use super::load::Loader;
use super::model::{Condition, Dependency, Service};
use super::scalars::{boolean, command, duration, integer, settings, string, strings, text, wrong};
use super::yaml::{Node, Value};
use super::{deploy, extension, health, networks, ports, volumes};

/// Configs and secrets of the project.
#[derive(Debug, Default)]
pub(super) struct Shared<'a> {
    pub(super) configs: BTreeMap<String, Source<'a>>,
    pub(super) secrets: BTreeMap<String, Source<'a>>,
}

/// Keys of the specification without effect, and why.
const NOT_HONOURED: &[(&str, &str)] = &[
    ("annotations", "labels are what is kept"),
    ("build", "images are built elsewhere and named by image"),
    ("cgroup_parent", "containers have a place of their own"),
    (
        "container_name",
        "containers of two revisions run side by side, each with its own name",
    ),
    ("cpu_shares", "write deploy.resources.limits.cpus"),
    ("develop", "a container is never changed"),
    ("devices", "containers get no devices of the host"),
    ("dns", "the engine's resolver is used"),
    (
        "expose",
        "containers of one network reach each other's ports anyway",
    ),
    ("external_links", "write networks with aliases"),
    ("extra_hosts", "not there yet"),
    ("ipc", "every container has its own"),
    ("isolation", "there is one kind on Linux"),
    (
        "links",
        "services of one network find each other by name anyway",
    ),
    ("logging", "the engine keeps the log, within limits"),
    ("mem_reservation", "nothing is set aside"),
    ("memswap_limit", "not there yet"),
    ("oom_kill_disable", "a container at its limit is ended"),
    ("pid", "every container has its own"),
    ("platform", "images are of this machine's platform"),
    ("privileged", "use cap_add for what is needed"),
    (
        "pull_policy",
        "an image must be there; invar pull fetches it",
    ),
    ("runtime", "there is one"),
    (
        "security_opt",
        "every container has the engine's own profile",
    ),
    ("shm_size", "mount a tmpfs at /dev/shm"),
    ("storage_opt", "not there yet"),
    ("sysctls", "not there yet"),
    ("ulimits", "not there yet"),
    ("userns_mode", "not there yet"),
];

/// Reads one service.
pub(super) fn read(
    node: &Node,
    path: &str,
    shared: &Shared<'_>,
    loader: &mut Loader<'_>,
) -> Result<Service> {
    let mut fields = Fields::of(node, path)?;
    let image = fields
        .read("image", string)?
        .filter(|image| !image.is_empty());
    let Some(image) = image else {
        let reason = format!("{path} names no image; images are built elsewhere");
        return Err(node.at.error(reason));
    };
    let environment = environment(&mut fields, loader)?;
    let files = files(&mut fields, shared, loader)?;
    let warnings = &mut loader.warnings;
    let mut deploy = fields
        .read("deploy", |node, path| deploy::read(node, path, warnings))?
        .unwrap_or_default();
    short_limits(&mut fields, &mut deploy)?;
    let restart = fields.read("restart", deploy::short_restart)?;
    deploy.restart = deploy.restart.take().or(restart);
    let service = Service {
        at: node.at.clone(),
        image,
        command: fields.read("command", command)?,
        entrypoint: fields.read("entrypoint", command)?,
        environment,
        ports: fields
            .read("ports", |node, path| ports::read(node, path, warnings))?
            .unwrap_or_default(),
        volumes: fields
            .read("volumes", |node, path| volumes::read(node, path, warnings))?
            .unwrap_or_default(),
        tmpfs: fields.read("tmpfs", strings)?.unwrap_or_default(),
        network: networks::of_service(&mut fields, warnings)?,
        healthcheck: fields
            .read("healthcheck", |node, path| {
                health::read(node, path, warnings)
            })?
            .flatten(),
        depends_on: fields
            .read("depends_on", |node, path| depends_on(node, path, warnings))?
            .unwrap_or_default(),
        deploy,
        files,
        labels: fields
            .read("labels", settings)?
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_default()))
            .collect(),
        read_only: fields.read("read_only", boolean)?,
        user: fields.read("user", string)?,
        working_dir: fields.read("working_dir", string)?,
        hostname: fields.read("hostname", string)?,
        init: fields.read("init", boolean)?.unwrap_or(false),
        tty: fields.read("tty", boolean)?.unwrap_or(false),
        stdin_open: fields.read("stdin_open", boolean)?.unwrap_or(false),
        stop_signal: fields.read("stop_signal", string)?,
        stop_grace_period: fields
            .read("stop_grace_period", duration)?
            .unwrap_or(Duration::from_secs(10)),
        cap_add: fields.read("cap_add", strings)?.unwrap_or_default(),
        cap_drop: fields.read("cap_drop", strings)?.unwrap_or_default(),
        invar: fields
            .read("x-invar", |node, path| {
                extension::read(node, path, warnings)
            })?
            .unwrap_or_default(),
    };
    fields.take("profiles");
    fields.finish(NOT_HONOURED, warnings);
    Ok(service)
}

/// `env_file` first, `environment` over it.
fn environment(
    fields: &mut Fields<'_>,
    loader: &mut Loader<'_>,
) -> Result<Vec<(String, Option<String>)>> {
    let mut all: Vec<(String, Option<String>)> = Vec::new();
    if let Some(node) = fields.take("env_file") {
        let path = fields.path_of("env_file");
        let items = match &node.value {
            Value::List(items) => items.iter().collect(),
            _ => vec![node],
        };
        for item in items {
            all.extend(env_file(item, &path, loader)?);
        }
    }
    for (name, value) in fields.read("environment", settings)?.unwrap_or_default() {
        // A name alone takes its value from the caller or from `.env`.
        let value = value.or_else(|| loader.variable(&name));
        all.push((name, value));
    }
    let mut once: Vec<(String, Option<String>)> = Vec::new();
    for (name, value) in all {
        match once.iter_mut().find(|(other, _)| *other == name) {
            Some(found) => found.1 = value,
            None => once.push((name, value)),
        }
    }
    Ok(once)
}

fn env_file(
    node: &Node,
    path: &str,
    loader: &mut Loader<'_>,
) -> Result<Vec<(String, Option<String>)>> {
    if !matches!(node.value, Value::Map(_)) {
        return loader.env_file(&node.at.resolve(text(node, path)?), true);
    }
    let mut fields = Fields::of(node, path)?;
    let is_required = fields.read("required", boolean)?.unwrap_or(true);
    let file = fields
        .take("path")
        .ok_or_else(|| node.at.error(format!("{path}: path is missing")))?;
    let file = file.at.resolve(text(file, path)?);
    fields.finish(&[], &mut loader.warnings);
    loader.env_file(&file, is_required)
}

fn files(
    fields: &mut Fields<'_>,
    shared: &Shared<'_>,
    loader: &mut Loader<'_>,
) -> Result<Vec<super::model::GrantedFile>> {
    let mut files = Vec::new();
    for (key, sources, is_secret) in [
        ("configs", &shared.configs, false),
        ("secrets", &shared.secrets, true),
    ] {
        if let Some(node) = fields.take(key) {
            let path = fields.path_of(key);
            files.extend(grants::read(node, &path, sources, is_secret, loader)?);
        }
    }
    Ok(files)
}

/// Limits as they are written outside `deploy`; there they win.
fn short_limits(fields: &mut Fields<'_>, deploy: &mut super::model::Deploy) -> Result<()> {
    let memory = fields.read("mem_limit", string)?;
    let cpus = fields.read("cpus", string)?;
    let pids = fields.read("pids_limit", integer)?;
    deploy.memory = deploy.memory.take().or(memory);
    deploy.cpus = deploy.cpus.take().or(cpus);
    deploy.pids = deploy.pids.or(pids);
    if let Some(node) = fields.take("scale") {
        deploy.replicas = integer::<u32>(node, &fields.path_of("scale"))?.max(1);
    }
    Ok(())
}

fn depends_on(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<Vec<Dependency>> {
    if matches!(node.value, Value::List(_)) {
        let started = |service| Dependency {
            service,
            condition: Condition::Started,
            required: true,
        };
        return Ok(strings(node, path)?.into_iter().map(started).collect());
    }
    let mut all = Fields::of(node, path)?;
    let mut dependencies = Vec::new();
    for entry in all.take_rest() {
        let mut fields = Fields::of(&entry.value, all.path_of(&entry.key))?;
        let condition = fields.read("condition", |node, path| {
            Ok(match text(node, path)? {
                "service_started" => Condition::Started,
                "service_healthy" => Condition::Healthy,
                "service_completed_successfully" => Condition::Completed,
                _ => {
                    let wanted =
                        "service_started, service_healthy or service_completed_successfully";
                    return Err(wrong(node, path, wanted));
                }
            })
        })?;
        dependencies.push(Dependency {
            service: entry.key.clone(),
            condition: condition.unwrap_or(Condition::Started),
            required: fields.read("required", boolean)?.unwrap_or(true),
        });
        let reason = "a dependency is deployed before; what depends on it is left alone";
        fields.finish(&[("restart", reason)], warnings);
    }
    Ok(dependencies)
}
