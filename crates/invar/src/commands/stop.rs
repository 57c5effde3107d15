//! `invar stop`

use std::process::ExitCode;
use std::time::Duration;

use invar_engine::State;

use crate::cli::Cli;
use crate::{engines, printer, privilege, several, signals};

/// Ask containers to end, and kill those that do not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) timeout: Timeout,

    /// Send this instead of the container's own stop signal
    #[arg(short, long, value_name = "SIGNAL", value_parser = signals::parse)]
    signal: Option<i32>,

    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// How long a program may take to end.
#[derive(Debug, clap::Args)]
pub(super) struct Timeout {
    /// Seconds between the stop signal and SIGKILL
    #[arg(
        short = 't',
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        default_value_t = 10
    )]
    seconds: u32,
}

impl Timeout {
    pub(super) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let stop = |name: &str| {
        let found = engines::find(cli.root(), name)?;
        let (id, timeout) = (&found.container.id, args.timeout.duration());
        let goes_on = matches!(
            found.container.state,
            State::Running | State::Paused | State::Restarting(_)
        );
        match args.signal {
            _ if !goes_on => {}
            Some(signal) => drop(found.engine.stop_with(id, signal, timeout)?),
            None => drop(found.engine.stop(id, timeout)?),
        }
        Ok(())
    };
    Ok(several::at_once(&args.containers, stop, |name, ()| {
        Ok(printer::line(name)?)
    }))
}
