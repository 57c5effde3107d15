//! `invar update`

use std::process::ExitCode;

use invar_engine::Update;

use crate::cli::Cli;
use crate::container_config::{self, restart_policy};
use crate::exit::failure;
use crate::{engines, printer, privilege, several};

/// Change the limits and the restart policy of containers, running or not
///
/// Everything else a container is stays as it was made; to change that, make another one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Most memory: 512m, 2g; -1 for no limit
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,

    /// Most processor time, in processors: 0.5, 2; 0 for no limit
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,

    /// Most processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,

    /// When it is started again: no, always, unless-stopped, on-failure[:TIMES]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,

    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let processors = std::thread::available_parallelism()?.get();
    let cpus = |text: &str| container_config::nano_cpus(text, processors);
    let update = Update {
        memory: args
            .memory
            .as_deref()
            .map(container_config::memory)
            .transpose()?,
        nano_cpus: args.cpus.as_deref().map(cpus).transpose()?,
        pids: args.pids_limit.map(container_config::pids),
        restart: args.restart.as_deref().map(restart_policy).transpose()?,
    };
    if update == Update::default() {
        return Err(failure(
            "nothing to change was named",
            "name a limit, for example: invar update -m 512m CONTAINER",
        ));
    }
    Ok(several::each(&args.containers, |name| {
        let found = engines::find(cli.root(), name)?;
        if found.container.config.auto_remove && update.restart.is_some_and(|r| !r.is_no()) {
            return Err(failure(
                format!("{name} was made with --rm and cannot be started again"),
                "make it anew without --rm",
            ));
        }
        found.engine.update(&found.container.id, &update)?;
        Ok(printer::line(name)?)
    }))
}
