//! Layers against a model: a map from whole paths to files, each with the number of the layer that
//! brought it. Slow and simple where the tree is not.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;

use composefs::generic_tree::{Directory, Inode, LeafContent, Stat};
use proptest::prelude::*;

use super::Budget;
use super::tree::{Content, LayerTree, Tree, empty};
use crate::limits::Limits;

/// What an entry does, with names of one letter.
#[derive(Debug, Clone)]
enum Change {
    Directory(String),
    File(String),
    Symlink(String, String),
    Hardlink(String, String),
    Whiteout(String, String),
    Opaque(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Directory,
    File(usize),
    Symlink(usize, String),
}

#[derive(Debug, Clone)]
struct Node {
    layer: usize,
    kind: Kind,
}

/// Every path but the root, without a leading slash.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<String, Node>,
    layer: usize,
    inodes: usize,
}

impl Model {
    fn apply(&mut self, change: &Change) -> Result<(), ()> {
        match change {
            Change::Directory(path) => self.place(path, Kind::Directory),
            Change::File(path) => {
                let inode = self.inode();
                self.place(path, Kind::File(inode))
            }
            Change::Symlink(path, target) => {
                let inode = self.inode();
                self.place(path, Kind::Symlink(inode, target.clone()))
            }
            Change::Hardlink(path, target) => {
                let (parent, name) = split(target);
                let target = join(&self.resolve(parent)?, name);
                let kind = self.nodes.get(&target).ok_or(())?.kind.clone();
                if kind == Kind::Directory {
                    return Err(());
                }
                self.place(path, kind)
            }
            Change::Whiteout(parent, name) => {
                let path = join(&self.resolve(parent)?, name);
                let is_own = |node: &Node| node.layer == self.layer;
                if self.nodes.get(&path).is_some_and(|node| !is_own(node)) {
                    self.remove(&path);
                } else {
                    self.remove_lower(&path);
                }
                Ok(())
            }
            Change::Opaque(directory) => {
                let path = self.parent(directory)?;
                self.remove_lower(&path);
                Ok(())
            }
        }
    }

    fn inode(&mut self) -> usize {
        self.inodes += 1;
        self.inodes
    }

    fn place(&mut self, path: &str, kind: Kind) -> Result<(), ()> {
        let (parent, name) = split(path);
        let path = join(&self.parent(parent)?, name);
        let old = self.nodes.get(&path).map(|node| node.kind.clone());
        if kind != Kind::Directory || old != Some(Kind::Directory) {
            self.remove(&path);
        }
        let layer = self.layer;
        self.nodes.insert(path, Node { layer, kind });
        Ok(())
    }

    /// Makes what is missing of a directory, and all of it this layer's own.
    fn parent(&mut self, path: &str) -> Result<String, ()> {
        let path = self.resolve(path)?;
        let layer = self.layer;
        let mut made = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            made = join(&made, name);
            let kind = Kind::Directory;
            let node = self.nodes.entry(made.clone());
            node.or_insert(Node { layer, kind }).layer = layer;
        }
        Ok(path)
    }

    /// Replaces one symbolic link after the other by its target, from the start each time.
    fn resolve(&self, path: &str) -> Result<String, ()> {
        let mut names: Vec<String> = path.split('/').map(str::to_owned).collect();
        for _ in 0..=40 {
            let mut real = String::new();
            let mut rest = names.into_iter().filter(|name| !name.is_empty());
            let link = loop {
                let Some(name) = rest.next() else {
                    return Ok(real);
                };
                if name == ".." {
                    real = split(&real).0.to_owned();
                    continue;
                }
                let next = join(&real, &name);
                match self.nodes.get(&next).map(|node| &node.kind) {
                    Some(Kind::File(_)) => return Err(()),
                    Some(Kind::Symlink(_, target)) if target.starts_with('/') => {
                        break target.clone();
                    }
                    Some(Kind::Symlink(_, target)) => break join(&real, target),
                    Some(Kind::Directory) | None => real = next,
                }
            };
            names = link.split('/').map(str::to_owned).chain(rest).collect();
        }
        Err(())
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes
            .retain(|other, _| other != path && !other.starts_with(&below));
    }

    fn remove_lower(&mut self, path: &str) {
        let below = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let layer = self.layer;
        self.nodes
            .retain(|other, node| node.layer == layer || !other.starts_with(&below));
    }
}

fn join(parent: &str, name: &str) -> String {
    format!("{parent}/{name}").trim_matches('/').to_owned()
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn apply(tree: &mut LayerTree<'_>, change: &Change) -> Result<(), String> {
    match change {
        Change::Directory(path) => tree.directory(&parts(path), Stat::uninitialized()),
        Change::File(path) => {
            let content = LeafContent::Regular(Content::Inline([].into()));
            tree.leaf(&parts(path), Stat::uninitialized(), content)
        }
        Change::Symlink(path, target) => {
            let content = LeafContent::Symlink(OsStr::new(target).into());
            tree.leaf(&parts(path), Stat::uninitialized(), content)
        }
        Change::Hardlink(path, target) => tree.hardlink(&parts(path), target.as_bytes()),
        Change::Whiteout(parent, name) => tree.whiteout(&parts(parent), OsStr::new(name)),
        Change::Opaque(directory) => tree.opaque(&parts(directory)),
    }
}

fn parts(path: &str) -> Vec<&OsStr> {
    super::tree::split(path.as_bytes()).unwrap()
}

/// Every path of a tree with its kind; inodes numbered as in the tree.
fn listing(tree: &Tree) -> BTreeMap<String, Kind> {
    let mut all = BTreeMap::new();
    list(tree, &tree.root, "", &mut all);
    all
}

fn list(tree: &Tree, directory: &Directory<Content>, at: &str, all: &mut BTreeMap<String, Kind>) {
    for (name, inode) in directory.entries() {
        let path = join(at, name.to_str().unwrap());
        let kind = match inode {
            Inode::Directory(child) => {
                list(tree, child, &path, all);
                Kind::Directory
            }
            Inode::Leaf(id, _) => match &tree.leaf(*id).content {
                LeafContent::Symlink(target) => {
                    Kind::Symlink(id.0, target.to_str().unwrap().to_owned())
                }
                _ => Kind::File(id.0),
            },
        };
        all.insert(path, kind);
    }
}

/// The same paths, kinds and targets, and the same paths sharing an inode.
fn is_same(tree: &BTreeMap<String, Kind>, model: &BTreeMap<String, Node>) -> bool {
    let mut inodes = HashMap::new();
    let mut same_inode = |a: usize, b: usize| *inodes.entry(a).or_insert(b) == b;
    tree.keys().eq(model.keys())
        && tree
            .iter()
            .all(|(path, kind)| match (kind, &model[path].kind) {
                (Kind::Directory, Kind::Directory) => true,
                (Kind::File(a), Kind::File(b)) => same_inode(*a, *b),
                (Kind::Symlink(a, target), Kind::Symlink(b, other)) => {
                    target == other && same_inode(*a, *b)
                }
                _ => false,
            })
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|names| names.join("/"))
}

fn change() -> impl Strategy<Value = Change> {
    let target = proptest::collection::vec("[abc]|\\.\\.", 1..3);
    let target = (target, any::<bool>()).prop_map(|(names, is_absolute)| {
        let slash = if is_absolute { "/" } else { "" };
        format!("{slash}{}", names.join("/"))
    });
    let parent = || prop_oneof![1 => Just(String::new()), 3 => path()];
    prop_oneof![
        3 => path().prop_map(Change::Directory),
        4 => path().prop_map(Change::File),
        1 => (path(), target).prop_map(|(path, target)| Change::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Change::Hardlink(path, target)),
        2 => (parent(), "[abc]").prop_map(|(parent, name)| Change::Whiteout(parent, name)),
        1 => parent().prop_map(Change::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn layers_change_a_tree_as_they_change_a_map_of_paths(
        layers in proptest::collection::vec(proptest::collection::vec(change(), 0..12), 1..5),
    ) {
        let mut tree = empty();
        let mut budget = Budget::new(Limits::default());
        let mut model = Model::default();
        for layer in layers {
            model.layer += 1;
            let mut changes = LayerTree::new(&mut tree, &mut budget);
            for change in &layer {
                let (expected, found) = (model.apply(change), apply(&mut changes, change));
                prop_assert_eq!(expected.is_ok(), found.is_ok(), "{:?}: {:?}", change, found);
            }
            let found = listing(&tree);
            prop_assert!(is_same(&found, &model.nodes), "{:?}\n{:?}", found, model.nodes);
        }
    }
}
