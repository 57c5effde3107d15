//! `invar push`

use std::process::ExitCode;

use anyhow::Context as _;
use invar_image::{ImageStore, Reference};
use serde::Serialize;

use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::privilege;
use crate::registries::{RegistryFlags, Show};

/// Send an image to the registry its name is in
///
/// Layers the registry has are not sent again; those another of its repositories has are mounted.
/// Layers it has not are compressed, and then the image's digest there is a new one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the image, which is also where it goes; see: invar tag
    image: String,

    /// Print only the digest, and no progress
    #[arg(short, long)]
    quiet: bool,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    #[command(flatten)]
    registry: RegistryFlags,
}

/// A push in JSON.
#[derive(Serialize)]
struct Shown<'a> {
    name: String,
    digest: &'a str,
    size: u64,
    is_as_it_came: bool,
    uploaded: u64,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let reference = Reference::parse(&args.image)?;
    let store = ImageStore::open(cli.root())?;
    let image = store.resolve(&args.image)?;
    let show = if args.quiet {
        Show::Nothing
    } else {
        Show::Progress
    };
    let (options, progress) = args.registry.options(show);
    let pushed = store.push(&image, &reference, &options);
    if let Some(progress) = progress {
        progress.finish();
    }
    let pushed = pushed.with_context(|| format!("could not push {reference}"))?;
    let shown = Shown {
        name: reference.to_string(),
        digest: pushed.digest.as_str(),
        size: pushed.size,
        is_as_it_came: pushed.is_as_it_came,
        uploaded: pushed.uploaded,
    };
    match args.format {
        Format::Table if args.quiet => printer::line(shown.digest)?,
        Format::Table => {
            let tag = reference.tag();
            printer::line(format!(
                "{tag}: digest: {} size: {}",
                shown.digest, shown.size
            ))?;
        }
        Format::Json => printer::json(&shown)?,
        Format::Jsonl => printer::jsonl([&shown])?,
    }
    Ok(ExitCode::SUCCESS)
}
