//! Networks of the project, and which of them a service is in.

use std::collections::BTreeMap;

use super::error::{Result, Warning};
use super::fields::{Fields, join};
use super::model::{NetworkMode, ProjectNetwork};
use super::scalars::{boolean, settings, string, strings, text, wrong};
use super::yaml::{Node, Value};

/// The network of services that name none.
pub(super) const DEFAULT: &str = "default";
/// Other names of one service.
const MOST_ALIASES: usize = 64;

const ONE_NETWORK: &str = "a container is in one network, the first that is named";

/// Reads one network of the project.
pub(super) fn of_project(
    project: &str,
    key: &str,
    node: &Node,
    warnings: &mut Vec<Warning>,
) -> Result<ProjectNetwork> {
    let mut fields = Fields::of(node, join("networks", key))?;
    let is_external = fields.read("external", boolean)?.unwrap_or(false);
    let mut network = ProjectNetwork {
        is_external,
        ..default(project, key)
    };
    if is_external {
        key.clone_into(&mut network.name);
    }
    if let Some(name) = fields.read("name", string)? {
        network.name = name;
    }
    network.is_internal = fields.read("internal", boolean)?.unwrap_or(false);
    network.has_ipv6 = fields.read("enable_ipv6", boolean)?.unwrap_or(false);
    for (name, value) in fields.read("labels", settings)?.unwrap_or_default() {
        network.labels.insert(name, value.unwrap_or_default());
    }
    if let Some(node) = fields.take("driver") {
        let path = fields.path_of("driver");
        if !matches!(text(node, &path)?, "bridge" | "default") {
            return Err(wrong(node, &path, "bridge, which is the only driver"));
        }
    }
    if let Some(node) = fields.take("ipam") {
        network.subnets = subnets(node, &fields.path_of("ipam"), warnings)?;
    }
    // Any container can be attached.
    fields.take("attachable");
    fields.finish(&[("driver_opts", "a bridge has no options")], warnings);
    Ok(network)
}

/// The network of a key about which the file says nothing more.
pub(super) fn default(project: &str, key: &str) -> ProjectNetwork {
    ProjectNetwork {
        name: format!("{project}_{key}"),
        is_external: false,
        is_internal: false,
        has_ipv6: false,
        subnets: Vec::new(),
        labels: BTreeMap::new(),
    }
}

fn subnets(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<Vec<String>> {
    let mut fields = Fields::of(node, path)?;
    let mut subnets = Vec::new();
    if let Some(node) = fields.take("config") {
        let path = fields.path_of("config");
        let Value::List(items) = &node.value else {
            return Err(wrong(node, &path, "a list"));
        };
        for item in items {
            let mut fields = Fields::of(item, &*path)?;
            subnets.extend(fields.read("subnet", string)?);
            let reason = "the host has the first address, containers any other";
            fields.finish(&[("gateway", reason), ("ip_range", reason)], warnings);
        }
    }
    fields.finish(
        &[("driver", "there is one"), ("options", "there are none")],
        warnings,
    );
    Ok(subnets)
}

/// Reads `network_mode` and `networks` of a service.
pub(super) fn of_service(
    fields: &mut Fields<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<NetworkMode> {
    let mode = fields.read("network_mode", |node, path| {
        Ok(match text(node, path)? {
            "host" => NetworkMode::Host,
            "none" => NetworkMode::None,
            "bridge" | "default" => NetworkMode::Bridge,
            _ => return Err(wrong(node, path, "host, none or bridge")),
        })
    })?;
    let Some(node) = fields.take("networks") else {
        return Ok(mode.unwrap_or(NetworkMode::Project {
            network: DEFAULT.to_owned(),
            aliases: Vec::new(),
            is_asked: false,
        }));
    };
    let path = fields.path_of("networks");
    if mode.is_some() {
        let reason = format!("{path}: a service has either networks or network_mode");
        return Err(node.at.error(reason));
    }
    let mut asked = if matches!(node.value, Value::List(_)) {
        let names = strings(node, &path)?.into_iter();
        names.map(|name| (name, Vec::new())).collect()
    } else {
        with_settings(node, &path, warnings)?
    }
    .into_iter();
    let Some((network, aliases)) = asked.next() else {
        return Ok(NetworkMode::None);
    };
    for (other, _) in asked {
        warnings.push(Warning {
            at: node.at.clone(),
            path: join(&path, &other),
            message: format!("not honoured: {ONE_NETWORK}"),
        });
    }
    Ok(NetworkMode::Project {
        network,
        aliases,
        is_asked: true,
    })
}

/// The long form: a mapping from networks to what the service is there.
fn with_settings(
    node: &Node,
    path: &str,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<(String, Vec<String>)>> {
    const FOLLOWS: &str = "containers of two revisions run side by side, each with its own address";
    let mut all = Fields::of(node, path)?;
    let mut found = Vec::new();
    for entry in all.take_rest() {
        let mut fields = Fields::of(&entry.value, join(path, &entry.key))?;
        let aliases = fields.read("aliases", strings)?.unwrap_or_default();
        if aliases.len() > MOST_ALIASES {
            let reason = format!("{path}: more than {MOST_ALIASES} aliases");
            return Err(entry.at.error(reason));
        }
        fields.finish(
            &[
                ("ipv4_address", FOLLOWS),
                ("ipv6_address", FOLLOWS),
                ("mac_address", FOLLOWS),
                ("priority", ONE_NETWORK),
                ("gw_priority", ONE_NETWORK),
            ],
            warnings,
        );
        found.push((entry.key.clone(), aliases));
    }
    Ok(found)
}
