//! `deploy`: replicas, limits, and what a failed update does.

use super::error::{Result, Warning};
use super::fields::Fields;
use super::model::{Deploy, FailureAction};
use super::scalars::{integer, string, text, wrong};
use super::yaml::Node;

/// Containers of one revision; the gateway's number of endpoints.
const MOST_REPLICAS: u32 = 256;

impl Default for Deploy {
    fn default() -> Self {
        Self {
            replicas: 1,
            memory: None,
            cpus: None,
            pids: None,
            failure_action: FailureAction::Rollback,
            stop_first: false,
            restart: None,
        }
    }
}

/// Keys that have no meaning on one host, or come later.
const NOT_HONOURED: &[(&str, &str)] = &[
    ("mode", "a service has as many containers as replicas says"),
    ("placement", "there is one host"),
    ("endpoint_mode", "the gateway is the way in"),
    ("labels", "labels are those of the service"),
];

/// Reads `deploy` of a service.
pub(super) fn read(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<Deploy> {
    let mut fields = Fields::of(node, path)?;
    let mut deploy = Deploy::default();
    if let Some(node) = fields.take("replicas") {
        deploy.replicas = integer(node, &fields.path_of("replicas"))?;
        if !(1..=MOST_REPLICAS).contains(&deploy.replicas) {
            let wanted = format!("between 1 and {MOST_REPLICAS}");
            return Err(wrong(node, &fields.path_of("replicas"), &wanted));
        }
    }
    if let Some(node) = fields.take("resources") {
        resources(node, &fields.path_of("resources"), &mut deploy, warnings)?;
    }
    if let Some(node) = fields.take("update_config") {
        update(
            node,
            &fields.path_of("update_config"),
            &mut deploy,
            warnings,
        )?;
    }
    if let Some(node) = fields.take("rollback_config") {
        rollback(node, &fields.path_of("rollback_config"), warnings)?;
    }
    if let Some(node) = fields.take("restart_policy") {
        let path = fields.path_of("restart_policy");
        deploy.restart = Some(restart(node, &path, warnings)?);
    }
    fields.finish(NOT_HONOURED, warnings);
    Ok(deploy)
}

/// `restart_policy` in the words of `restart`.
fn restart(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<String> {
    let mut fields = Fields::of(node, path)?;
    let most: Option<u32> = fields.read("max_attempts", integer)?;
    let condition = fields.read("condition", |node, path| match text(node, path)? {
        condition @ ("none" | "on-failure" | "any") => Ok(condition.to_owned()),
        _ => Err(wrong(node, path, "none, on-failure or any")),
    })?;
    let words = match (condition.as_deref().unwrap_or("any"), most) {
        ("none", _) => "no".to_owned(),
        ("on-failure", Some(most)) => format!("on-failure:{most}"),
        ("on-failure", None) => "on-failure".to_owned(),
        (_, None) => "always".to_owned(),
        (_, Some(_)) => {
            let reason = format!("{path}.max_attempts goes with condition: on-failure only");
            return Err(node.at.error(reason));
        }
    };
    let reason = "pauses between starts grow by themselves";
    fields.finish(&[("delay", reason), ("window", reason)], warnings);
    Ok(words)
}

/// `restart` of a service: `no`, `always`, `unless-stopped`, `on-failure[:TIMES]`.
pub(super) fn short_restart(node: &Node, path: &str) -> Result<String> {
    // Written without quotes, `no` is what YAML 1.1 takes for false.
    let words = text(node, path)?;
    let is_known = match words.strip_prefix("on-failure") {
        Some("") => true,
        Some(times) => times
            .strip_prefix(':')
            .is_some_and(|n| n.parse::<u32>().is_ok()),
        None => matches!(words, "no" | "always" | "unless-stopped"),
    };
    if is_known {
        return Ok(words.to_owned());
    }
    let wanted = "no, always, unless-stopped or on-failure[:TIMES]";
    Err(wrong(node, path, wanted))
}

fn resources(
    node: &Node,
    path: &str,
    deploy: &mut Deploy,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    let mut fields = Fields::of(node, path)?;
    if let Some(limits) = fields.take("limits") {
        let mut limits = Fields::of(limits, fields.path_of("limits"))?;
        deploy.memory = limits.read("memory", string)?;
        deploy.cpus = limits.read("cpus", string)?;
        deploy.pids = limits.read("pids", integer)?;
        limits.finish(&[], warnings);
    }
    fields.finish(&[("reservations", "nothing is set aside")], warnings);
    Ok(())
}

/// A rollback is one pointer: what says the same is honoured, everything else is named.
fn rollback(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<()> {
    const REASON: &str = "a rollback is all at once, and at once";
    let mut fields = Fields::of(node, path)?;
    if let Some(node) = fields.take("parallelism") {
        let parallelism: u32 = integer(node, &fields.path_of("parallelism"))?;
        if parallelism != 0 {
            warnings.push(different(node, &fields, "parallelism", REASON));
        }
    }
    if let Some(node) = fields.take("order") {
        let path = fields.path_of("order");
        match text(node, &path)? {
            "start-first" => {}
            "stop-first" => {
                let reason = "the revision before runs until, and after, it has the traffic";
                warnings.push(different(node, &fields, "order", reason));
            }
            _ => return Err(wrong(node, &path, "start-first or stop-first")),
        }
    }
    if let Some(node) = fields.take("failure_action") {
        let path = fields.path_of("failure_action");
        match text(node, &path)? {
            // A way back that cannot be gone is told, and waits for a person.
            "pause" => {}
            "continue" => {
                let reason = "a container that is not well gets no traffic";
                warnings.push(different(node, &fields, "failure_action", reason));
            }
            _ => return Err(wrong(node, &path, "pause or continue")),
        }
    }
    let names = ["delay", "monitor", "max_failure_ratio"];
    fields.finish(&names.map(|name| (name, REASON)), warnings);
    Ok(())
}

fn different(node: &Node, fields: &Fields<'_>, key: &str, reason: &str) -> Warning {
    Warning {
        at: node.at.clone(),
        path: fields.path_of(key),
        message: format!("not honoured: {reason}"),
    }
}

fn update(node: &Node, path: &str, deploy: &mut Deploy, warnings: &mut Vec<Warning>) -> Result<()> {
    let mut fields = Fields::of(node, path)?;
    if let Some(node) = fields.take("failure_action") {
        deploy.failure_action = match text(node, path)? {
            "rollback" => FailureAction::Rollback,
            "pause" => FailureAction::Pause,
            "continue" => {
                let reason = format!(
                    "{path}.failure_action: a bad revision is never taken further; \
                     write rollback or pause"
                );
                return Err(node.at.error(reason));
            }
            _ => {
                return Err(wrong(
                    node,
                    &fields.path_of("failure_action"),
                    "rollback or pause",
                ));
            }
        };
    }
    if let Some(node) = fields.take("order") {
        deploy.stop_first = match text(node, path)? {
            "start-first" => false,
            "stop-first" => true,
            _ => {
                return Err(wrong(
                    node,
                    &fields.path_of("order"),
                    "start-first or stop-first",
                ));
            }
        };
    }
    fields.finish(
        &[
            (
                "parallelism",
                "x-invar.rollout.steps says how fast traffic moves",
            ),
            ("delay", "x-invar.rollout.hold says how long a step takes"),
            ("monitor", "x-invar.rollout.hold says how long a step takes"),
            (
                "max_failure_ratio",
                "the judge compares with the revision before",
            ),
        ],
        warnings,
    );
    Ok(())
}
