//! A container in the form of `docker inspect`, with the fields Invar has.

use std::time::Duration;

use invar_engine::{
    Container, ExitStatus, Health, HealthCheck, HealthResult, Mount, MountKind, Network, Restart,
    State, UserNamespace,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::network;
use crate::engines::Found;

/// Docker prints this for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A container of another engine is described in that engine's own words.
pub(super) fn describe(found: &Found) -> anyhow::Result<Value> {
    if found.engine.kind() != "embedded" {
        return Ok(found.engine.settings(&found.container.id)?);
    }
    let container = &found.container;
    let config = &container.config;
    Ok(json!({
        "Id": container.id,
        "Name": format!("/{}", container.name),
        "Created": container.created_at,
        "Path": config.args.first(),
        "Args": config.args.get(1..),
        "State": state(container),
        "Image": config.image,
        "Engine": container.engine,
        "Revision": container.revision,
        "RestartCount": container.restarts,
        "Platform": "linux",
        "HostConfig": host_config(container),
        "NetworkSettings": network::settings(container),
        "Mounts": config.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": {
            "Hostname": config.hostname,
            "User": config.user,
            "Tty": config.tty,
            "OpenStdin": config.interactive,
            "Env": config.env,
            "Cmd": config.args,
            "Image": config.image_name,
            "WorkingDir": config.cwd,
            "StopSignal": config.stop_signal,
            "Labels": config.labels,
            "Healthcheck": config.health.as_ref().map(health_check),
        },
    }))
}

fn state(container: &Container) -> Value {
    let never: Timestamp = NEVER.parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let (status, ended) = match &container.state {
        State::Created => ("created", None),
        State::Running => ("running", None),
        State::Paused => ("paused", None),
        State::Exited(ended) => ("exited", Some(ended)),
        State::Restarting(ended) => ("restarting", Some(ended)),
    };
    let of_end = |read: fn(&ExitStatus) -> Value, default: Value| ended.map_or(default, read);
    let mut value = json!({
        "Status": status,
        "Running": matches!(
            container.state,
            State::Running | State::Paused | State::Restarting(_)
        ),
        "Paused": container.state == State::Paused,
        "Restarting": matches!(container.state, State::Restarting(_)),
        "Dead": false,
        "OOMKilled": of_end(|ended| json!(ended.oom_killed), json!(false)),
        "Pid": container.init_pid.unwrap_or(0),
        "ExitCode": of_end(|ended| json!(ended.code), json!(0)),
        "Error": of_end(|ended| json!(ended.error), Value::Null).as_str().unwrap_or_default(),
        "StartedAt": container.started_at.unwrap_or(never),
        "FinishedAt": ended.map_or(never, |ended| ended.finished_at),
    });
    if let Some(found) = &container.health {
        value["Health"] = health(found);
    }
    value
}

fn health(found: &Health) -> Value {
    let check = |check: &HealthResult| {
        json!({
            "Start": check.start,
            "End": check.end,
            "ExitCode": check.exit_code,
            "Output": check.output,
        })
    };
    json!({
        "Status": found.status.as_str(),
        "FailingStreak": found.failing_streak,
        "Log": found.log.iter().map(check).collect::<Vec<_>>(),
    })
}

/// Times in nanoseconds, as Docker's.
fn health_check(check: &HealthCheck) -> Value {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let test: Vec<&str> = std::iter::once("CMD")
        .chain(check.args.iter().map(String::as_str))
        .collect();
    json!({
        "Test": test,
        "Interval": nanoseconds(check.interval),
        "Timeout": nanoseconds(check.timeout),
        "StartPeriod": nanoseconds(check.start_period),
        "StartInterval": nanoseconds(check.start_interval),
        "Retries": check.retries,
    })
}

fn restart_policy(restart: Restart) -> Value {
    let (name, most) = match restart {
        Restart::No => ("no", 0),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
        Restart::OnFailure { most } => ("on-failure", most.unwrap_or(0)),
    };
    json!({ "Name": name, "MaximumRetryCount": most })
}

fn host_config(container: &Container) -> Value {
    let config = &container.config;
    let network = match &config.network {
        Network::None => "none".to_owned(),
        Network::Host => "host".to_owned(),
        Network::Container(other) => format!("container:{other}"),
        Network::Named(name) => name.clone(),
    };
    json!({
        "NetworkMode": network,
        "PortBindings": network::ports(&config.networking.ports),
        "Dns": config.networking.dns,
        "DnsSearch": config.networking.dns_search,
        "ExtraHosts": network::extra_hosts(&config.networking),
        "RestartPolicy": restart_policy(config.restart),
        "AutoRemove": config.auto_remove,
        "ReadonlyRootfs": !config.writable,
        "Init": config.init,
        "UsernsMode": match config.userns {
            UserNamespace::Host => "host",
            UserNamespace::Auto => "auto",
        },
        "Memory": config.resources.memory.unwrap_or(0),
        "NanoCpus": config.resources.nano_cpus.unwrap_or(0),
        "PidsLimit": config.resources.pids,
        // Docker lists what was added to its default; the whole set is what counts.
        "Capabilities": config.capabilities,
    })
}

fn mount(mount: &Mount) -> Value {
    let mode = [
        (mount.read_only, "ro"),
        (!mount.read_only, "rw"),
        (mount.exec, "exec"),
        (!mount.exec, "noexec"),
    ];
    let mode: Vec<&str> = mode.iter().filter(|m| m.0).map(|m| m.1).collect();
    let mut value = json!({
        "Destination": mount.target,
        "Mode": mode.join(","),
        "RW": !mount.read_only,
    });
    let (kind, name, text) = match &mount.kind {
        MountKind::Bind { source } => ("bind", "Source", json!(source)),
        MountKind::Volume { name } => ("volume", "Name", json!(name)),
        MountKind::Tmpfs { size, .. } => ("tmpfs", "Size", json!(size)),
    };
    value["Type"] = kind.into();
    value[name] = text;
    value
}
