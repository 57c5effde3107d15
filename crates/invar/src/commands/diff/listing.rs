//! The files of volumes and tmpfs, through the root of a running container's first process.

use std::sync::Arc;

use anyhow::Context as _;
use invar_drift::{Mount, MountKind, Options, Present, ProcessRoot, Rules};
use invar_engine::State;
use serde::Serialize;

use super::Args;
use crate::engines::Found;
use crate::printer;

/// A mount and what is in it.
#[derive(Debug, Serialize)]
pub(super) struct Mounted {
    pub(super) target: String,
    pub(super) kind: &'static str,
    file_system: String,
    /// Why its files are not (all) listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) omitted: Option<String>,
    pub(super) unstable: u64,
    pub(super) files: Vec<Present>,
}

/// Lists what was asked for; nothing when nothing was.
pub(super) fn mounts(
    found: &Found,
    args: &Args,
    rules: &Arc<Rules>,
) -> anyhow::Result<Vec<Mounted>> {
    if !args.volumes && !args.tmpfs {
        return Ok(Vec::new());
    }
    let running = matches!(found.container.state, State::Running | State::Paused);
    let Some(pid) = found.container.init_pid.filter(|_| running) else {
        printer::note(format!(
            "{} is not running: what it had in memory is gone, and its volumes are not mounted",
            args.container
        ));
        return Ok(Vec::new());
    };
    let root = ProcessRoot::open(pid)
        .with_context(|| format!("could not open the root of process {pid}"))?;
    // Only a process that was this container's after its root was opened is surely this
    // container's.
    if found.engine.inspect(found.container.id.as_str())?.init_pid != Some(pid) {
        printer::note(format!(
            "{} ended meanwhile: its mounts are gone",
            args.container
        ));
        return Ok(Vec::new());
    }
    let options = Options {
        content: args.reads_content(),
        detail: args.detail,
        rules: Some(Arc::clone(rules)),
        ..Options::default()
    };
    let asked = root.mounts().iter().filter(|mount| match mount.kind {
        MountKind::Volume => args.volumes,
        MountKind::Tmpfs => args.tmpfs,
    });
    Ok(asked.map(|mount| list(&root, mount, &options)).collect())
}

/// One mount that cannot be read does not keep the others from being listed.
fn list(root: &ProcessRoot, mount: &Mount, options: &Options) -> Mounted {
    let (files, unstable, omitted) = match invar_drift::list_mount(root, mount, options) {
        Ok(listing) => (
            listing.files,
            listing.unstable,
            listing.omitted.map(ToOwned::to_owned),
        ),
        Err(error) => {
            let error = anyhow::Error::from(error);
            (Vec::new(), 0, Some(format!("{error:#}")))
        }
    };
    Mounted {
        target: printer::escape(&mount.target).into_owned(),
        kind: match mount.kind {
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
        },
        file_system: printer::escape(&mount.file_system).into_owned(),
        omitted,
        unstable,
        files,
    }
}
