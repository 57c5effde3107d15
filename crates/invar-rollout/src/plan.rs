//! What a deploy would do: which services are replaced, and which input of their revision changed.

use std::collections::BTreeMap;
use std::path::Path;

use invar_engine::{ContainerConfig, Mount, MountKind};
use serde::Serialize;

use crate::definition::{Definition, stable};

/// What happens to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Plan {
    /// Nothing: this revision runs.
    Keep,
    /// It is there for the first time.
    Create,
    /// Its containers are replaced because these inputs of the revision changed.
    Replace {
        /// What changed.
        changes: Vec<Change>,
    },
    /// The revision is the same; more or fewer containers of it, or other ports.
    Adjust {
        /// What changed.
        changes: Vec<Change>,
    },
}

/// An input of a revision that changed. Values of the environment are not shown: they are secrets
/// more often than not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// For example `image`, `environment COLOR`, `mount /data`.
    pub input: String,
    /// Before.
    pub from: String,
    /// After.
    pub to: String,
}

/// Compares what runs with what is wanted.
pub fn plan(running: Option<&Definition>, wanted: &Definition) -> Plan {
    let Some(running) = running else {
        return Plan::Create;
    };
    if running.revision() != wanted.revision() {
        return Plan::Replace {
            changes: differences(&running.config, &wanted.config),
        };
    }
    let mut changes = Vec::new();
    compare(
        &mut changes,
        "replicas",
        &running.replicas,
        &wanted.replicas,
    );
    if running.ports != wanted.ports {
        changes.push(change("ports", &ports(running), &ports(wanted)));
    }
    if changes.is_empty() {
        Plan::Keep
    } else {
        Plan::Adjust { changes }
    }
}

/// The inputs in which two configurations differ, in the order people ask about them.
pub fn differences(from: &ContainerConfig, to: &ContainerConfig) -> Vec<Change> {
    let (from, to) = (stable(from), stable(to));
    let mut changes = Vec::new();
    if from.image != to.image {
        let shown = |config: &ContainerConfig| {
            let digest = config.image.trim_start_matches("sha256:");
            let digest: String = digest.chars().take(12).collect();
            format!("{} ({digest})", config.image_name)
        };
        changes.push(change("image", &shown(&from), &shown(&to)));
    }
    compare(
        &mut changes,
        "command",
        &from.args.join(" "),
        &to.args.join(" "),
    );
    named(
        &mut changes,
        "environment",
        &environment(&from),
        &environment(&to),
        true,
    );
    named(&mut changes, "mount", &mounts(&from), &mounts(&to), false);
    named(&mut changes, "label", &from.labels, &to.labels, false);
    others(&mut changes, &from, &to);
    if changes.is_empty() {
        // A setting that is not in the list above still makes another revision.
        let revision = |config: &ContainerConfig| config.revision().as_str().to_owned();
        changes.push(change("settings", &revision(&from), &revision(&to)));
    }
    changes
}

/// Single values, shown as they are kept.
fn others(changes: &mut Vec<Change>, from: &ContainerConfig, to: &ContainerConfig) {
    let debug = |value: &dyn std::fmt::Debug| format!("{value:?}");
    for (input, from, to) in [
        ("user", debug(&from.user.0), debug(&to.user.0)),
        ("working directory", debug(&from.cwd), debug(&to.cwd)),
        ("host name", debug(&from.hostname), debug(&to.hostname)),
        ("writable root", debug(&from.writable), debug(&to.writable)),
        ("network", debug(&from.network), debug(&to.network)),
        (
            "memory",
            debug(&from.resources.memory),
            debug(&to.resources.memory),
        ),
        (
            "processors",
            debug(&from.resources.nano_cpus),
            debug(&to.resources.nano_cpus),
        ),
        (
            "processes",
            debug(&from.resources.pids),
            debug(&to.resources.pids),
        ),
        (
            "capabilities",
            debug(&from.capabilities),
            debug(&to.capabilities),
        ),
        ("init", debug(&from.init), debug(&to.init)),
        ("terminal", debug(&from.tty), debug(&to.tty)),
        (
            "standard input",
            debug(&from.interactive),
            debug(&to.interactive),
        ),
        ("restart", debug(&from.restart), debug(&to.restart)),
        (
            "stop signal",
            debug(&from.stop_signal),
            debug(&to.stop_signal),
        ),
    ] {
        compare(changes, input, &from, &to);
    }
}

fn change(input: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display) -> Change {
    Change {
        input: input.to_owned(),
        from: from.to_string(),
        to: to.to_string(),
    }
}

fn compare<T: PartialEq + std::fmt::Display>(
    changes: &mut Vec<Change>,
    input: &str,
    from: &T,
    to: &T,
) {
    if from != to {
        changes.push(change(input, from, to));
    }
}

fn named(
    changes: &mut Vec<Change>,
    kind: &str,
    from: &BTreeMap<String, String>,
    to: &BTreeMap<String, String>,
    is_hidden: bool,
) {
    let names: std::collections::BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    for name in names {
        let (before, after) = (from.get(name), to.get(name));
        if before == after {
            continue;
        }
        let shown = |value: Option<&String>| match value {
            None => "none".to_owned(),
            Some(_) if is_hidden => "set".to_owned(),
            Some(value) => value.clone(),
        };
        let (from, to) = match (before, after) {
            (Some(_), Some(_)) if is_hidden => ("a value".to_owned(), "another value".to_owned()),
            _ => (shown(before), shown(after)),
        };
        changes.push(change(
            &format!("{kind} {}", name.escape_debug()),
            &from,
            &to,
        ));
    }
}

fn environment(config: &ContainerConfig) -> BTreeMap<String, String> {
    let split = config.env.iter().map(|setting| {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        (name.to_owned(), value.to_owned())
    });
    split.collect()
}

fn mounts(config: &ContainerConfig) -> BTreeMap<String, String> {
    let all = config.mounts.iter();
    all.map(|mount| (mount.target.display().to_string(), shown(mount)))
        .collect()
}

fn shown(mount: &Mount) -> String {
    let source = match &mount.kind {
        MountKind::Bind { source } => content(source),
        MountKind::Volume { name } if name.is_empty() => "a fresh volume".to_owned(),
        MountKind::Volume { name } => format!("volume {name}"),
        MountKind::Tmpfs { size, .. } => format!("memory, {size} bytes"),
    };
    let access = match (mount.read_only, mount.exec) {
        (true, _) => ", read-only",
        (false, true) => ", programs run",
        (false, false) => "",
    };
    source + access
}

/// Configs and secrets are named by their content.
fn content(source: &Path) -> String {
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    match name.strip_prefix("content-") {
        Some(digest) => format!("content {}", digest.chars().take(12).collect::<String>()),
        None => source.display().to_string(),
    }
}

fn ports(definition: &Definition) -> String {
    let shown = |port: &crate::compose::Port| format!("{}:{}", port.published, port.target);
    let all: Vec<String> = definition.ports.iter().map(shown).collect();
    all.join(" ")
}
