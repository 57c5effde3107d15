//! Mounts: `./data:/data:ro`, `name:/data`, `/data`, and the long form.

use std::path::PathBuf;

use super::error::{Result, Warning};
use super::fields::Fields;
use super::model::{Volume, VolumeSource};
use super::scalars::{boolean, integer, string, text, wrong};
use super::yaml::{Node, Value};

/// Reads `volumes` of a service. Relative paths begin at the directory of the file they stand in.
pub(super) fn read(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<Vec<Volume>> {
    let Value::List(items) = &node.value else {
        return Err(wrong(node, path, "a list"));
    };
    let mut volumes: Vec<Volume> = Vec::new();
    for item in items {
        let volume = match item.value {
            Value::Map(_) => long(item, path, warnings)?,
            _ => short(item, path)?,
        };
        // A later one wins, as when a service extends another.
        volumes.retain(|other| other.target != volume.target);
        volumes.push(volume);
    }
    Ok(volumes)
}

fn short(node: &Node, path: &str) -> Result<Volume> {
    let text = text(node, path)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (VolumeSource::Anonymous, target, ""),
        [source, target] => (source_of(node, source)?, target, ""),
        [source, target, options] => (source_of(node, source)?, target, options),
        _ => return Err(wrong(node, path, "SOURCE:PATH[:OPTIONS]")),
    };
    let mut volume = Volume {
        read_only: false,
        exec: false,
        source,
        target: target.to_owned(),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            "rw" => volume.read_only = false,
            "exec" => volume.exec = true,
            "noexec" => volume.exec = false,
            // Labels of SELinux and hints for file servers; nothing on this host needs them.
            "z" | "Z" | "cached" | "delegated" | "consistent" | "private" | "rprivate" => {}
            _ => {
                let reason = format!("{path}: option {option:?} is not ro, rw, exec or noexec");
                return Err(node.at.error(reason));
            }
        }
    }
    Ok(volume)
}

fn source_of(node: &Node, source: &str) -> Result<VolumeSource> {
    let is_path = source.starts_with(['/', '.', '~']);
    Ok(if is_path {
        VolumeSource::Bind(host_path(node, source)?)
    } else {
        VolumeSource::Named(source.to_owned())
    })
}

fn host_path(node: &Node, source: &str) -> Result<PathBuf> {
    let path = match source.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
            PathBuf::from(home + rest)
        }
        _ => node.at.resolve(source),
    };
    std::path::absolute(&path).map_err(|error| {
        node.at
            .error(format!("{} has no absolute path: {error}", path.display()))
    })
}

fn long(node: &Node, path: &str, warnings: &mut Vec<Warning>) -> Result<Volume> {
    let mut fields = Fields::of(node, path)?;
    let kind = fields.read("type", string)?.unwrap_or_default();
    let source = fields.take("source");
    let target = fields
        .read("target", string)?
        .ok_or_else(|| node.at.error(format!("{path}: target is missing")))?;
    let mut tmpfs = (None, None);
    if let Some(section) = fields.take("tmpfs") {
        let mut section = Fields::of(section, fields.path_of("tmpfs"))?;
        tmpfs.0 = section.read("size", string)?;
        tmpfs.1 = section.read("mode", |node, path| {
            integer::<u32>(node, path).map(|mode| format!("{mode:o}"))
        })?;
        section.finish(&[], warnings);
    }
    let source = match (kind.as_str(), source) {
        ("bind", Some(node)) => VolumeSource::Bind(host_path(node, text(node, path)?)?),
        ("volume", Some(node)) => VolumeSource::Named(string(node, path)?),
        ("volume", None) => VolumeSource::Anonymous,
        ("tmpfs", None) => VolumeSource::Tmpfs {
            size: tmpfs.0,
            mode: tmpfs.1,
        },
        ("bind", None) => return Err(node.at.error(format!("{path}: source is missing"))),
        ("tmpfs", Some(node)) => return Err(node.at.error(format!("{path}: tmpfs has no source"))),
        _ => {
            let reason = format!("{path}: type is bind, volume or tmpfs, not {kind:?}");
            return Err(node.at.error(reason));
        }
    };
    let read_only = fields.read("read_only", boolean)?.unwrap_or(false);
    fields.take("consistency");
    fields.finish(
        &[
            (
                "bind",
                "what is bound must exist, and nothing of it is shared back",
            ),
            ("volume", "a volume is mounted as it is"),
        ],
        warnings,
    );
    Ok(Volume {
        source,
        target,
        read_only,
        exec: false,
    })
}
