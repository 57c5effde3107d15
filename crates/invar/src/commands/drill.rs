//! `invar drill`

use std::process::ExitCode;

use crate::cli::Cli;
use crate::drill::{self, Plan};
use crate::printer::Format;
use crate::privilege;

/// Attack a throw-away container and prove each defence on this host
///
/// Runs an image twice, read-only and writable, and plays an attacker who is root inside: shows
/// what is refused, what changed, what was kept as evidence, and that a fresh container is as
/// built. Where Docker answers, a container is attacked there too; those of the user are left
/// alone. Ends with 0 when every claim holds, with 3 when one does not. Leaves nothing behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Drill this image instead of one made of invar itself
    #[arg(long, value_name = "NAME")]
    image: Option<String>,

    /// Keep the drill's state for a look
    #[arg(long)]
    keep: bool,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    drill::run(&Plan {
        root: cli.root(),
        image: args.image.as_deref(),
        format: args.format,
        keep: args.keep,
    })
}
