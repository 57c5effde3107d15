//! `invar rmi`

use std::process::ExitCode;

use invar_image::ImageStore;

use crate::cli::Cli;
use crate::{printer, privilege, several};

/// Remove names of images, and images that have no name left
///
/// The space is freed by `invar image prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,

    /// Also when a container was made from it: its names go, its content stays until the
    /// container is removed
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let store = ImageStore::open(cli.root())?;
    Ok(several::each(&args.images, |name| {
        let removed = store.remove(name, args.force)?;
        printer::lines(
            removed
                .untagged
                .iter()
                .map(|name| format!("Untagged: {name}")),
        )?;
        if let Some(id) = removed.deleted {
            printer::line(format!("Deleted: {id}"))?;
        }
        Ok(())
    }))
}
