//! Reads a mapping key by key. What nobody asked for is named in a warning, never lost in silence.

use super::error::{Result, Warning};
use super::yaml::{Entry, Node, Value};

/// The keys of one mapping that were not read yet.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// Where the mapping is, for example `services.web`.
    pub(super) path: String,
    rest: Vec<&'a Entry>,
}

impl<'a> Fields<'a> {
    /// The keys of a mapping; nothing at all counts as an empty one.
    pub(super) fn of(node: &'a Node, path: impl Into<String>) -> Result<Self> {
        let rest = match &node.value {
            Value::Null => Vec::new(),
            Value::Map(entries) => entries.iter().collect(),
            _ => {
                let reason = format!("{} is a mapping, not {}", path.into(), node.kind());
                return Err(node.at.error(reason));
            }
        };
        Ok(Self {
            path: path.into(),
            rest,
        })
    }

    /// The path of a key in this mapping.
    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Takes a key's value; a key without a value counts as not there.
    pub(super) fn take(&mut self, key: &str) -> Option<&'a Node> {
        let index = self.rest.iter().position(|entry| entry.key == key)?;
        let node = &self.rest.swap_remove(index).value;
        (node.value != Value::Null).then_some(node)
    }

    /// Takes a key's value and reads it with `read`.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&'a Node, &str) -> Result<T>,
    ) -> Result<Option<T>> {
        let path = self.path_of(key);
        self.take(key).map(|node| read(node, &path)).transpose()
    }

    /// Takes everything that is left, in the order of the file.
    pub(super) fn take_rest(&mut self) -> Vec<&'a Entry> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.sort_by_key(|entry| (entry.at.line, entry.at.column));
        rest
    }

    /// Names every key that is left. `known` says why a key of the specification has no effect;
    /// extensions (`x-…`) are somebody else's and stay silent.
    pub(super) fn finish(mut self, known: &[(&str, &str)], warnings: &mut Vec<Warning>) {
        let path = self.path.clone();
        for entry in self.take_rest() {
            if entry.key.starts_with("x-") && entry.key != "x-invar" {
                continue;
            }
            let reason = known.iter().find(|(key, _)| *key == entry.key);
            let message = match reason {
                Some((_, reason)) => format!("not honoured: {reason}"),
                None => "not honoured: Invar does not know this key".to_owned(),
            };
            warnings.push(Warning {
                at: entry.at.clone(),
                path: join(&path, &entry.key),
                message,
            });
        }
    }
}

/// `services` and `web` become `services.web`; what could deceive the reader is escaped.
pub(super) fn join(path: &str, key: &str) -> String {
    let key = key.escape_debug();
    if path.is_empty() {
        key.to_string()
    } else {
        format!("{path}.{key}")
    }
}
