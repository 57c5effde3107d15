//! YAML text becomes a tree in which every value knows its place.
//!
//! Bounded: by bytes, by depth, and by values after aliases are put in, so that a few lines of
//! aliases of aliases cannot fill the memory.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::error::{Position, Result};

/// Bytes of one file; a hundred times the largest in use.
pub(super) const MOST_BYTES: usize = 1 << 20;
/// Values of one file, those put in for aliases counted each time.
const MOST_NODES: usize = 100_000;
/// Levels of nesting; later stages recurse over the tree.
const MOST_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

/// What YAML can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    /// `is_plain`: without quotes, so that it may be a number or a boolean.
    Scalar {
        text: String,
        is_plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) value: Node,
}

impl Node {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// How many values are in it, itself counted.
    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar { .. } => 0,
            Value::List(items) => items.iter().map(Node::size).sum(),
            Value::Map(entries) => entries.iter().map(|entry| 1 + entry.value.size()).sum(),
        }
    }

    /// How many levels are below it.
    fn depth(&self) -> usize {
        match &self.value {
            Value::Null | Value::Scalar { .. } => 0,
            Value::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Value::Map(entries) => {
                let deepest = entries.iter().map(|entry| entry.value.depth()).max();
                1 + deepest.unwrap_or(0)
            }
        }
    }
}

/// Reads the one document of a text.
pub(super) fn parse(file: &Arc<Path>, text: &str) -> Result<Node> {
    let mut builder = Builder::new(file);
    if text.len() > MOST_BYTES {
        let reason = format!("the file has {} bytes; at most {MOST_BYTES}", text.len());
        return Err(builder.begin().error(reason));
    }
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.take(event, span)?,
            Err(error) => {
                let at = builder.at(error.marker().line(), error.marker().col());
                return Err(at.error(error.info()));
            }
        }
    }
    let empty = Node {
        at: builder.begin(),
        value: Value::Null,
    };
    Ok(builder.root.unwrap_or(empty))
}

/// A list or mapping that is being read.
struct Open {
    at: Position,
    anchor: usize,
    value: Value,
    /// A key whose value comes next.
    key: Option<(String, Position)>,
    /// Keys that stand in the mapping itself, as opposed to those merged with `<<`.
    own: HashSet<String>,
}

struct Builder<'a> {
    file: &'a Arc<Path>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
}

impl<'a> Builder<'a> {
    fn new(file: &'a Arc<Path>) -> Self {
        Self {
            file,
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            documents: 0,
            root: None,
        }
    }

    fn at(&self, line: usize, column: usize) -> Position {
        Position {
            file: Arc::clone(self.file),
            line,
            column: column + 1,
        }
    }

    fn begin(&self) -> Position {
        self.at(1, 0)
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<()> {
        let at = self.at(span.start.line(), span.start.col());
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(at.error("a second document begins here; one file is one project"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = is_text_tag(tag.as_deref(), &at)?;
                let is_plain = style == ScalarStyle::Plain && !is_text;
                let value = if is_plain && is_null(&text) {
                    Value::Null
                } else {
                    Value::Scalar {
                        text: text.into_owned(),
                        is_plain,
                    }
                };
                self.put(Node { at, value }, anchor)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let node = node.clone();
                    self.put(node, 0)
                }
                None => Err(at.error("this alias stands inside the value it names")),
            },
            Event::SequenceStart(anchor, tag) => {
                is_text_tag(tag.as_deref(), &at)?;
                self.begin_collection(at, anchor, Value::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                is_text_tag(tag.as_deref(), &at)?;
                self.begin_collection(at, anchor, Value::Map(Vec::new()))
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let node = Node {
                        at: open.at,
                        value: open.value,
                    };
                    self.put(node, open.anchor)
                }
                None => Ok(()),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin_collection(&mut self, at: Position, anchor: usize, value: Value) -> Result<()> {
        if self.open.len() >= MOST_DEPTH {
            return Err(at.error(format!("more than {MOST_DEPTH} levels of nesting")));
        }
        // A collection where a key should be is refused when it ends and is put in its place.
        self.open.push(Open {
            at,
            anchor,
            value,
            key: None,
            own: HashSet::new(),
        });
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn put(&mut self, node: Node, anchor: usize) -> Result<()> {
        self.nodes += node.size();
        if self.nodes > MOST_NODES {
            let reason = format!("more than {MOST_NODES} values, those of aliases counted");
            return Err(node.at.error(reason));
        }
        if self.open.len() + node.depth() > MOST_DEPTH {
            return Err(node
                .at
                .error(format!("more than {MOST_DEPTH} levels of nesting")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.value {
            Value::List(items) => {
                items.push(node);
                Ok(())
            }
            Value::Map(entries) => match open.key.take() {
                None => {
                    open.key = Some(key(node)?);
                    Ok(())
                }
                Some((key, at)) if key == "<<" => merge(entries, &open.own, node, &at),
                Some((key, at)) => {
                    if !open.own.insert(key.clone()) {
                        return Err(at.error(format!("{key:?} stands here a second time")));
                    }
                    // It wins over what was merged before it.
                    entries.retain(|entry| entry.key != key);
                    entries.push(Entry {
                        key,
                        at,
                        value: node,
                    });
                    Ok(())
                }
            },
            Value::Null | Value::Scalar { .. } => Ok(()),
        }
    }
}

fn key(node: Node) -> Result<(String, Position)> {
    match node.value {
        Value::Scalar { text, .. } => Ok((text, node.at)),
        Value::Null => Err(node.at.error("a key is missing")),
        Value::List(_) | Value::Map(_) => Err(node.at.error("a key is a single value")),
    }
}

/// `<<`: what the merged mapping has and this one does not.
fn merge(entries: &mut Vec<Entry>, own: &HashSet<String>, node: Node, at: &Position) -> Result<()> {
    let sources = match node.value {
        Value::List(items) => items,
        _ => vec![node],
    };
    let mut seen: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    for source in sources {
        let Value::Map(merged) = source.value else {
            return Err(at.error("<< takes a mapping or a list of mappings"));
        };
        for entry in merged {
            if !own.contains(&entry.key) && seen.insert(entry.key.clone()) {
                entries.push(entry);
            }
        }
    }
    Ok(())
}

/// Whether a tag makes a value text; tags that mean something else are refused.
fn is_text_tag(tag: Option<&Tag>, at: &Position) -> Result<bool> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema() => Ok(tag.suffix == "str"),
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Ok(true),
        Some(tag) => Err(at.error(format!(
            "the tag {:?} is not known here",
            format!("{}{}", tag.handle, tag.suffix)
        ))),
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn read(text: &str) -> Result<Node> {
        parse(&Path::new("f.yaml").into(), text)
    }

    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".into(),
            Value::Scalar { text, is_plain } if *is_plain => text.clone(),
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::List(items) => {
                format!(
                    "[{}]",
                    items.iter().map(shown).collect::<Vec<_>>().join(",")
                )
            }
            Value::Map(entries) => format!(
                "{{{}}}",
                entries
                    .iter()
                    .map(|entry| format!("{}:{}", entry.key, shown(&entry.value)))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
        }
    }

    #[test]
    fn a_text_becomes_a_tree() {
        for (text, expected) in [
            ("", "~"),
            ("a: 1\nb: [x, 'y']\n", "{a:1,b:[x,\"y\"]}"),
            ("a:\nb: ~\nc: ''\n", "{a:~,b:~,c:\"\"}"),
            ("a: !!str 1\n", "{a:\"1\"}"),
            ("a: &x {k: 1}\nb: *x\n", "{a:{k:1},b:{k:1}}"),
            (
                "a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  l: 3\n",
                "{a:{k:1,l:2},b:{k:1,l:3}}",
            ),
            (
                "a: &x {k: 1}\nb:\n  l: 3\n  k: 2\n  <<: [*x, {m: 4}]\n",
                "{a:{k:1},b:{l:3,k:2,m:4}}",
            ),
        ] {
            assert_eq!(shown(&read(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_place() {
        let deep = "[".repeat(70);
        for (text, expected) in [
            (
                "a: 1\na: 2\n",
                "f.yaml:2:1: \"a\" stands here a second time",
            ),
            ("a: [1\nb: 2\n", "f.yaml:2:"),
            ("a: b: c\n", "f.yaml:1:5:"),
            ("a:\n\t- b\n", "f.yaml:2:"),
            ("? [a]\n: b\n", "a key is a single value"),
            ("a: !secret x\n", "\"!secret\" is not known"),
            ("a: 1\n---\nb: 1\n", "f.yaml:2:1: a second document"),
            ("a: &x [*x]\n", "inside the value it names"),
            ("b:\n  <<: 1\n", "f.yaml:2:3: << takes a mapping"),
            (&deep, "more than 64 levels"),
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn aliases_of_aliases_cannot_fill_the_memory() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..30 {
            let before = format!("*a{}", level - 1);
            let list = vec![before; 10].join(", ");
            writeln!(bomb, "a{level}: &a{level} [{list}]").unwrap();
        }
        let said = read(&bomb).unwrap_err().to_string();
        assert!(said.contains("more than 100000 values"), "{said}");
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for level in 1..80 {
            writeln!(deep, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
        }
        let said = read(&deep).unwrap_err().to_string();
        assert!(said.contains("more than 64 levels"), "{said}");
    }
}
