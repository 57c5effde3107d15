//! `invar load`

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use invar_image::{ImageStore, Platform};

use crate::cli::Cli;
use crate::{printer, privilege};

/// Load images from an archive of docker, podman or skopeo, or an OCI layout directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Archive or directory (default: standard input)
    #[arg(short, long, value_name = "PATH")]
    input: Option<PathBuf>,

    /// Which image of several; also allows one that is not for this machine
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let platform = args.platform.as_deref().map(Platform::parse).transpose()?;
    let store = ImageStore::open(cli.root())?;
    let loaded = match &args.input {
        None => store.load(io::stdin().lock(), platform.as_ref()),
        Some(path) => store.load_path(path, platform.as_ref()),
    };
    let shown = args
        .input
        .as_ref()
        .map_or("standard input".into(), |path| path.display().to_string());
    for image in loaded.with_context(|| format!("could not load {shown}"))? {
        let name = image
            .names
            .first()
            .map_or(image.id.as_str(), String::as_str);
        printer::line(format!("Loaded image: {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
