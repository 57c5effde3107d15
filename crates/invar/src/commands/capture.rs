//! `invar capture`

use std::process::ExitCode;

use invar_evidence::{Evidence, EvidenceStore, Header, Limits, Method, Plan};

use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::{engines, privilege};

/// Freeze a container, keep what is in it as evidence, and let it go on
///
/// Nothing is executed inside the container. Prints the id of the evidence.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id; `docker:NAME` or `podman:NAME` for a container of another engine
    container: String,

    /// Kill it while it is frozen instead of letting it go on
    #[arg(long)]
    stop: bool,

    /// Also take the content of its temporary file systems
    #[arg(long)]
    tmpfs: bool,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let found = engines::find(cli.root(), &args.container)?;
    let store = EvidenceStore::open(cli.root())?;
    let plan = Plan {
        stop: args.stop,
        remove: false,
        tmpfs: args.tmpfs,
    };
    let limits = Limits::default();
    let engine = found.engine.as_ref();
    let evidence = invar_evidence::capture(&store, engine, &found.container, plan, limits)?;
    print(&evidence, args.format)?;
    Ok(ExitCode::SUCCESS)
}

/// The id for a script, what was found for a person.
pub(super) fn print(evidence: &Evidence, format: Format) -> anyhow::Result<()> {
    match (format, &evidence.header) {
        (Format::Table, header) => {
            printer::line(evidence.id.as_str())?;
            if let Some(header) = header {
                printer::note(outline(header));
            }
        }
        (Format::Json, header) => printer::json(header)?,
        (Format::Jsonl, header) => printer::jsonl([header])?,
    }
    Ok(())
}

/// What was taken, in one line.
fn outline(header: &Header) -> String {
    let Some(summary) = &header.summary else {
        return "not sealed".to_owned();
    };
    let mut parts = Vec::new();
    if let Some(frozen) = summary.frozen_ms {
        parts.push(format!("frozen for {frozen} ms"));
    }
    parts.push(format!("{} processes", summary.processes));
    parts.push(format!(
        "{} changed paths",
        summary.changes.values().sum::<u64>()
    ));
    if let Some(upper) = &summary.upper {
        parts.push(match upper.method {
            Method::Renamed => "upper directory moved, no byte copied".to_owned(),
            Method::Linked => format!("upper directory linked, {} copied", size(upper.copied)),
            Method::Copied => format!("upper directory copied, {}", size(upper.copied)),
        });
    }
    parts.push(format!("{} gaps", summary.gaps));
    parts.join(", ")
}

fn size(bytes: u64) -> String {
    if bytes == 0 {
        "no byte".to_owned()
    } else {
        printer::size(bytes)
    }
}
