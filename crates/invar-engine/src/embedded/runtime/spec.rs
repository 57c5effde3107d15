//! A container's configuration as the OCI runtime specification has it.

use std::path::PathBuf;

use oci_spec::runtime::Spec;
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

use crate::config::{ContainerConfig, Mount, MountKind, Network, Resources};
use crate::container::ContainerId;
use crate::embedded::cgroup::{self, CPU_PERIOD};
use crate::embedded::layout::{Directory, Layout};
use crate::embedded::users::Account;
use crate::embedded::volumes;
use crate::error::{EngineError, Result};

/// The group that terminals belong to, in every distribution.
const TERMINALS: u32 = 5;
/// Most open files of one process; Podman's number.
const OPEN_FILES: u64 = 1 << 20;
/// What a container must not see: the host's memory, hardware and kernel secrets. The directories
/// show empty, the files as `/dev/null`.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// What a container may see but not write.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What the specification of one run is made from.
pub(in crate::embedded) struct Inputs<'a> {
    pub(in crate::embedded) id: &'a ContainerId,
    pub(in crate::embedded) config: &'a ContainerConfig,
    pub(in crate::embedded) account: &'a Account,
    pub(in crate::embedded) directory: &'a Directory,
    pub(in crate::embedded) layout: &'a Layout,
    /// The configured capabilities that this process has to give.
    pub(in crate::embedded) capabilities: Vec<String>,
    /// Open files this host lets us grant.
    pub(in crate::embedded) open_files: u64,
    /// What id 0 of its user namespace is outside; `None`: it has the host's.
    pub(in crate::embedded) first: Option<u32>,
    /// The AppArmor profile it executes under.
    pub(in crate::embedded) profile: Option<String>,
}

/// The specification for a run.
pub(in crate::embedded) fn spec(inputs: &Inputs<'_>) -> Result<Spec> {
    let Inputs { id, config, .. } = inputs;
    let document = json!({
        "ociVersion": "1.2.0",
        "hostname": hostname(id, config),
        "root": { "path": inputs.directory.rootfs(), "readonly": !config.writable },
        "process": process(inputs, &config.args, &environment(inputs), config.tty),
        "mounts": mounts(inputs),
        "linux": {
            "cgroupsPath": cgroup::path(id),
            "namespaces": namespaces(&config.network),
            "resources": resources(&config.resources),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    serde_json::from_value(document).map_err(|error| EngineError::Runtime {
        action: "write the container's specification",
        reason: error.to_string(),
    })
}

/// The process of a run, or of one more program in it.
pub(in crate::embedded) fn process(
    inputs: &Inputs<'_>,
    args: &[String],
    env: &[String],
    tty: bool,
) -> Value {
    let Account {
        uid, gid, groups, ..
    } = inputs.account;
    if inputs.first.is_some() {
        return process_outside(inputs, args, env, tty);
    }
    let bounding: &[String] = &inputs.capabilities;
    // What `execve(2)` leaves to a user other than root.
    let held: &[String] = if *uid == 0 { bounding } else { &[] };
    let files = inputs.open_files.min(OPEN_FILES);
    json!({
        "terminal": tty,
        "user": { "uid": uid, "gid": gid, "additionalGids": groups },
        "args": args,
        "env": env,
        // The program step changes to the real one, after every handle on the host is harmless.
        "cwd": "/",
        "noNewPrivileges": true,
        "apparmorProfile": inputs.profile,
        "capabilities": {
            "bounding": bounding, "effective": held, "permitted": held,
            "inheritable": [], "ambient": [],
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": files, "hard": files }],
    })
}

/// As [`process`], for one that enters its user namespace last: until then it is the host's root
/// (`super::inside`).
fn process_outside(inputs: &Inputs<'_>, args: &[String], env: &[String], tty: bool) -> Value {
    let held = rustix::thread::capabilities(None).map(|sets| sets.permitted);
    let held: Vec<String> = held
        .unwrap_or(CapabilitySet::empty())
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    let files = inputs.open_files.min(OPEN_FILES);
    json!({
        "terminal": tty,
        "user": { "uid": 0, "gid": 0, "additionalGids": [] },
        "args": args,
        "env": env,
        "cwd": "/",
        "noNewPrivileges": true,
        "apparmorProfile": inputs.profile,
        "capabilities": {
            "bounding": held, "effective": held, "permitted": held,
            "inheritable": [], "ambient": [],
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": files, "hard": files }],
    })
}

/// The configured environment, and what depends on the container's id and user database.
pub(in crate::embedded) fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut env = inputs.config.env.clone();
    let home = inputs.account.home.display().to_string();
    for (name, value) in [
        ("HOSTNAME", hostname(inputs.id, inputs.config)),
        ("HOME", &home),
    ] {
        let prefix = format!("{name}=");
        if !env.iter().any(|setting| setting.starts_with(&prefix)) {
            env.push(format!("{name}={value}"));
        }
    }
    env
}

/// The configured name, or the short id as with Docker.
pub(in crate::embedded) fn hostname<'a>(
    id: &'a ContainerId,
    config: &'a ContainerConfig,
) -> &'a str {
    if config.hostname.is_empty() {
        id.short()
    } else {
        &config.hostname
    }
}

fn namespaces(network: &Network) -> Value {
    let own = ["pid", "ipc", "uts", "mount", "cgroup"];
    let mut list: Vec<Value> = own.iter().map(|kind| json!({ "type": kind })).collect();
    if *network != Network::Host {
        // The shim's own, in which it brought loopback up.
        list.push(json!({ "type": "network", "path": "/proc/self/ns/net" }));
    }
    Value::Array(list)
}

fn resources(limits: &Resources) -> Value {
    let mut resources = json!({
        "devices": [{ "allow": false, "access": "rwm" }],
        "pids": { "limit": limits.pids },
    });
    if let Some(memory) = limits.memory {
        resources["memory"] = json!({ "limit": memory });
    }
    if let Some(nano_cpus) = limits.nano_cpus {
        let quota = nano_cpus / (1_000_000_000 / CPU_PERIOD);
        resources["cpu"] = json!({ "quota": quota, "period": CPU_PERIOD });
    }
    resources
}

/// The kernel's file systems, the engine's files, then what was asked for, parents first.
///
/// No cgroup file system on separate hierarchies (v1): libcontainer mounts it writable whatever is
/// asked, and a container could raise its own limits.
fn mounts(inputs: &Inputs<'_>) -> Vec<Value> {
    let first = inputs.first.unwrap_or(0);
    let mount = |target: &str, kind: &str, options: &[&str]| {
        let mut options: Vec<String> = options.iter().map(|text| (*text).to_owned()).collect();
        if kind == "tmpfs" {
            options.extend(owned_by(inputs.first));
        }
        json!({ "destination": target, "type": kind, "source": kind, "options": options })
    };
    let terminals = format!("gid={}", first.saturating_add(TERMINALS));
    let mut list = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                &terminals,
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if cgroup::is_unified() {
        list.push(mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "ro"],
        ));
    }
    let access = if inputs.config.writable { "rw" } else { "ro" };
    for name in ["hosts", "hostname", "resolv.conf"] {
        list.push(json!({
            "destination": format!("/etc/{name}"), "type": "bind",
            "source": inputs.directory.etc().join(name),
            "options": ["rbind", "rprivate", "nosuid", "nodev", "noexec", access],
        }));
    }
    list.extend(
        inputs
            .config
            .mounts
            .iter()
            .enumerate()
            .map(|(number, mount)| asked(number, mount, inputs)),
    );
    list
}

/// Options of a file system in memory whose root belongs to a container's root.
fn owned_by(first: Option<u32>) -> Vec<String> {
    first.map_or_else(Vec::new, |first| {
        vec![format!("uid={first}"), format!("gid={first}")]
    })
}

/// Where the shim puts what is mounted with other owners.
pub(in crate::embedded) fn shifted(directory: &Directory, number: usize) -> PathBuf {
    directory.etc().join(format!("mount-{number}"))
}

/// What of the host's a mount shows.
pub(in crate::embedded) fn source(mount: &Mount, layout: &Layout) -> Option<PathBuf> {
    match &mount.kind {
        MountKind::Bind { source } => Some(source.clone()),
        MountKind::Volume { name } => Some(volumes::path(layout, name)),
        MountKind::Tmpfs { .. } => None,
    }
}

/// Where something is mounted while a container runs: what its own root has there is not seen.
pub(in crate::embedded) fn mounted_on(config: &ContainerConfig) -> Vec<PathBuf> {
    let own = [
        "/proc",
        "/dev",
        "/sys",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
    ];
    let asked = config.mounts.iter().map(|mount| mount.target.clone());
    own.iter().map(PathBuf::from).chain(asked).collect()
}

fn asked(number: usize, mount: &Mount, inputs: &Inputs<'_>) -> Value {
    let place = |plain: PathBuf| match inputs.first {
        Some(_) => shifted(inputs.directory, number),
        None => plain,
    };
    let mut options: Vec<String> = Vec::new();
    let (kind, source) = match &mount.kind {
        MountKind::Bind { source } => {
            options.extend(["rbind", "rprivate"].map(str::to_owned));
            ("bind", place(source.clone()))
        }
        MountKind::Volume { name } => {
            options.extend(["rbind", "rprivate", "nosuid", "nodev"].map(str::to_owned));
            ("bind", place(volumes::path(inputs.layout, name)))
        }
        MountKind::Tmpfs { size, mode } => {
            options.extend(["nosuid", "nodev"].map(str::to_owned));
            options.push(format!("mode={mode:o}"));
            options.push(format!("size={size}"));
            options.extend(owned_by(inputs.first));
            ("tmpfs", "tmpfs".into())
        }
    };
    let is_tmpfs = matches!(mount.kind, MountKind::Tmpfs { .. });
    if mount.read_only {
        // Recursively, so that no mount below it stays writable.
        options.push(if is_tmpfs { "ro" } else { "rro" }.to_owned());
    }
    if !mount.exec {
        options.push(if is_tmpfs { "noexec" } else { "rnoexec" }.to_owned());
    }
    json!({ "destination": mount.target, "type": kind, "source": source, "options": options })
}
