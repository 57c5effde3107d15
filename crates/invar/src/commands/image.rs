//! `invar image fsck|prune`

use std::process::ExitCode;

use clap::Subcommand;
use invar_image::ImageStore;

use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::{exit, privilege};

/// Check and clean the image store
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check every byte of every image; ends with 3 and names the file when one is wrong
    Fsck {
        /// How to write it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,

        /// First write plain views anew that are damaged while the content they are made from is not
        #[arg(long)]
        repair: bool,
    },
    /// Remove content that no image needs
    Prune,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let store = ImageStore::open(cli.root())?;
    match args.command {
        Task::Fsck { format, repair } => {
            if repair {
                for image in store.repair()? {
                    printer::note(format!(
                        "{image}: its plain view was written anew; replace its containers"
                    ));
                }
            }
            fsck(&store, format)
        }
        Task::Prune => {
            let pruned = store.prune()?;
            printer::line(format!(
                "removed {} files, {}",
                pruned.objects,
                printer::size(pruned.bytes)
            ))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn fsck(store: &ImageStore, format: Format) -> anyhow::Result<ExitCode> {
    let checked = store.fsck()?;
    match format {
        Format::Table => {
            printer::lines(
                checked
                    .damage
                    .iter()
                    .map(|damage| format!("{}: {}: {}", damage.image, damage.part, damage.reason)),
            )?;
            printer::note(format!(
                "{} images, {} files checked, {} damaged",
                checked.images,
                checked.objects,
                checked.damage.len()
            ));
            let by_kernel = checked.checked_by_kernel;
            printer::note(format!(
                "whenever it is read, the kernel checks all of {} images, the content of {}, \
                 nothing of {}",
                by_kernel.everything, by_kernel.content, by_kernel.nothing
            ));
        }
        Format::Json => printer::json(&checked)?,
        Format::Jsonl => printer::jsonl(&checked.damage)?,
    }
    Ok(if checked.damage.is_empty() {
        ExitCode::SUCCESS
    } else {
        printer::hint(
            "a plain view alone is made again by: invar image fsck --repair; otherwise remove the image \
             and import or load it again; its containers must be replaced",
        );
        ExitCode::from(exit::FOUND)
    })
}
