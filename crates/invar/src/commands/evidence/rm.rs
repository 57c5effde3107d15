//! `invar evidence rm`

use std::process::ExitCode;

use invar_evidence::{Action, EvidenceStore, State};

use crate::cli::Cli;
use crate::exit::{self, FAILED};
use crate::printer;

/// Remove evidence for good
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids, or their beginnings or ends
    #[arg(required = true)]
    ids: Vec<String>,

    /// Also when it is sealed
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let store = EvidenceStore::open(cli.root())?;
    let mut code = ExitCode::SUCCESS;
    for id in &args.ids {
        match remove(&store, id, args.force) {
            Ok(removed) => printer::line(removed)?,
            Err(error) => {
                exit::report(&error);
                code = ExitCode::from(FAILED);
            }
        }
    }
    Ok(code)
}

fn remove(store: &EvidenceStore, id: &str, force: bool) -> anyhow::Result<String> {
    let evidence = store.find(id)?;
    if evidence.state == State::Sealed {
        if !force {
            return Err(exit::failure(
                format!(
                    "evidence {} is sealed, and there is no other copy of it",
                    evidence.id
                ),
                format!(
                    "export it first (invar evidence export {0} -o FILE), or remove it with: \
                     invar evidence rm --force {0}",
                    evidence.id
                ),
            ));
        }
        invar_evidence::record(store, &evidence, Action::Removed)?;
    }
    store.remove(&evidence)?;
    Ok(evidence.id.to_string())
}
