//! `invar status`

use std::process::ExitCode;

use invar_rollout::driver::{Store, StoredService};
use invar_rollout::machine::Rollout;
use serde::Serialize;

use super::agent;
use crate::cli::Cli;
use crate::deploying::show::escape;
use crate::printer::{self, Format};
use crate::privilege;

/// Show services, their revisions and where a rollout stands, and what the agent watches
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How the list is written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A service as a program reads it.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    service: StoredService,
    /// The rollout under way.
    rollout: Option<Rollout>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let store = Store::open(cli.root())?;
    let mut all = Vec::new();
    for service in store.services()? {
        let last = store.last_rollout(&service.service)?;
        all.push(Shown {
            rollout: last.filter(|rollout| !rollout.phase.is_final()),
            service,
        });
    }
    let agent = agent::status_of(cli.root());
    match args.format {
        Format::Table => printer::table(
            ["SERVICE", "REVISION", "BEFORE", "ROLLOUT"],
            all.iter().map(|shown| {
                [
                    shown.service.service.clone(),
                    shown.service.current.clone(),
                    before(&shown.service),
                    rollout(&store, shown.rollout.as_ref()),
                ]
            }),
        )?,
        Format::Json => printer::json(&all)?,
        Format::Jsonl => printer::jsonl(&all)?,
    }
    if let (Format::Table, Some(agent)) = (args.format, agent) {
        printer::line("")?;
        agent::print_status(&agent)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn before(service: &StoredService) -> String {
    let Some(previous) = &service.previous else {
        return "-".to_owned();
    };
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let is_warm = service.keep_until_ms.is_some_and(|until| until > now);
    if is_warm {
        format!("{previous} (warm)")
    } else {
        previous.clone()
    }
}

fn rollout(store: &Store, rollout: Option<&Rollout>) -> String {
    let Some(rollout) = rollout else {
        return "-".to_owned();
    };
    let decisions = store.decisions(&rollout.service, rollout.number);
    let last = decisions.ok().and_then(|mut all| all.pop());
    let weight = last.as_ref().map_or(0, |decision| decision.weight);
    let text = last.map(|decision| decision.text).unwrap_or_default();
    format!(
        "{} at {}.{:02} %: {}",
        rollout.target,
        weight / 100,
        weight % 100,
        escape(&text)
    )
}
