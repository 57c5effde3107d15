//! `invar create`

use std::process::ExitCode;

use invar_image::ImageStore;

use crate::cli::Cli;
use crate::container_config::Options;
use crate::exit::{Advise as _, NOT_RUN};
use crate::{creating, engines, printer, privilege};

/// Make a container without starting it, and print its id
///
/// The flags are those of invar run; start it with: invar start
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,

    /// Image to make it from: name or id
    image: String,

    /// Program and its arguments, instead of the image's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    create(cli, args).exit_code(NOT_RUN)
}

fn create(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let images = ImageStore::open(cli.root())?;
    let config = creating::configure(&images, &args.image, &args.options, &args.command)?;
    let engine = engines::open(cli.root(), "embedded")?;
    let id = creating::create(&*engine, &args.options, &config)?;
    printer::line(id.as_str())?;
    Ok(ExitCode::SUCCESS)
}
