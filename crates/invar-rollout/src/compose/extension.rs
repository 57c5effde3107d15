//! `x-invar`: what Invar adds to a service.

use std::time::Duration;

use super::error::{Result, Warning};
use super::fields::Fields;
use super::model::{DriftPolicy, Extension, Gate, RolloutPolicy};
use super::scalars::{boolean, duration, share, string, strings, text, wrong};
use super::yaml::Node;

/// Most steps of one rollout.
const MOST_STEPS: usize = 32;
/// Steps of a canary that does not say.
const DEFAULT_STEPS: [u32; 3] = [100, 1_000, 5_000];

/// Reads `x-invar` of a service.
pub(super) fn read(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<Extension> {
    let mut fields = Fields::of(node, path)?;
    let extension = Extension {
        drift: fields.read("drift", drift)?,
        allow: fields.read("allow", strings)?.unwrap_or_default(),
        health_path: fields.read("health", |node, path| {
            let text = string(node, path)?;
            if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
                Ok(text)
            } else {
                Err(wrong(node, path, "a path such as /health"))
            }
        })?,
        rollout: fields
            .read("rollout", |node, path| rollout(node, path, warnings))?
            .unwrap_or_default(),
    };
    fields.finish(&[], warnings);
    Ok(extension)
}

fn drift(node: &Node, path: &str) -> Result<DriftPolicy> {
    Ok(match text(node, path)? {
        "observe" => DriftPolicy::Observe,
        "block" => DriftPolicy::Block,
        "capture" => DriftPolicy::Capture,
        "replace" => DriftPolicy::Replace,
        _ => return Err(wrong(node, path, "observe, block, capture or replace")),
    })
}

fn rollout(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<RolloutPolicy> {
    let default = RolloutPolicy::default();
    let mut fields = Fields::of(node, path)?;
    let strategy = fields.read("strategy", |node, path| {
        let name = text(node, path)?;
        match name {
            "canary" => Ok(true),
            "blue-green" => Ok(false),
            _ => Err(wrong(node, path, "canary or blue-green")),
        }
    })?;
    let steps = match (strategy, fields.take("steps")) {
        (Some(false), Some(node)) => {
            return Err(node.at.error(format!(
                "{path}.steps: a blue-green rollout has no steps; write strategy: canary"
            )));
        }
        (_, Some(node)) => steps(node, &fields.path_of("steps"))?,
        (Some(true), None) => DEFAULT_STEPS.to_vec(),
        (_, None) => Vec::new(),
    };
    let policy = RolloutPolicy {
        steps,
        hold: time(&mut fields, "hold", default.hold)?,
        keep: time(&mut fields, "keep", default.keep)?,
        gates: fields.read("gates", gates)?.unwrap_or(default.gates),
        manual: fields.read("manual", boolean)?.unwrap_or(default.manual),
        margin: fields.read("margin", share)?.unwrap_or(default.margin),
        healthy_within: time(&mut fields, "healthy_within", default.healthy_within)?,
        drain: time(&mut fields, "drain", default.drain)?,
    };
    fields.finish(&[], warnings);
    Ok(policy)
}

fn time(fields: &mut Fields<'_>, key: &str, default: Duration) -> Result<Duration> {
    Ok(fields.read(key, duration)?.unwrap_or(default))
}

fn steps(node: &Node, path: &str) -> Result<Vec<u32>> {
    let super::yaml::Value::List(items) = &node.value else {
        return Err(wrong(node, path, "a list such as [1%, 10%, 50%]"));
    };
    let steps: Vec<u32> = items
        .iter()
        .map(|item| share(item, path))
        .collect::<Result<_>>()?;
    let is_growing = steps.windows(2).all(|pair| pair[0] < pair[1]);
    let is_inside = steps
        .iter()
        .all(|step| *step > 0 && *step < super::scalars::WHOLE);
    if steps.is_empty() || steps.len() > MOST_STEPS || !is_growing || !is_inside {
        let reason = format!(
            "{path} grows from more than 0% to less than 100%, in at most {MOST_STEPS} steps"
        );
        return Err(node.at.error(reason));
    }
    Ok(steps)
}

fn gates(node: &Node, path: &str) -> Result<Vec<Gate>> {
    let mut gates: Vec<Gate> = match &node.value {
        super::yaml::Value::List(items) => items
            .iter()
            .map(|item| match text(item, path)? {
                "errors" => Ok(Gate::Errors),
                "latency" => Ok(Gate::Latency),
                "drift" => Ok(Gate::Drift),
                _ => Err(wrong(item, path, "errors, latency or drift")),
            })
            .collect::<Result<_>>()?,
        _ => return Err(wrong(node, path, "a list of errors, latency and drift")),
    };
    gates.sort_unstable();
    gates.dedup();
    Ok(gates)
}
