//! `invar save`

use std::io::{self, BufWriter, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use invar_image::ImageStore;

use crate::cli::Cli;
use crate::{exit, privilege};

/// Write an image as an archive that invar, docker, podman and skopeo load
///
/// The archive is an OCI layout and a docker-archive at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id of the image
    image: String,

    /// File to write, which appears when it is complete (default: standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let store = ImageStore::open(cli.root())?;
    let image = store.resolve(&args.image)?;
    let Some(path) = &args.output else {
        if io::stdout().is_terminal() {
            return Err(exit::failure(
                "an archive is not written to a terminal",
                format!("name a file: invar save {} -o FILE", args.image),
            ));
        }
        store.save(&image, BufWriter::new(io::stdout().lock()))?;
        return Ok(ExitCode::SUCCESS);
    };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(parent.unwrap_or(".".as_ref()))
        .with_context(|| format!("could not create {}", path.display()))?;
    store.save(&image, BufWriter::new(&mut file))?;
    file.as_file().sync_all()?;
    file.persist(path)
        .with_context(|| format!("could not write {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}
