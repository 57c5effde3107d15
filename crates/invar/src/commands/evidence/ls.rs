//! `invar evidence ls`

use std::process::ExitCode;

use invar_evidence::{Evidence, EvidenceStore, Header, State};
use serde::Serialize;

use super::frozen;
use crate::cli::Cli;
use crate::printer::{self, Format};

/// List what was captured, incomplete captures included
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Evidence in JSON listings.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    state: State,
    /// Its capture was killed and the container is frozen because of that.
    left_frozen: bool,
    evidence: Option<&'a Header>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let store = EvidenceStore::open(cli.root())?;
    store.clean()?;
    let all = store.list()?;
    if args.quiet {
        printer::lines(all.iter().map(|evidence| evidence.id.to_string()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let listed = all.iter().map(|evidence| Listed {
        id: evidence.id.as_str(),
        state: evidence.state,
        left_frozen: frozen::is_left(cli.root(), evidence),
        evidence: evidence.header.as_ref(),
    });
    match args.format {
        Format::Table => {
            printer::table(
                [
                    "ID",
                    "CONTAINER",
                    "IMAGE",
                    "STATE",
                    "WORST",
                    "CHANGES",
                    "GAPS",
                ],
                all.iter().map(row),
            )?;
            for evidence in all
                .iter()
                .filter(|found| frozen::is_left(cli.root(), found))
            {
                frozen::say(evidence);
            }
            let broken = all.iter().find(|found| found.state == State::Incomplete);
            if let Some(evidence) = broken {
                printer::hint(&format!(
                    "finish an incomplete capture with: invar evidence resume {}",
                    evidence.id
                ));
            }
        }
        Format::Json => printer::json(&listed.collect::<Vec<_>>())?,
        Format::Jsonl => printer::jsonl(listed)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn row(evidence: &Evidence) -> [String; 7] {
    let header = evidence.header.as_ref();
    let of_header = |part: fn(&Header) -> String| header.map_or_else(|| "?".to_owned(), part);
    let summary = header.and_then(|header| header.summary.as_ref());
    let of_summary =
        |part: fn(&invar_evidence::Summary) -> String| summary.map_or_else(|| "-".to_owned(), part);
    [
        evidence.id.to_string(),
        of_header(|header| {
            let container = &header.container;
            let shown = format!("{}:{}", container.engine, container.name);
            printer::escape(shown.as_bytes()).into_owned()
        }),
        of_header(|header| {
            let name = header.container.image_name.as_bytes();
            printer::escape(name).into_owned()
        }),
        super::show::state(evidence.state).to_owned(),
        of_summary(|summary| super::show::worst(summary).to_owned()),
        of_summary(|summary| summary.changes.values().sum::<u64>().to_string()),
        of_summary(|summary| summary.gaps.to_string()),
    ]
}
