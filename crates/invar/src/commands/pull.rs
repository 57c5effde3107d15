//! `invar pull`

use std::process::ExitCode;

use anyhow::Context as _;
use invar_image::registry::Pulled;
use invar_image::{ImageStore, Platform, Reference};
use serde::Serialize;

use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::privilege;
use crate::registries::{RegistryFlags, Show};

/// Get an image from a registry
///
/// Every byte is compared with its digest before the image appears. A pull that broke off goes on
/// where it ended. NAME:TAG@DIGEST fails when the tag has another digest.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For example busybox, ghcr.io/team/web:1.4, or web@sha256:…
    image: String,

    /// Which image of several; also allows one that is not for this machine
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,

    /// Print only the image's id, and no progress
    #[arg(short, long)]
    quiet: bool,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    #[command(flatten)]
    registry: RegistryFlags,
}

/// A pull in JSON.
#[derive(Serialize)]
struct Shown<'a> {
    name: String,
    /// Of the manifest or index that the name stands for.
    digest: &'a str,
    id: &'a str,
    is_new: bool,
    downloaded: u64,
    resumed: u64,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let reference = Reference::parse(&args.image)?;
    let platform = args.platform.as_deref().map(Platform::parse).transpose()?;
    let store = ImageStore::open(cli.root())?;
    let show = if args.quiet {
        Show::Nothing
    } else {
        Show::Progress
    };
    let pulled = pull(&store, &reference, platform.as_ref(), &args.registry, show)?;
    let shown = Shown {
        name: reference.to_string(),
        digest: pulled.digest.as_str(),
        id: pulled.image.id.as_str(),
        is_new: pulled.is_new,
        downloaded: pulled.downloaded,
        resumed: pulled.resumed,
    };
    match args.format {
        Format::Table if args.quiet => printer::line(shown.id)?,
        Format::Table => {
            let what = if pulled.is_new {
                format!("{} downloaded", printer::size(pulled.downloaded))
            } else {
                "it was here already".to_owned()
            };
            printer::line(format!("Digest: {}", shown.digest))?;
            printer::line(format!("Pulled image: {} ({what})", shown.name))?;
        }
        Format::Json => printer::json(&shown)?,
        Format::Jsonl => printer::jsonl([&shown])?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Pulls, and shows how far it is.
pub(crate) fn pull(
    store: &ImageStore,
    reference: &Reference,
    platform: Option<&Platform>,
    flags: &RegistryFlags,
    show: Show,
) -> anyhow::Result<Pulled> {
    let (options, progress) = flags.options(show);
    let pulled = store.pull(reference, platform, &options);
    if let Some(progress) = progress {
        progress.finish();
    }
    pulled.with_context(|| format!("could not pull {reference}"))
}
