//! A fresh container with the settings of an existing one, as `docker create` would have made it.
//!
//! Everything a user or Compose gave is carried over: configuration, host configuration, labels,
//! volumes (anonymous ones by name), networks with their aliases and fixed addresses. What the
//! daemon made up for the old container (its id as host name and alias, addresses it chose, MAC
//! addresses) is not.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, ContainerCreateResponse, ContainerInspectResponse, EndpointSettings,
    HostConfig, Mount, MountPoint, MountType, NetworkConnectRequest, NetworkingConfig,
};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use tokio::runtime::Runtime;

use super::{api_error, failed};
use crate::container::{ContainerId, ContainerName};
use crate::error::Result;

/// Makes the container and connects its networks; nothing is started.
pub(super) fn recreate(
    runtime: &Runtime,
    docker: &Docker,
    old: ContainerInspectResponse,
    name: &ContainerName,
) -> Result<ContainerId> {
    let mut endpoints = endpoints(&old);
    let image = old.image.clone();
    let body = body(old, &mut endpoints)?;
    runtime.block_on(async {
        let refused = |error| api_error(name.as_str(), error);
        let created = create(docker, name, body, image).await.map_err(refused)?;
        // `create` takes one network before API 1.44; the others are connected one by one.
        for (network, endpoint) in endpoints {
            let request = NetworkConnectRequest {
                container: created.id.clone(),
                endpoint_config: Some(endpoint),
            };
            docker
                .connect_network(&network, request)
                .await
                .map_err(refused)?;
        }
        ContainerId::try_from(created.id)
    })
}

/// Makes the container from the very image `id`: by the name the user gave it, which listings then
/// show, as long as that means this image; else by the id.
async fn create(
    docker: &Docker,
    name: &ContainerName,
    mut body: ContainerCreateBody,
    id: Option<String>,
) -> std::result::Result<ContainerCreateResponse, bollard::errors::Error> {
    let options = || {
        CreateContainerOptionsBuilder::default()
            .name(name.as_str())
            .build()
    };
    if id.is_some() && meaning(docker, body.image.as_deref()).await == id {
        let created = docker
            .create_container(Some(options()), body.clone())
            .await?;
        // The name may have been given to another image since it was looked up.
        let made = docker.inspect_container(&created.id, None).await?;
        if made.image == id {
            return Ok(created);
        }
        docker.remove_container(&created.id, None).await?;
    }
    body.image = id.or(body.image);
    docker.create_container(Some(options()), body).await
}

/// The id of the image that a name means.
async fn meaning(docker: &Docker, name: Option<&str>) -> Option<String> {
    let found = docker.inspect_image(name?).await.ok()?;
    found.id
}

/// The settings of the old container in the form `create` takes; the primary network moves out of
/// `endpoints` into them.
fn body(
    old: ContainerInspectResponse,
    endpoints: &mut HashMap<String, EndpointSettings>,
) -> Result<ContainerCreateBody> {
    let id = old.id.unwrap_or_default();
    let config = old.config.unwrap_or_default();
    let mut host = old.host_config.unwrap_or_default();
    keep_anonymous_volumes(&mut host, old.mounts.as_deref().unwrap_or_default());
    let json = serde_json::to_value(&config).and_then(serde_json::from_value);
    let mut body: ContainerCreateBody =
        json.map_err(|error| failed("read the container's settings", &error.to_string()))?;
    if body
        .hostname
        .as_deref()
        .is_some_and(|hostname| id.starts_with(hostname))
    {
        body.hostname = None;
    }
    plain_limits(&mut host);
    let primary = host.network_mode.clone().unwrap_or_default();
    body.networking_config = endpoints
        .remove_entry(&primary)
        .map(|entry| NetworkingConfig {
            endpoints_config: Some(HashMap::from([entry])),
        });
    body.host_config = Some(host);
    Ok(body)
}

/// Podman answers with the kernel's names of limits (`RLIMIT_NOFILE`) and takes only those of
/// `--ulimit` (`nofile`).
fn plain_limits(host: &mut HostConfig) {
    for limit in host.ulimits.iter_mut().flatten() {
        if let Some(name) = limit
            .name
            .as_deref()
            .and_then(|name| name.strip_prefix("RLIMIT_"))
        {
            limit.name = Some(name.to_ascii_lowercase());
        }
    }
}

/// An anonymous volume is named only in `Mounts`; without this the fresh container would get an
/// empty one.
fn keep_anonymous_volumes(host: &mut HostConfig, points: &[MountPoint]) {
    let named: Vec<String> = host
        .binds
        .iter()
        .flatten()
        .filter_map(|bind| bind.split(':').nth(1).map(str::to_owned))
        .chain(
            host.mounts
                .iter()
                .flatten()
                .filter_map(|mount| mount.target.clone()),
        )
        .collect();
    for point in points
        .iter()
        .filter(|point| point.typ.as_deref() == Some("volume"))
    {
        let (Some(source), Some(target)) = (&point.name, &point.destination) else {
            continue;
        };
        if named.contains(target) {
            continue;
        }
        host.mounts.get_or_insert_default().push(Mount {
            typ: Some(MountType::VOLUME),
            source: Some(source.clone()),
            target: Some(target.clone()),
            read_only: point.rw.map(|rw| !rw),
            ..Mount::default()
        });
    }
}

/// The networks with what the user asked of them only.
fn endpoints(old: &ContainerInspectResponse) -> HashMap<String, EndpointSettings> {
    let id = old.id.as_deref().unwrap_or_default();
    let networks = old
        .network_settings
        .iter()
        .filter_map(|settings| settings.networks.as_ref());
    let asked = networks.flatten().map(|(network, endpoint)| {
        let aliases = endpoint.aliases.clone().map(|aliases| {
            aliases
                .into_iter()
                .filter(|alias| !id.starts_with(alias.as_str()))
                .collect()
        });
        let asked = EndpointSettings {
            ipam_config: endpoint.ipam_config.clone(),
            links: endpoint.links.clone(),
            driver_opts: endpoint.driver_opts.clone(),
            aliases,
            ..EndpointSettings::default()
        };
        (network.clone(), asked)
    });
    asked.collect()
}
