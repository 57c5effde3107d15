//! Docker's `inspect` answer as a [`Container`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, HealthStatusEnum,
    HostConfig, MountPoint, RestartPolicyNameEnum,
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::networks;
use crate::config::{ContainerConfig, Mount, MountKind, Network, Resources, Restart, User};
use crate::container::{
    Container, ContainerId, ContainerName, ExitStatus, Health, HealthStatus, Revision, State,
};
use crate::error::{EngineError, Result};

/// Docker prints this for "never".
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Reads what the daemon says of one container. Missing parts take Docker's defaults; a missing id
/// or name is an error.
pub(super) fn container(
    engine: &'static str,
    answer: &ContainerInspectResponse,
) -> Result<Container> {
    let id = ContainerId::try_from(answer.id.clone().unwrap_or_default())?;
    let name = answer
        .name
        .as_deref()
        .unwrap_or_default()
        .trim_start_matches('/');
    let state = answer.state.clone().unwrap_or_default();
    Ok(Container {
        id,
        name: ContainerName::parse(name)?,
        engine,
        config: config(answer)?,
        revision: revision(answer)?,
        init_pid: state
            .pid
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 0),
        created_at: timestamp(answer.created.as_ref().map(ToString::to_string).as_deref())
            .unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: timestamp(state.started_at.as_deref()),
        endpoints: networks::endpoints(answer),
        restarts: answer
            .restart_count
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0),
        health: state.health.as_ref().and_then(health),
        state: state_of(&state),
    })
}

/// The verdict; the daemon's own inspection has the checks.
fn health(answer: &bollard::models::Health) -> Option<Health> {
    let status = match answer.status? {
        HealthStatusEnum::STARTING => HealthStatus::Starting,
        HealthStatusEnum::HEALTHY => HealthStatus::Healthy,
        HealthStatusEnum::UNHEALTHY => HealthStatus::Unhealthy,
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => return None,
    };
    Some(Health {
        status,
        failing_streak: answer
            .failing_streak
            .and_then(|streak| u32::try_from(streak).ok())
            .unwrap_or(0),
        log: Vec::new(),
    })
}

fn state_of(state: &ContainerState) -> State {
    match state.status {
        Some(ContainerStateStatusEnum::CREATED) => State::Created,
        Some(ContainerStateStatusEnum::PAUSED) => State::Paused,
        Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::RESTARTING) => {
            State::Running
        }
        _ => State::Exited(ExitStatus {
            code: state
                .exit_code
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(u8::MAX),
            oom_killed: state.oom_killed.unwrap_or(false),
            error: state.error.clone().filter(|error| !error.is_empty()),
            finished_at: timestamp(state.finished_at.as_deref()).unwrap_or(Timestamp::UNIX_EPOCH),
        }),
    }
}

/// Digest over the image and every setting the daemon would use to make the container again.
fn revision(answer: &ContainerInspectResponse) -> Result<Revision> {
    let settings = serde_json::json!({
        "image": answer.image,
        "config": answer.config,
        "host_config": answer.host_config,
    });
    // serde_json sorts the keys of a map, so equal settings give equal bytes.
    let canonical = serde_json::to_vec(&settings).map_err(|error| EngineError::Runtime {
        action: "read the container's settings",
        reason: error.to_string(),
    })?;
    Ok(Revision::from_sha256(Sha256::digest(canonical).into()))
}

fn config(answer: &ContainerInspectResponse) -> Result<ContainerConfig> {
    let config = answer.config.clone().unwrap_or_default();
    let host = answer.host_config.clone().unwrap_or_default();
    let mut args = vec![answer.path.clone().unwrap_or_default()];
    args.extend(answer.args.clone().unwrap_or_default());
    let labels: BTreeMap<_, _> = config.labels.unwrap_or_default().into_iter().collect();
    Ok(ContainerConfig {
        image: answer.image.clone().unwrap_or_default(),
        image_name: config.image.unwrap_or_default(),
        args,
        env: config.env.unwrap_or_default(),
        cwd: absolute(config.working_dir.as_deref().unwrap_or_default()),
        user: User(config.user.unwrap_or_default()),
        hostname: config.hostname.unwrap_or_default(),
        writable: !host.readonly_rootfs.unwrap_or(false),
        mounts: mounts(answer.mounts.as_deref().unwrap_or_default(), &host)?,
        network: network(host.network_mode.as_deref().unwrap_or_default()),
        networking: networks::asked(&host),
        resources: resources(&host),
        capabilities: host.cap_add.clone().unwrap_or_default(),
        init: host.init.unwrap_or(false),
        tty: config.tty.unwrap_or(false),
        interactive: config.open_stdin.unwrap_or(false),
        stop_signal: config.stop_signal.unwrap_or_else(|| "SIGTERM".to_owned()),
        auto_remove: host.auto_remove.unwrap_or(false),
        labels,
        restart: restart(&host),
        // The daemon runs it.
        health: None,
        // The daemon's settings decide.
        userns: crate::config::UserNamespace::Host,
        apparmor: crate::config::AppArmor::Default,
    })
}

fn absolute(path: &str) -> PathBuf {
    PathBuf::from(if path.is_empty() { "/" } else { path })
}

fn network(mode: &str) -> Network {
    match mode {
        "none" => Network::None,
        "host" => Network::Host,
        other => Network::Named(other.to_owned()),
    }
}

fn restart(host: &HostConfig) -> Restart {
    let Some(policy) = &host.restart_policy else {
        return Restart::No;
    };
    match policy.name {
        Some(RestartPolicyNameEnum::ALWAYS) => Restart::Always,
        Some(RestartPolicyNameEnum::UNLESS_STOPPED) => Restart::UnlessStopped,
        Some(RestartPolicyNameEnum::ON_FAILURE) => Restart::OnFailure {
            most: policy
                .maximum_retry_count
                .and_then(|most| u32::try_from(most).ok())
                .filter(|most| *most > 0),
        },
        _ => Restart::No,
    }
}

fn resources(host: &HostConfig) -> Resources {
    let positive =
        |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
    Resources {
        memory: positive(host.memory),
        nano_cpus: positive(host.nano_cpus),
        pids: positive(host.pids_limit).unwrap_or(0),
    }
}

fn mounts(points: &[MountPoint], host: &HostConfig) -> Result<Vec<Mount>> {
    let mut mounts = points.iter().map(mount).collect::<Result<Vec<_>>>()?;
    for target in host.tmpfs.iter().flatten().map(|(target, _)| target) {
        mounts.push(Mount {
            target: absolute(target),
            kind: MountKind::Tmpfs {
                size: 0,
                mode: 0o1777,
            },
            read_only: false,
            exec: false,
        });
    }
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(mounts)
}

fn mount(point: &MountPoint) -> Result<Mount> {
    let target = absolute(point.destination.as_deref().unwrap_or_default());
    let kind = match point.typ.as_deref() {
        Some("bind") => MountKind::Bind {
            source: absolute(point.source.as_deref().unwrap_or("")),
        },
        Some("volume") => MountKind::Volume {
            name: point.name.clone().unwrap_or_default(),
        },
        Some("tmpfs") => MountKind::Tmpfs {
            size: 0,
            mode: 0o1777,
        },
        other => {
            return Err(EngineError::Unsupported {
                what: format!("the mount at {}", target.display()),
                reason: format!("its kind {other:?} is not known"),
            });
        }
    };
    Ok(Mount {
        target,
        kind,
        read_only: !point.rw.unwrap_or(true),
        exec: true,
    })
}

fn timestamp(text: Option<&str>) -> Option<Timestamp> {
    text.filter(|text| *text != ZERO_TIME)
        .and_then(|text| text.parse().ok())
}
