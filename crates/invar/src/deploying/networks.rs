//! The networks of a project: made before its first service, removed after its last.

use std::path::Path;

use invar_engine::EngineError;
use invar_engine::embedded::{self, EmbeddedEngine, NetworkInfo, NetworkOptions};
use invar_rollout::compose::{NetworkMode, Project, ProjectNetwork};
use invar_rollout::driver::Store;

use crate::{exit, printer};

/// Label with the project that a network belongs to.
const PROJECT_LABEL: &str = "invar.project";

/// Makes the networks that these services are in.
pub(crate) fn ensure(
    engine: &EmbeddedEngine,
    project: &Project,
    services: &[&str],
) -> anyhow::Result<()> {
    let mut wanted = Vec::new();
    for service in services
        .iter()
        .filter_map(|name| project.services.get(*name))
    {
        let NetworkMode::Project {
            network, is_asked, ..
        } = &service.network
        else {
            continue;
        };
        if let Some(network) = project.networks.get(network)
            && (*is_asked || embedded::has_bridges())
            && !wanted.contains(&network)
        {
            wanted.push(network);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let there = engine.networks()?;
    for network in wanted {
        let found = there.iter().find(|found| found.name == network.name);
        match found {
            Some(found) => check(found, network, &project.name)?,
            None if network.is_external => {
                return Err(exit::failure(
                    format!("the external network {:?} is not there", network.name),
                    format!("make it with: invar network create {}", network.name),
                ));
            }
            None => make(engine, network, &project.name)?,
        }
    }
    Ok(())
}

/// A network of that name is used if it is this project's and what the file says.
fn check(found: &NetworkInfo, wanted: &ProjectNetwork, project: &str) -> anyhow::Result<()> {
    let name = &found.name;
    if wanted.is_external {
        return Ok(());
    }
    if found.labels.get(PROJECT_LABEL).map(String::as_str) != Some(project) {
        return Err(exit::failure(
            format!("the network {name:?} is there, and not of the project {project:?}"),
            "say external: true to use it, or give the project's another name",
        ));
    }
    if found.internal != wanted.is_internal || found.subnet6.is_some() != wanted.has_ipv6 {
        return Err(exit::failure(
            format!("the network {name:?} is there, and other than the file says"),
            format!("invar undeploy the services in it, then: invar network rm {name}"),
        ));
    }
    Ok(())
}

fn make(engine: &EmbeddedEngine, wanted: &ProjectNetwork, project: &str) -> anyhow::Result<()> {
    let mut options = NetworkOptions {
        ipv6: wanted.has_ipv6,
        internal: wanted.is_internal,
        labels: wanted.labels.clone(),
        ..NetworkOptions::default()
    };
    options
        .labels
        .insert(PROJECT_LABEL.to_owned(), project.to_owned());
    for range in &wanted.subnets {
        let place = if range.contains(':') {
            &mut options.subnet6
        } else {
            &mut options.subnet
        };
        if place.replace(range.clone()).is_some() {
            anyhow::bail!(
                "the network {:?} has two ranges of one version; write one",
                wanted.name
            );
        }
    }
    match engine.create_network(&wanted.name, &options) {
        Ok(_) => Ok(()),
        // Another deploy of the project made it meanwhile.
        Err(error) => match engine.networks()?.iter().find(|n| n.name == wanted.name) {
            Some(found) => check(found, wanted, project),
            None => Err(error.into()),
        },
    }
}

/// Removes the networks of the service's project if that was its last service.
pub(crate) fn tidy(root: &Path, service: &str) -> anyhow::Result<()> {
    let Some((project, _)) = service.split_once('.') else {
        return Ok(());
    };
    let is_of_it = |other: &str| {
        other
            .split_once('.')
            .is_some_and(|(name, _)| name == project)
    };
    let services = Store::open(root)?.services()?;
    if services.iter().any(|stored| is_of_it(&stored.service)) {
        return Ok(());
    }
    let engine = EmbeddedEngine::open(root)?;
    for network in engine.networks()? {
        if network.labels.get(PROJECT_LABEL).map(String::as_str) != Some(project) {
            continue;
        }
        match engine.remove_network(&network.id) {
            Ok(_) | Err(EngineError::NetworkNotFound { .. }) => {}
            // Somebody's own container is in it.
            Err(error @ EngineError::NetworkInUse { .. }) => {
                printer::note(format!("the network stays: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
