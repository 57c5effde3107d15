//! `invar boot`

use std::process::ExitCode;

use super::stop::Timeout;
use crate::cli::Cli;
use crate::exit::FAILED;
use crate::{engines, exit, printer, privilege};

/// Start the containers whose restart policy wants that after the machine has booted
///
/// always: every one that has ever run; unless-stopped: those nobody had stopped; on-failure: those
/// that had not ended well. dist/invar-boot.service runs it at boot, and with --down at shutdown.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stop every container instead, for a shutdown: what runs now is started at the next boot
    #[arg(long)]
    down: bool,

    #[command(flatten)]
    timeout: Timeout,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let engine = engines::open(cli.root(), "embedded")?;
    let outcomes = if args.down {
        engine.shut_down(args.timeout.duration())?
    } else {
        engine.boot()?
    };
    let mut code = ExitCode::SUCCESS;
    for (container, outcome) in outcomes {
        match outcome {
            Ok(()) => printer::line(container.name.as_str())?,
            Err(error) => {
                let what = format!("{} was left as it is", container.name);
                exit::report(&anyhow::Error::new(error).context(what));
                code = ExitCode::from(FAILED);
            }
        }
    }
    Ok(code)
}
