//! Where the changes come from: the overlay's own directories, or the engine's list when those
//! cannot be reached.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use invar_drift::{Comparison, DriftError, Kind, Namespace, Options, Rules};
use invar_engine::{EngineError, RootFs, State, Upper};
use rustix::fs::fstat;
use serde::Serialize;

use super::Args;
use crate::engines::Found;

/// Rules that every diff on this machine uses.
const RULES_DIRECTORY: &str = "/etc/invar/rules.d";

/// Changes and how far they can be trusted.
pub(super) struct Compared {
    pub(super) comparison: Comparison,
    pub(super) source: Source,
    pub(super) is_read_only: bool,
}

/// What the changes were taken from.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Source {
    /// The directories of the overlay.
    Overlay,
    /// The engine's own list.
    Engine {
        /// Why, and what it lacks.
        lost: String,
    },
}

/// All rules there are: those that come with invar, the machine's, and the user's.
pub(crate) fn rules(asked: &[PathBuf]) -> anyhow::Result<Arc<Rules>> {
    let mut files = Vec::new();
    if Path::new(RULES_DIRECTORY).is_dir() {
        files.extend(in_directory(Path::new(RULES_DIRECTORY))?);
    }
    for path in asked {
        if path.is_dir() {
            files.extend(in_directory(path)?);
        } else {
            files.push(path.clone());
        }
    }
    if files.is_empty() {
        return Ok(Rules::builtin());
    }
    Rules::with_files(&files).context("could not read the rules")
}

/// The `*.toml` of a directory, by name.
fn in_directory(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Compares a container with its image.
pub(super) fn compare(found: &Found, args: &Args, rules: &Arc<Rules>) -> anyhow::Result<Compared> {
    let id = &found.container.id;
    let root = match found.engine.open_root(id) {
        Ok(root) => root,
        Err(error @ EngineError::Unsupported { .. }) => {
            return match found.engine.reported_changes(id)? {
                Some(changes) => Ok(reported(changes, rules, &error)),
                None => Err(error.into()),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let comparison = match &root.upper {
        Some(upper) => walk(found, &root, upper, args, rules)
            .with_context(|| format!("could not compare {} with its image", args.container))?,
        None => Comparison::default(),
    };
    Ok(Compared {
        comparison,
        source: Source::Overlay,
        is_read_only: root.upper.is_none(),
    })
}

fn walk(
    found: &Found,
    root: &RootFs,
    upper: &Upper,
    args: &Args,
    rules: &Arc<Rules>,
) -> anyhow::Result<Comparison> {
    let options = Options {
        content: args.reads_content(),
        detail: args.detail,
        patch: args.patch,
        namespace: namespace(found, upper)?,
        rules: Some(Arc::clone(rules)),
    };
    let comparison = invar_drift::compare(root.lower.as_fd(), upper.dir.as_fd(), &options)?;
    // Its files go before its name does: what was found is then not all.
    match found.engine.inspect(found.container.id.as_str()) {
        Ok(_) => Ok(comparison),
        Err(EngineError::NotFound { .. }) => Err(DriftError::Removed.into()),
        Err(error) => Err(error.into()),
    }
}

/// Where the overlay keeps its marks. Only an overlay of a rootless engine keeps them where the
/// container could set them itself, so this is never taken from what lies in the directory.
fn namespace(found: &Found, upper: &Upper) -> anyhow::Result<Namespace> {
    let running = matches!(found.container.state, State::Running | State::Paused);
    if let Some(pid) = found.container.init_pid.filter(|_| running) {
        // A process that has ended, or another root, says nothing.
        if let Ok(Some(namespace)) = invar_drift::namespace_of(pid) {
            return Ok(namespace);
        }
    }
    let is_roots = fstat(&upper.dir)?.st_uid == 0;
    Ok(if !is_roots && found.engine.is_rootless()? {
        Namespace::User
    } else {
        Namespace::Trusted
    })
}

fn reported(changes: Vec<(char, String)>, rules: &Rules, error: &EngineError) -> Compared {
    let list = changes
        .into_iter()
        .filter_map(|(letter, path)| Some((Kind::from_letter(letter)?, path.into_bytes())));
    let changes = invar_drift::reported(list.collect(), rules);
    Compared {
        comparison: Comparison {
            changes,
            ..Comparison::default()
        },
        source: Source::Engine {
            lost: error.to_string(),
        },
        is_read_only: false,
    }
}
