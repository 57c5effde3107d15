//! `invar restart`

use std::process::ExitCode;

use invar_engine::{State, Stdio};

use super::stop::Timeout;
use crate::cli::Cli;
use crate::{attached, engines, exit, printer, privilege, several};

/// Stop containers and start them again
///
/// What a writable container changed stays; for one as it was built, see invar replace.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    timeout: Timeout,

    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let restart = |name: &str| {
        let found = engines::find(cli.root(), name)?;
        let container = &found.container;
        if matches!(
            container.state,
            State::Running | State::Paused | State::Restarting(_)
        ) {
            if container.config.auto_remove {
                return Err(exit::failure(
                    format!("{name} was made with --rm and would be gone once it stopped"),
                    "stop it, and run it again",
                ));
            }
            found.engine.stop(&container.id, args.timeout.duration())?;
        }
        attached::start(&*found.engine, &container.id, Stdio::Detached)
    };
    Ok(several::at_once(&args.containers, restart, |name, ()| {
        Ok(printer::line(name)?)
    }))
}
