//! `invar tag`

use std::process::ExitCode;

use invar_image::{ImageStore, Reference};

use crate::cli::Cli;
use crate::privilege;

/// Give an image one more name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id of the image
    image: String,

    /// The new name; taken from any image that has it
    name: String,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let name = Reference::parse(&args.name)?;
    let store = ImageStore::open(cli.root())?;
    store.tag(&store.resolve(&args.image)?.id, &name)?;
    Ok(ExitCode::SUCCESS)
}
