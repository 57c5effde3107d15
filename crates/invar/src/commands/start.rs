//! `invar start`

use std::process::ExitCode;
use std::sync::Arc;

use invar_engine::{State, Stdio};

use crate::attached::{self, Attached};
use crate::cli::Cli;
use crate::exit::{Advise as _, NOT_RUN};
use crate::{engines, exit, printer, privilege, several};

/// Start containers that were made or have ended
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stay attached: show the output, pass signals on, and end with the program's exit code
    #[arg(short, long)]
    attach: bool,

    /// Also pass standard input on
    #[arg(short, long)]
    interactive: bool,

    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    if args.attach || args.interactive {
        return match args.containers.as_slice() {
            [name] => start_attached(cli, args, name).exit_code(NOT_RUN),
            _ => Err(exit::failure(
                "only one container can be attached at a time",
                "start the others without -a, and read their output with: invar logs",
            )),
        };
    }
    Ok(several::each(&args.containers, |name| {
        let found = engines::find(cli.root(), name)?;
        // Docker's rule: what runs already is started.
        if found.container.state != State::Running {
            attached::start(&*found.engine, &found.container.id, Stdio::Detached)?;
        }
        Ok(printer::line(name)?)
    }))
}

fn start_attached(cli: &Cli, args: &Args, name: &str) -> anyhow::Result<ExitCode> {
    let found = engines::find(cli.root(), name)?;
    let config = &found.container.config;
    if found.container.state == State::Running {
        return Err(exit::failure(
            format!("{name} runs already"),
            format!("read its output with: invar logs -f {name}"),
        ));
    }
    let attached = Attached::prepare(config.tty, args.interactive && config.interactive)?;
    attached.run(&Arc::from(found.engine), &found.container.id, name)
}
