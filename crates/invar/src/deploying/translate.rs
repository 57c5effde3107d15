//! A service of a compose file in the words of `invar run`.

use std::path::Path;

use anyhow::{Context as _, bail};
use invar_engine::{Network, embedded};
use invar_rollout::Definition;
use invar_rollout::compose::{NetworkMode, Project, Service, Volume, VolumeSource};
use invar_rollout::driver::place_file;

use super::Site;
use crate::container_config::{self, Host, ImageSettings, Options};
use crate::printer;

/// Label with the policy of changes.
pub(super) const DRIFT_LABEL: &str = "invar.drift";
/// The network that a daemon gives containers which ask for none.
const DAEMONS_NETWORK: &str = "bridge";
/// Label with paths that may change.
pub(super) const ALLOW_LABEL: &str = "invar.allow";

/// The revision a service asks for on this machine.
pub(crate) fn definition(
    project: &Project,
    name: &str,
    site: &Site,
    root: &Path,
) -> anyhow::Result<Definition> {
    let service = &project.services[name];
    build(project, name, service, site, root)
        .with_context(|| format!("{}: services.{name}", service.at))
}

fn build(
    project: &Project,
    name: &str,
    service: &Service,
    site: &Site,
    root: &Path,
) -> anyhow::Result<Definition> {
    if service.network == NetworkMode::None && !service.ports.is_empty() {
        bail!("it has ports, but network_mode: none lets nobody reach it");
    }
    let options = options(project, name, service, root)?;
    let (entrypoint, command) = program(service);
    let kind = site.engine.kind();
    let is_bridged = matches!(
        service.network,
        NetworkMode::Bridge | NetworkMode::Project { .. }
    );
    let is_on_daemons_network = kind != embedded::KIND && is_bridged;
    let mut options = Options {
        entrypoint,
        ..options
    };
    let is_restarted = options
        .restart
        .as_deref()
        .is_some_and(|words| words != "no");
    if is_on_daemons_network && is_restarted {
        // The daemon may give it another address, of which the gateway would not hear.
        options.restart = None;
        printer::note(format!(
            "warning: {}: restart is not honoured on {kind} without network_mode: host: an ended \
             container is replaced by the next deploy",
            service.at
        ));
    }
    if is_on_daemons_network {
        options.network_alias.clear();
        if matches!(service.network, NetworkMode::Project { is_asked, .. } if is_asked) {
            printer::note(format!(
                "warning: {}: networks are not honoured on {kind}: the service is in its network \
                 {DAEMONS_NETWORK:?}, without names",
                service.at
            ));
        }
    }
    let (id, config) = site.image(&service.image)?;
    let settings = ImageSettings {
        id: &id,
        name: &service.image,
        config: &config,
        // The driver runs the check of the file; the image's own is not read.
        health: None,
    };
    let mut config = container_config::resolve(&options, &command, &settings, &Host::here()?)?;
    if is_on_daemons_network {
        config.network = Network::Named(DAEMONS_NETWORK.to_owned());
    }
    Ok(Definition {
        engine: kind.to_owned(),
        config,
        replicas: service.deploy.replicas,
        ports: service.ports.clone(),
        healthcheck: service.healthcheck.clone(),
        health_path: service.invar.health_path.clone(),
        stop_grace: service.stop_grace_period,
        policy: service.invar.rollout.clone(),
        failure_action: service.deploy.failure_action,
        stop_first: service.deploy.stop_first,
    })
}

/// Entrypoint and command as `invar run` takes them: the entrypoint's first word, then the rest.
fn program(service: &Service) -> (Option<String>, Vec<String>) {
    let command = service.command.clone().unwrap_or_default();
    match service.entrypoint.as_deref() {
        None => (None, command),
        Some([]) => (Some(String::new()), command),
        Some([first, rest @ ..]) => {
            let words = rest.iter().cloned().chain(command);
            (Some(first.clone()), words.collect())
        }
    }
}

fn options(
    project: &Project,
    name: &str,
    service: &Service,
    root: &Path,
) -> anyhow::Result<Options> {
    let network = network(project, &service.network);
    let setting = |(name, value): &(String, Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    };
    let mut mounts = Vec::new();
    for volume in &service.volumes {
        mounts.push(mount(project, volume)?);
    }
    for file in &service.files {
        let source = place_file(root, &file.content, file.is_secret)?;
        let source = source.to_string_lossy();
        let source = plain(&source)?;
        let target = plain(&file.target)?;
        mounts.push(format!(
            "type=bind,source={source},target={target},readonly,exec=false"
        ));
    }
    let mut labels: Vec<String> = service
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if let Some(policy) = service.invar.drift {
        let policy = format!("{policy:?}").to_ascii_lowercase();
        labels.push(format!("{DRIFT_LABEL}={policy}"));
    }
    if !service.invar.allow.is_empty() {
        labels.push(format!("{ALLOW_LABEL}={}", service.invar.allow.join(" ")));
    }
    Ok(Options {
        env: service.environment.iter().map(setting).collect(),
        workdir: service.working_dir.clone(),
        user: service.user.clone(),
        init: service.init,
        interactive: service.stdin_open,
        tty: service.tty,
        stop_signal: service.stop_signal.clone(),
        read_only: service.read_only,
        mount: mounts,
        tmpfs: service.tmpfs.clone(),
        network_alias: names(name, &service.network, &network),
        network: Some(network),
        memory: service.deploy.memory.clone(),
        cpus: service.deploy.cpus.clone(),
        pids_limit: service.deploy.pids,
        restart: service.deploy.restart.clone(),
        cap_add: service.cap_add.clone(),
        cap_drop: service.cap_drop.clone(),
        hostname: service.hostname.clone(),
        label: labels,
        ..Options::default()
    })
}

/// The network of a service. Without a word about it, a host that can have none shares its own.
fn network(project: &Project, mode: &NetworkMode) -> Network {
    match mode {
        NetworkMode::None => Network::None,
        NetworkMode::Host => Network::Host,
        NetworkMode::Project {
            is_asked: false, ..
        }
        | NetworkMode::Bridge
            if !embedded::has_bridges() =>
        {
            Network::Host
        }
        NetworkMode::Bridge => Network::Named(embedded::DEFAULT_NETWORK.to_owned()),
        NetworkMode::Project { network, .. } => {
            let found = project.networks.get(network);
            Network::Named(found.map_or(network, |found| &found.name).clone())
        }
    }
}

/// Names of the service in its network: its own, and those the file gives it.
fn names(name: &str, mode: &NetworkMode, network: &Network) -> Vec<String> {
    let (NetworkMode::Project { aliases, .. }, Network::Named(network)) = (mode, network) else {
        return Vec::new();
    };
    if network == embedded::DEFAULT_NETWORK {
        return Vec::new();
    }
    let mut names = vec![name.to_owned()];
    // A service may be called what no host can be.
    names.retain(|name| container_config::host_name(name).is_ok());
    names.extend(aliases.iter().filter(|alias| *alias != name).cloned());
    names
}

fn mount(project: &Project, volume: &Volume) -> anyhow::Result<String> {
    let mut fields = match &volume.source {
        VolumeSource::Bind(path) => vec![
            "type=bind".to_owned(),
            format!("source={}", plain(&path.to_string_lossy())?),
        ],
        VolumeSource::Named(key) => {
            let name = project.volumes.get(key).map_or(key, |volume| &volume.name);
            vec!["type=volume".to_owned(), format!("source={}", plain(name)?)]
        }
        VolumeSource::Anonymous => vec!["type=volume".to_owned()],
        VolumeSource::Tmpfs { size, mode } => {
            let mut fields = vec!["type=tmpfs".to_owned()];
            fields.extend(size.as_ref().map(|size| format!("tmpfs-size={size}")));
            fields.extend(mode.as_ref().map(|mode| format!("tmpfs-mode={mode}")));
            fields
        }
    };
    fields.push(format!("target={}", plain(&volume.target)?));
    if volume.read_only {
        fields.push("readonly".to_owned());
    }
    if volume.exec {
        fields.push("exec".to_owned());
    }
    Ok(fields.join(","))
}

/// A comma would begin another field.
fn plain(text: &str) -> anyhow::Result<&str> {
    if text.contains(',') {
        bail!("{text:?} has a comma, which the path of a mount cannot have");
    }
    Ok(text)
}
