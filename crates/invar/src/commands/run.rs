//! `invar run`

use std::process::ExitCode;
use std::sync::Arc;

use invar_engine::embedded::EmbeddedEngine;
use invar_engine::{Engine, Stdio};

use crate::attached::{self, Attached};
use crate::cli::Cli;
use crate::container_config::Options;
use crate::creating::ImageAndProgram;
use crate::exit::{Advise as _, NOT_RUN};
use crate::{creating, printer, privilege};

/// Run a program in a new container
///
/// The container's root is read-only; /tmp, /run and /var/tmp are small and in memory. Ends with
/// the program's exit code; 125 when Invar failed, 126 and 127 when the program cannot be executed
/// or is not there.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "invar run [OPTIONS] IMAGE [PROGRAM [ARGUMENT]...]",
    after_help = EXAMPLES
)]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,

    /// Run it in the background and print the container's id
    #[arg(short, long)]
    detach: bool,

    #[command(flatten)]
    program: ImageAndProgram,
}

const EXAMPLES: &str = "\
Examples:
  invar run --rm -it debian bash                      a shell, gone when it ends
  invar run -d --name web -v site:/srv:ro web:1.4     a service in the background
  echo hello | invar run --rm -i busybox wc -c        part of a pipeline
  invar run -it --writable --name lab debian bash     may change its files; see: invar diff lab";

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    run_program(cli, args).exit_code(NOT_RUN)
}

fn run_program(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let options = &args.options;
    let attached = (!args.detach)
        .then(|| Attached::prepare(options.tty, options.interactive))
        .transpose()?;
    let engine = Arc::new(EmbeddedEngine::open_to_run(cli.root())?);
    let config = creating::configure(engine.images(), &args.program, options)?;
    if !config.networking.ports.is_empty() {
        creating::tell_of_firewall(&engine);
    }
    let id = creating::create(&*engine, options, &config)?;
    let name = options.name.as_deref().unwrap_or_else(|| id.short());
    if let Some(attached) = attached {
        return attached.run(&(engine as Arc<dyn Engine>), &id, name);
    }
    attached::start(&*engine, &id, Stdio::Detached)?;
    printer::line(id.as_str())?;
    Ok(ExitCode::SUCCESS)
}
