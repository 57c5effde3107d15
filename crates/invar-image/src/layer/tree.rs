//! The file tree of an image in memory, and how a layer's entries change it.
//!
//! Paths of a layer only ever choose a place in this tree; none reaches the host. Links are
//! followed inside the tree alone, as a process inside the container would.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use composefs::generic_tree::{Directory, FileSystem, Inode, LeafContent, Stat};

use super::budget::Budget;
use super::own::Own;
use crate::limits;
use crate::objects::Pending;

/// A regular file's content.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// At most [`composefs::INLINE_CONTENT_MAX_V0`] bytes.
    Inline(Box<[u8]>),
    /// An object and its size in bytes.
    Object(Pending, u64),
}

/// Every file of an image.
pub(crate) type Tree = FileSystem<Content>;

/// Why an entry is refused.
type Refusal = String;

/// An empty root directory, for layers that have no entry for it.
pub(crate) fn empty() -> Tree {
    Tree::new(implied_directory())
}

fn implied_directory() -> Stat {
    Stat {
        st_mode: 0o755,
        ..Stat::uninitialized()
    }
}

/// Splits an entry's path into its names; the root has none. A leading slash means the root of
/// the image, as every engine has it; `..` is refused.
pub(super) fn split(path: &[u8]) -> Result<Vec<&OsStr>, Refusal> {
    if path.len() > limits::PATH {
        return Err(format!("the path is longer than {} bytes", limits::PATH));
    }
    let names: Vec<_> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(OsStr::from_bytes)
        .collect();
    if names.iter().any(|name| *name == "..") {
        return Err("'..' would lead out of the image".to_owned());
    }
    if names.iter().any(|name| name.len() > limits::NAME) {
        return Err(format!("a name is longer than {} bytes", limits::NAME));
    }
    if names.iter().any(|name| name.as_bytes().contains(&0)) {
        return Err("a name contains a NUL byte".to_owned());
    }
    if names.len() > limits::DEPTH {
        return Err(format!("it is deeper than {} directories", limits::DEPTH));
    }
    Ok(names)
}

/// Applies one layer's entries to a tree. Whiteouts remove what lower layers have, never what
/// this layer brings (OCI image-spec, layer.md, "Whiteouts").
pub(super) struct LayerTree<'a> {
    pub(super) budget: &'a mut Budget,
    tree: &'a mut Tree,
    /// Paths this layer brought; `None` when there is no layer below to tell them from.
    own: Option<Own>,
}

impl<'a> LayerTree<'a> {
    pub(super) fn new(tree: &'a mut Tree, budget: &'a mut Budget) -> Self {
        let has_lower = tree.root.entries().next().is_some();
        Self {
            budget,
            tree,
            own: has_lower.then(Own::default),
        }
    }

    /// A directory: keeps the children of one that is there, replaces anything else.
    pub(super) fn directory(&mut self, names: &[&OsStr], stat: Stat) -> Result<(), Refusal> {
        let Some((name, parents)) = names.split_last() else {
            self.tree.set_root_stat(stat);
            return Ok(());
        };
        let parent = self.parent(parents)?;
        self.tree_directory(&parent)
            .merge(name, Inode::Directory(Box::new(Directory::new(stat))));
        self.mark(&parent.join(name));
        Ok(())
    }

    /// Anything but a directory: replaces what is there.
    pub(super) fn leaf(
        &mut self,
        names: &[&OsStr],
        stat: Stat,
        content: LeafContent<Content>,
    ) -> Result<(), Refusal> {
        let id = self.tree.push_leaf(stat, content);
        self.place(names, Inode::leaf(id))
    }

    /// One more name for a file that is already there.
    pub(super) fn hardlink(&mut self, names: &[&OsStr], target: &[u8]) -> Result<(), Refusal> {
        let shown = target.escape_ascii();
        let target = split(target).map_err(|reason| format!("hard link to {shown}: {reason}"))?;
        let missing = || format!("hard link to {shown}, which is not in the image");
        let (name, parents) = target.split_last().ok_or_else(missing)?;
        let parent = self.resolve(parents)?;
        let directory = self.find(&parent).ok_or_else(missing)?;
        let id = match directory.lookup(name).ok_or_else(missing)? {
            Inode::Leaf(id, _) => *id,
            Inode::Directory(_) => return Err(format!("hard link to the directory {shown}")),
        };
        self.place(names, Inode::leaf(id))
    }

    /// Removes a name that a lower layer has. One that none has is no error: builders write such
    /// whiteouts.
    pub(super) fn whiteout(&mut self, parents: &[&OsStr], name: &OsStr) -> Result<(), Refusal> {
        let parent = self.resolve(parents)?;
        let Some(own) = &self.own else { return Ok(()) };
        let own = own.find(&parent).and_then(|parent| parent.child(name));
        let Some(directory) = directory_mut(self.tree, &parent) else {
            return Ok(());
        };
        match own {
            None => directory.remove(name),
            Some(own) => {
                if let Ok(directory) = directory.get_directory_mut(name) {
                    prune(directory, own);
                }
            }
        }
        Ok(())
    }

    /// Removes everything lower layers have in a directory.
    pub(super) fn opaque(&mut self, names: &[&OsStr]) -> Result<(), Refusal> {
        let path = self.parent(names)?;
        if let Some(own) = self.own.as_ref().and_then(|own| own.find(&path)) {
            prune(directory_mut(self.tree, &path).expect("it was made"), own);
        }
        Ok(())
    }

    fn place(&mut self, names: &[&OsStr], inode: Inode<Content>) -> Result<(), Refusal> {
        let Some((name, parents)) = names.split_last() else {
            return Err("the root of an image must be a directory".to_owned());
        };
        let parent = self.parent(parents)?;
        self.tree_directory(&parent).insert(name, inode);
        self.mark(&parent.join(name));
        Ok(())
    }

    /// Where the children of `names` belong: links followed, missing directories made.
    fn parent(&mut self, names: &[&OsStr]) -> Result<PathBuf, Refusal> {
        let path = self.resolve(names)?;
        if self.find(&path).is_none() {
            let mut parent = &mut self.tree.root;
            for name in &path {
                if parent.lookup(name).is_none() {
                    self.budget.entry(name.len())?;
                    let directory = Directory::new(implied_directory());
                    parent.insert(name, Inode::Directory(Box::new(directory)));
                }
                parent = parent
                    .get_directory_mut(name)
                    .expect("links were followed, and it was made when missing");
            }
        }
        self.mark(&path);
        Ok(path)
    }

    /// Follows symbolic links inside the tree, as chroot would: `..` stops at the root.
    fn resolve(&self, names: &[&OsStr]) -> Result<PathBuf, Refusal> {
        let mut left: Vec<OsString> = names.iter().rev().map(OsString::from).collect();
        let mut path: Vec<OsString> = Vec::new();
        // The directories of `path` that are there, the root first.
        let mut there = vec![&self.tree.root];
        let mut links = 0;
        while let Some(name) = left.pop() {
            self.budget.lookup()?;
            if name == ".." {
                if there.len() > path.len() && !path.is_empty() {
                    there.pop();
                }
                path.pop();
                continue;
            }
            let directory = there.last().filter(|_| there.len() > path.len());
            match directory.and_then(|directory| directory.lookup(&name)) {
                None => path.push(name),
                Some(Inode::Directory(child)) => {
                    there.push(child);
                    path.push(name);
                }
                Some(Inode::Leaf(id, _)) => {
                    let LeafContent::Symlink(target) = &self.tree.leaf(*id).content else {
                        path.push(name);
                        let file: PathBuf = path.iter().collect();
                        return Err(format!("its parent {} is not a directory", shown(&file)));
                    };
                    links += 1;
                    if links > 40 {
                        return Err("its parents are a loop of symbolic links".to_owned());
                    }
                    if target.as_bytes().starts_with(b"/") {
                        path.clear();
                        there.truncate(1);
                    }
                    let parts = target.as_bytes().split(|byte| *byte == b'/').rev();
                    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
                    left.extend(parts.map(|part| OsStr::from_bytes(part).to_owned()));
                }
            }
            if left.len() + path.len() > limits::DEPTH {
                return Err(format!("it is deeper than {} directories", limits::DEPTH));
            }
        }
        Ok(path.into_iter().collect())
    }

    fn find(&self, path: &Path) -> Option<&Directory<Content>> {
        find(&self.tree.root, path)
    }

    fn tree_directory(&mut self, path: &Path) -> &mut Directory<Content> {
        directory_mut(self.tree, path).expect("it was found or made before")
    }

    fn mark(&mut self, path: &Path) {
        if let Some(own) = &mut self.own {
            own.insert(path);
        }
    }
}

/// Removes what is not `own` below a directory.
fn prune(directory: &mut Directory<Content>, own: &Own) {
    let names = directory.entries().map(|(name, _)| name.to_owned());
    for name in names.collect::<Vec<_>>() {
        match own.child(&name) {
            None => directory.remove(&name),
            Some(own) => {
                if let Ok(child) = directory.get_directory_mut(&name) {
                    prune(child, own);
                }
            }
        }
    }
}

fn find<'a>(root: &'a Directory<Content>, path: &Path) -> Option<&'a Directory<Content>> {
    path.iter()
        .try_fold(root, |directory, name| match directory.lookup(name) {
            Some(Inode::Directory(child)) => Some(&**child),
            _ => None,
        })
}

fn directory_mut<'a>(tree: &'a mut Tree, path: &Path) -> Option<&'a mut Directory<Content>> {
    path.iter().try_fold(&mut tree.root, |directory, name| {
        directory.get_directory_mut(name).ok()
    })
}

fn shown(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}
