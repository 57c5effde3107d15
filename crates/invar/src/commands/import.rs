//! `invar import`

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use fs_err as fs;
use invar_image::{Config, ImageStore, ImportOptions, Platform, Reference};

use crate::cli::Cli;
use crate::{printer, privilege};

/// Make an image from a root file system's tar, plain or compressed with gzip or zstd
///
/// For example: invar import debian rootfs.tar.zst --cmd /bin/bash
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the image, for example web:1.4
    name: String,

    /// The tar; - reads standard input
    archive: PathBuf,

    /// What the image runs when no program is named; repeat for each argument
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,

    /// What always runs, with the program as its arguments; repeat for each argument
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,

    /// Environment of its programs
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// User its programs run as
    #[arg(short, long)]
    user: Option<String>,

    /// Working directory of its programs
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,

    /// What machine it is for (default: this one)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let name = Reference::parse(&args.name)?;
    let platform = args.platform.as_deref().map(Platform::parse).transpose()?;
    let store = ImageStore::open(cli.root())?;
    let options = ImportOptions {
        config: config(args),
        platform,
    };
    let archive: Box<dyn Read> = if args.archive.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(fs::File::open(&args.archive)?)
    };
    let image = store
        .import(&name, archive, &options)
        .with_context(|| format!("could not import {}", args.archive.display()))?;
    printer::line(image.id.as_str())?;
    Ok(ExitCode::SUCCESS)
}

fn config(args: &Args) -> Config {
    let list = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let mut config = Config::default();
    config.set_cmd(list(&args.cmd));
    config.set_entrypoint(list(&args.entrypoint));
    config.set_env(list(&args.env));
    config.set_user(args.user.clone());
    config.set_working_dir(args.workdir.clone());
    config
}
