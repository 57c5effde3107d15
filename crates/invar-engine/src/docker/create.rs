//! A container of a [`ContainerConfig`], in the daemon's words.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, HostConfig, Mount as ApiMount, MountType, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use tokio::runtime::Runtime;

use super::api_error;
use super::networks;
use crate::config::{ContainerConfig, Mount, MountKind, Network, Restart};
use crate::container::{ContainerId, ContainerName};
use crate::error::{EngineError, Result};

/// Makes the container; nothing is started.
pub(super) fn create(
    runtime: &Runtime,
    docker: &Docker,
    name: &ContainerName,
    config: &ContainerConfig,
) -> Result<ContainerId> {
    let body = body(config)?;
    let options = CreateContainerOptionsBuilder::default()
        .name(name.as_str())
        .build();
    let created = runtime
        .block_on(docker.create_container(Some(options), body))
        .map_err(|error| api_error(name.as_str(), error))?;
    ContainerId::try_from(created.id)
}

/// Every setting is given, so that neither the image nor the daemon adds one of its own.
fn body(config: &ContainerConfig) -> Result<ContainerCreateBody> {
    let Some((program, args)) = config.args.split_first() else {
        return Err(EngineError::InvalidConfig {
            what: "command".to_owned(),
            reason: "it is empty".to_owned(),
        });
    };
    let labels: HashMap<String, String> = config.labels.clone().into_iter().collect();
    Ok(ContainerCreateBody {
        image: Some(config.image.clone()),
        entrypoint: Some(vec![program.clone()]),
        cmd: Some(args.to_vec()),
        env: Some(config.env.clone()),
        working_dir: Some(config.cwd.display().to_string()),
        user: Some(config.user.0.clone()),
        hostname: Some(config.hostname.clone()).filter(|name| !name.is_empty()),
        labels: Some(labels),
        tty: Some(config.tty),
        open_stdin: Some(config.interactive),
        stop_signal: Some(config.stop_signal.clone()),
        host_config: Some(host(config)),
        ..ContainerCreateBody::default()
    })
}

fn host(config: &ContainerConfig) -> HostConfig {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    HostConfig {
        readonly_rootfs: Some(!config.writable),
        mounts: Some(config.mounts.iter().filter_map(mount).collect()),
        tmpfs: Some(config.mounts.iter().filter_map(tmpfs).collect()),
        network_mode: Some(match &config.network {
            Network::None => "none".to_owned(),
            Network::Host => "host".to_owned(),
            Network::Container(other) => format!("container:{other}"),
            Network::Named(name) => name.clone(),
        }),
        port_bindings: Some(networks::bindings(&config.networking)),
        dns: Some(
            config
                .networking
                .dns
                .iter()
                .map(ToString::to_string)
                .collect(),
        ),
        dns_search: Some(config.networking.dns_search.clone()),
        extra_hosts: Some(networks::extra_hosts(&config.networking)),
        memory: config.resources.memory.map(signed),
        nano_cpus: config.resources.nano_cpus.map(signed),
        pids_limit: Some(signed(config.resources.pids)),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(config.capabilities.clone()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        init: Some(config.init),
        auto_remove: Some(config.auto_remove),
        restart_policy: Some(restart(config.restart)),
        ..HostConfig::default()
    }
}

fn restart(policy: Restart) -> RestartPolicy {
    let (name, most) = match policy {
        Restart::No => (RestartPolicyNameEnum::NO, None),
        Restart::Always => (RestartPolicyNameEnum::ALWAYS, None),
        Restart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        Restart::OnFailure { most } => (RestartPolicyNameEnum::ON_FAILURE, most),
    };
    RestartPolicy {
        name: Some(name),
        maximum_retry_count: most.map(i64::from),
    }
}

/// A bind mount or a volume. The daemon has no `noexec` for either.
fn mount(mount: &Mount) -> Option<ApiMount> {
    let (typ, source) = match &mount.kind {
        MountKind::Bind { source } => (MountType::BIND, source.display().to_string()),
        MountKind::Volume { name } => (MountType::VOLUME, name.clone()),
        MountKind::Tmpfs { .. } => return None,
    };
    Some(ApiMount {
        typ: Some(typ),
        source: Some(source),
        target: Some(mount.target.display().to_string()),
        read_only: Some(mount.read_only),
        ..ApiMount::default()
    })
}

fn tmpfs(mount: &Mount) -> Option<(String, String)> {
    let MountKind::Tmpfs { size, mode } = &mount.kind else {
        return None;
    };
    let access = if mount.read_only { "ro" } else { "rw" };
    let exec = if mount.exec { "exec" } else { "noexec" };
    let options = format!("{access},{exec},nosuid,nodev,size={size},mode={mode:o}");
    Some((mount.target.display().to_string(), options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Resources, User};

    #[test]
    fn every_setting_reaches_the_daemon() {
        let config = ContainerConfig {
            image: "sha256:1".to_owned(),
            image_name: "web".to_owned(),
            args: ["serve", "-f"].map(str::to_owned).to_vec(),
            env: vec!["A=1".to_owned()],
            cwd: "/srv".into(),
            user: User("1:2".to_owned()),
            hostname: String::new(),
            writable: false,
            mounts: vec![
                Mount {
                    target: "/data".into(),
                    kind: MountKind::Volume {
                        name: "data".to_owned(),
                    },
                    read_only: true,
                    exec: false,
                },
                Mount {
                    target: "/tmp".into(),
                    kind: MountKind::Tmpfs {
                        size: 64,
                        mode: 0o1777,
                    },
                    read_only: false,
                    exec: false,
                },
            ],
            network: Network::Named("bridge".to_owned()),
            networking: crate::config::Networking::default(),
            resources: Resources {
                memory: Some(1 << 20),
                nano_cpus: None,
                pids: 7,
            },
            capabilities: vec!["CAP_KILL".to_owned()],
            init: true,
            tty: false,
            interactive: false,
            stop_signal: "SIGINT".to_owned(),
            auto_remove: false,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            restart: crate::config::Restart::default(),
            health: None,
            userns: crate::config::UserNamespace::Host,
            apparmor: crate::config::AppArmor::Default,
        };
        let body = body(&config).unwrap();
        assert_eq!(body.entrypoint, Some(vec!["serve".to_owned()]));
        assert_eq!(body.cmd, Some(vec!["-f".to_owned()]));
        assert_eq!(body.hostname, None);
        let host = body.host_config.unwrap();
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.network_mode.as_deref(), Some("bridge"));
        assert_eq!(host.pids_limit, Some(7));
        let mounts = host.mounts.unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].read_only, Some(true));
        let tmpfs = host.tmpfs.unwrap();
        assert_eq!(tmpfs["/tmp"], "rw,noexec,nosuid,nodev,size=64,mode=1777");
    }
}
