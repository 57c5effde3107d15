//! `invar rm`

use std::process::ExitCode;

use invar_engine::EngineError;

use crate::cli::Cli;
use crate::{engines, exit, printer, privilege, several};

/// Remove containers, with everything they wrote
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kill those that run; a container that is not there is no failure
    #[arg(short, long)]
    force: bool,

    /// Also the volumes nobody named; they always go with their container
    #[arg(short, long)]
    #[allow(dead_code, reason = "taken because scripts give it")]
    volumes: bool,

    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let remove = |name: &str| {
        let removed = engines::find(cli.root(), name).and_then(|found| {
            found.engine.remove(&found.container.id, args.force)?;
            Ok(true)
        });
        match removed {
            Err(error) if args.force && is_not_there(&error) => {
                printer::note(error.to_string());
                Ok(false)
            }
            outcome => outcome,
        }
    };
    Ok(several::at_once(
        &args.containers,
        remove,
        |name, removed| {
            if removed {
                printer::line(name)?;
            }
            Ok(())
        },
    ))
}

fn is_not_there(error: &anyhow::Error) -> bool {
    matches!(
        exit::find::<EngineError>(error),
        Some(EngineError::NotFound { .. })
    )
}
