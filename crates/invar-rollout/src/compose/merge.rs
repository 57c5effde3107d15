//! `extends`: a service over the one it begins with.

use super::yaml::{Entry, Node, Value};

/// Lists that a service writes anew instead of adding to them.
const REPLACED: &[&str] = &["command", "entrypoint", "test", "steps", "gates"];
/// Keys that stay with the service that has them.
const NOT_INHERITED: &[&str] = &["extends", "depends_on"];

/// `over` with what only `base` has: mappings key by key, lists one after the other, single values
/// as `over` has them.
pub(super) fn extend(base: Node, over: Node) -> Node {
    let Value::Map(mut entries) = base.value else {
        return over;
    };
    entries.retain(|entry| !NOT_INHERITED.contains(&entry.key.as_str()));
    let base = Node {
        at: base.at,
        value: Value::Map(entries),
    };
    merge(base, over, "")
}

fn merge(base: Node, over: Node, key: &str) -> Node {
    let (base, over) = (named(base, key), named(over, key));
    let value = match (base.value, over.value) {
        (Value::Map(entries), Value::Map(mine)) => Value::Map(merge_entries(entries, mine)),
        (Value::List(mut items), Value::List(mine)) if !REPLACED.contains(&key) => {
            for item in mine {
                if !items.iter().any(|other| other.value == item.value) {
                    items.push(item);
                }
            }
            Value::List(items)
        }
        (base, Value::Null) => base,
        (_, mine) => mine,
    };
    Node { at: over.at, value }
}

fn merge_entries(mut entries: Vec<Entry>, mine: Vec<Entry>) -> Vec<Entry> {
    for entry in mine {
        match entries.iter_mut().find(|other| other.key == entry.key) {
            None => entries.push(entry),
            Some(found) => {
                let empty = Node {
                    at: entry.at.clone(),
                    value: Value::Null,
                };
                let base = std::mem::replace(&mut found.value, empty);
                found.value = merge(base, entry.value, &entry.key);
                found.at = entry.at;
            }
        }
    }
    entries
}

/// `environment` and `labels` as mappings, so that a name set twice is set once.
fn named(node: Node, key: &str) -> Node {
    if !matches!(key, "environment" | "labels") {
        return node;
    }
    let Value::List(items) = node.value else {
        return node;
    };
    let entry = |item: Node| {
        let Value::Scalar { text, .. } = &item.value else {
            return None;
        };
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.clone(), None),
        };
        Some(Entry {
            key,
            at: item.at.clone(),
            value: Node {
                at: item.at,
                value: value.map_or(Value::Null, |text| Value::Scalar {
                    text,
                    is_plain: false,
                }),
            },
        })
    };
    Node {
        at: node.at,
        value: Value::Map(items.into_iter().filter_map(entry).collect()),
    }
}
