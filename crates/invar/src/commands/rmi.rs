//! `invar rmi`

use std::process::ExitCode;

use invar_image::ImageStore;

use crate::cli::Cli;
use crate::exit::{self, FAILED};
use crate::{printer, privilege};

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
    privilege::require_root()?;
    let store = ImageStore::open(cli.root())?;
    let mut code = ExitCode::SUCCESS;
    for name in &args.images {
        match store.remove(name, args.force) {
            Ok(removed) => {
                printer::lines(
                    removed
                        .untagged
                        .iter()
                        .map(|name| format!("Untagged: {name}")),
                )?;
                if let Some(id) = removed.deleted {
                    printer::line(format!("Deleted: {id}"))?;
                }
            }
            Err(error) => {
                exit::report(&error.into());
                code = ExitCode::from(FAILED);
            }
        }
    }
    Ok(code)
}
