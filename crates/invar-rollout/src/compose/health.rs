//! `healthcheck`: what runs inside the container to see whether it is well.

use std::time::Duration;

use super::error::{Result, Warning};
use super::fields::Fields;
use super::model::Healthcheck;
use super::scalars::{boolean, duration, integer, strings, text};
use super::yaml::{Node, Value};

/// Reads `healthcheck`; `None` when it is switched off.
pub(super) fn read(
    node: &Node,
    path: &str,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Healthcheck>> {
    let mut fields = Fields::of(node, path)?;
    let is_disabled = fields.read("disable", boolean)?.unwrap_or(false);
    let test = fields.read("test", test)?.flatten();
    let check = Healthcheck {
        test: test.clone().unwrap_or_default(),
        interval: fields
            .read("interval", duration)?
            .unwrap_or(Duration::from_secs(30)),
        timeout: fields
            .read("timeout", duration)?
            .unwrap_or(Duration::from_secs(30)),
        retries: fields.read("retries", integer)?.unwrap_or(3).max(1),
        start_period: fields
            .read("start_period", duration)?
            .unwrap_or(Duration::ZERO),
    };
    // Containers are checked often while they start, whatever this says.
    fields.take("start_interval");
    if test.is_none() && !is_disabled {
        warnings.push(Warning {
            at: node.at.clone(),
            path: path.to_owned(),
            message: "not honoured: without a test the image's own check is not read; \
                      a container counts as well once its port answers"
                .to_owned(),
        });
    }
    fields.finish(&[], warnings);
    Ok((!is_disabled && test.is_some()).then_some(check))
}

/// `[CMD, program, …]`, `[CMD-SHELL, text]`, a text for the shell, or `[NONE]`.
fn test(node: &Node, path: &str) -> Result<Option<Vec<String>>> {
    if !matches!(node.value, Value::List(_)) {
        return Ok(Some(shell(text(node, path)?)));
    }
    let words = strings(node, path)?;
    match words.split_first() {
        Some((kind, [])) if kind == "NONE" => Ok(None),
        Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => Ok(Some(rest.to_vec())),
        Some((kind, [line])) if kind == "CMD-SHELL" => Ok(Some(shell(line))),
        _ => Err(node.at.error(format!(
            "{path} begins with CMD, CMD-SHELL or NONE, and says what to run"
        ))),
    }
}

fn shell(line: &str) -> Vec<String> {
    ["/bin/sh", "-c", line].map(str::to_owned).to_vec()
}
