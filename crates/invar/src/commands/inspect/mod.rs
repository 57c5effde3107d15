//! `invar inspect`

mod container;
mod image;
mod network;

use std::process::ExitCode;

use clap::ValueEnum;
use invar_engine::EngineError;
use invar_image::{ImageError, ImageStore};
use serde_json::Value;

use crate::cli::Cli;
use crate::exit::{self, FAILED, failure};
use crate::{engines, printer, privilege};

/// Show everything about containers or images, as a JSON array in Docker's form
///
/// A container of another engine is shown as that engine shows it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// json, the only one there is
    #[arg(short, long, default_value = "json", value_parser = format)]
    #[allow(dead_code, reason = "checked by its parser, and there is one only")]
    format: Json,

    /// Look among these only
    #[arg(long = "type", value_enum)]
    kind: Option<Kind>,

    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  invar inspect web
  invar inspect web | jq -r '.[0].State.ExitCode'";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Container,
    Image,
}

/// The one format, so that a template of Docker is refused with what to do instead.
#[derive(Debug, Clone, Copy)]
struct Json;

fn format(text: &str) -> Result<Json, String> {
    match text {
        "json" => Ok(Json),
        _ => Err("there are no templates; pick a field with: … | jq '.[0].State.Status'".into()),
    }
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let mut found = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match describe(cli, args.kind, name) {
            Ok(value) => found.push(value),
            Err(error) => {
                exit::report(&error);
                code = ExitCode::from(FAILED);
            }
        }
    }
    printer::json(&found)?;
    Ok(code)
}

/// The container of this name, otherwise the image.
fn describe(cli: &Cli, kind: Option<Kind>, name: &str) -> anyhow::Result<Value> {
    let container = (kind != Some(Kind::Image)).then(|| engines::find(cli.root(), name));
    match container {
        Some(Ok(found)) => return container::describe(&found),
        Some(Err(error)) if kind.is_some() || !is_not_there(&error) => return Err(error),
        _ => {}
    }
    let images = ImageStore::open(cli.root())?;
    match images.resolve(name) {
        Ok(image) => image::describe(&images, &image),
        Err(ImageError::NotFound { .. }) if kind.is_none() => Err(failure(
            format!("there is no container and no image {name:?}"),
            "list them with: invar ps -a, invar images",
        )),
        Err(error) => Err(error.into()),
    }
}

/// An engine's name before a colon looks like an image with a tag: `docker:web`, `busybox:1`.
fn is_not_there(error: &anyhow::Error) -> bool {
    exit::find::<EngineError>(error).is_none_or(|error| {
        matches!(
            error,
            EngineError::NotFound { .. } | EngineError::InvalidName { .. }
        )
    })
}
