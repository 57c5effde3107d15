//! `invar create`

use std::process::ExitCode;

use invar_engine::embedded::EmbeddedEngine;

use crate::cli::Cli;
use crate::container_config::Options;
use crate::creating::ImageAndProgram;
use crate::exit::{Advise as _, NOT_RUN};
use crate::{creating, printer, privilege};

/// Make a container without starting it, and print its id
///
/// The flags are those of invar run; start it with: invar start
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "invar create [OPTIONS] IMAGE [PROGRAM [ARGUMENT]...]"
)]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,

    #[command(flatten)]
    program: ImageAndProgram,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    create(cli, args).exit_code(NOT_RUN)
}

fn create(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let engine = EmbeddedEngine::open(cli.root())?;
    let config = creating::configure(engine.images(), &args.program, &args.options)?;
    if !config.networking.ports.is_empty() {
        creating::tell_of_firewall(&engine);
    }
    let id = creating::create(&engine, &args.options, &config)?;
    printer::line(id.as_str())?;
    Ok(ExitCode::SUCCESS)
}
