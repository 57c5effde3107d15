//! `invar images`

use std::process::ExitCode;

use invar_image::{Image, ImageStore};
use serde::Serialize;

use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::privilege;

/// List the images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// An image in JSON listings.
#[derive(Serialize)]
struct Listed {
    id: String,
    manifest: String,
    names: Vec<String>,
    size: u64,
    created_at: Option<jiff::Timestamp>,
    stored_at: jiff::Timestamp,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let images = ImageStore::open(cli.root())?.list()?;
    if args.quiet {
        printer::lines(images.iter().map(|image| image.id.to_string()))?;
        return Ok(ExitCode::SUCCESS);
    }
    match args.format {
        Format::Table => printer::table(
            ["NAME", "ID", "CREATED", "SIZE"],
            images.iter().flat_map(rows),
        )?,
        Format::Json => printer::json(&images.iter().map(listed).collect::<Vec<_>>())?,
        Format::Jsonl => printer::jsonl(images.iter().map(listed))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One row for each name, as docker has it.
fn rows(image: &Image) -> Vec<[String; 4]> {
    let names = match image.names.as_slice() {
        [] => vec!["<none>".to_owned()],
        names => names.to_vec(),
    };
    let created = image.created_at.unwrap_or(image.stored_at);
    let row = |name| {
        [
            name,
            image.id.short().to_owned(),
            created.strftime("%Y-%m-%d %H:%M").to_string(),
            printer::size(image.size),
        ]
    };
    names.into_iter().map(row).collect()
}

fn listed(image: &Image) -> Listed {
    Listed {
        id: image.id.to_string(),
        manifest: image.manifest.to_string(),
        names: image.names.clone(),
        size: image.size,
        created_at: image.created_at,
        stored_at: image.stored_at,
    }
}
