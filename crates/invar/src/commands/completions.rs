//! `invar completions`

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

/// Print the completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shell to complete in
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "invar",
        &mut std::io::stdout(),
    );
    ExitCode::SUCCESS
}
