//! Configs and secrets: files of the project that a service sees.

use std::collections::BTreeMap;

use super::error::{Result, Warning};
use super::fields::{Fields, join};
use super::load::{Loader, read_bounded};
use super::model::GrantedFile;
use super::scalars::{boolean, string, text, wrong};
use super::yaml::{Node, Value};

/// Bytes of one config or secret.
const MOST_BYTES: u64 = 1 << 20;

/// Where the content of a config or secret comes from.
#[derive(Debug)]
pub(super) struct Source<'a> {
    node: &'a Node,
    path: String,
}

/// `configs` or `secrets` of the project.
pub(super) fn sources<'a>(node: &'a Node, path: &str) -> Result<BTreeMap<String, Source<'a>>> {
    let mut fields = Fields::of(node, path)?;
    let entries = fields.take_rest().into_iter();
    Ok(entries
        .map(|entry| {
            let source = Source {
                node: &entry.value,
                path: join(path, &entry.key),
            };
            (entry.key.clone(), source)
        })
        .collect())
}

/// Reads `configs` or `secrets` of a service.
pub(super) fn read(
    node: &Node,
    path: &str,
    sources: &BTreeMap<String, Source<'_>>,
    is_secret: bool,
    loader: &mut Loader<'_>,
) -> Result<Vec<GrantedFile>> {
    let Value::List(items) = &node.value else {
        return Err(wrong(node, path, "a list"));
    };
    let mut files = Vec::new();
    for item in items {
        let (name, target) = grant(item, path, &mut loader.warnings)?;
        let source = sources.get(&name).ok_or_else(|| {
            let kind = if is_secret { "secrets" } else { "configs" };
            item.at.error(format!(
                "{path}: {name:?} is not among the project's {kind}"
            ))
        })?;
        let target = match target {
            Some(target) if target.starts_with('/') => target,
            Some(target) if is_secret => format!("/run/secrets/{target}"),
            Some(target) => format!("/{target}"),
            None if is_secret => format!("/run/secrets/{name}"),
            None => format!("/{name}"),
        };
        let kind = if is_secret { "secret" } else { "config" };
        files.push(GrantedFile {
            label: format!("{kind} {}", name.escape_debug()),
            target,
            content: content(source, loader)?,
            is_secret,
        });
    }
    Ok(files)
}

/// The name of what is granted, and where it appears.
fn grant(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<(String, Option<String>)> {
    if !matches!(node.value, Value::Map(_)) {
        return Ok((string(node, path)?, None));
    }
    let mut fields = Fields::of(node, path)?;
    let name = fields
        .read("source", string)?
        .ok_or_else(|| node.at.error(format!("{path}: source is missing")))?;
    let target = fields.read("target", string)?;
    let ignored = "every program of the container may read the file, none may write it";
    fields.finish(
        &[("uid", ignored), ("gid", ignored), ("mode", ignored)],
        warnings,
    );
    Ok((name, target))
}

fn content(source: &Source<'_>, loader: &mut Loader<'_>) -> Result<Vec<u8>> {
    let mut fields = Fields::of(source.node, &*source.path)?;
    fields.take("name");
    let (file, environment, content) = (
        fields.take("file"),
        fields.take("environment"),
        fields.take("content"),
    );
    if fields.read("external", boolean)?.unwrap_or(false) {
        let reason = format!(
            "{}: external ones are kept nowhere here; name a file",
            source.path
        );
        return Err(source.node.at.error(reason));
    }
    fields.finish(&[], &mut loader.warnings);
    match (file, environment, content) {
        (Some(node), None, None) => {
            let path = node.at.resolve(text(node, &source.path)?);
            read_bounded(&path, MOST_BYTES)
        }
        (None, Some(node), None) => {
            let name = text(node, &source.path)?;
            let value = loader.variable(name).ok_or_else(|| {
                node.at
                    .error(format!("{}: the variable {name:?} is not set", source.path))
            })?;
            Ok(value.into_bytes())
        }
        (None, None, Some(node)) => Ok(text(node, &source.path)?.as_bytes().to_vec()),
        _ => Err(source.node.at.error(format!(
            "{} has one of file, environment and content",
            source.path
        ))),
    }
}
