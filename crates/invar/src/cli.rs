//! The command line: global options and the list of subcommands.

use std::path::{Path, PathBuf};

use clap::Parser;

use crate::commands::Command;

/// Keeps containers exactly as they were built: runs them unchangeable, shows every change,
/// keeps the evidence, and replaces what was touched.
#[derive(Debug, Parser)]
#[command(
    name = "invar",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Where images, containers and evidence are kept
    #[arg(
        long,
        global = true,
        env = "INVAR_ROOT",
        default_value = "/var/lib/invar"
    )]
    root: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The state directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}
