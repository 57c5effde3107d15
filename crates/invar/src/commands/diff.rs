//! `invar diff`

use std::os::fd::AsFd as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use invar_drift::{Change, Comparison, Kind, Options, Severity};
use owo_colors::{AnsiColors, OwoColorize as _, Stream};
use serde::Serialize;

use crate::cli::Cli;
use crate::{engines, exit, printer, privilege};

/// Show what a container changed of its image: A added, C changed, D deleted
///
/// Without --content the letters are those of `docker diff`, and no file is read. With it, files
/// are compared by content, and what `docker diff` does not show is shown too.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name or id; `docker:NAME` or `podman:NAME` for a container of another engine
    container: String,

    /// Compare content, and show what docker misses: edits that kept size and time, link
    /// targets, extended attributes
    #[arg(long)]
    content: bool,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// End with 3 when there is any change
    #[arg(long)]
    exit_code: bool,
}

const EXAMPLES: &str = "\
Examples:
  invar diff --content lab             every change, read to the last byte
  invar diff docker:web                a container of Docker
  invar diff --exit-code web && …      in a script: 3 when anything changed";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: with what each change means
    Table,
    /// Exactly as `docker diff` prints it
    Docker,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
}

/// The JSON document; docs/formats/changes.md.
#[derive(Serialize)]
struct Document<'a> {
    container: &'a str,
    id: &'a str,
    engine: &'a str,
    image: &'a str,
    read_only: bool,
    unread: u64,
    changes: &'a [Change],
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let found = engines::find(cli.root(), &args.container)?;
    let root = found.engine.open_root(&found.container.id)?;
    let options = Options {
        content: args.content,
        ..Options::default()
    };
    let comparison = match &root.upper {
        Some(upper) => invar_drift::compare(root.lower.as_fd(), upper.dir.as_fd(), &options)
            .with_context(|| format!("could not compare {} with its image", args.container))?,
        None => Comparison::default(),
    };
    let is_read_only = root.upper.is_none();
    match args.format {
        Format::Table | Format::Docker => {
            printer::lines(listing(args, &comparison))?;
            notes(args, &comparison, is_read_only);
        }
        Format::Json => printer::json(&Document {
            container: found.container.name.as_str(),
            id: found.container.id.as_str(),
            engine: found.container.engine,
            image: &found.container.config.image,
            read_only: is_read_only,
            unread: comparison.unread,
            changes: &comparison.changes,
        })?,
        Format::Jsonl => printer::jsonl(&comparison.changes)?,
    }
    let has_changed = !comparison.changes.is_empty();
    Ok(if args.exit_code && has_changed {
        ExitCode::from(exit::FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

fn listing<'a>(args: &'a Args, comparison: &'a Comparison) -> impl Iterator<Item = String> + 'a {
    comparison.changes.iter().filter_map(|change| {
        let kind = match change.compatible {
            None if args.content && args.format == Format::Table => change.actual?,
            kind => kind?,
        };
        Some(match args.format {
            Format::Docker => format!("{} {}", kind.letter(), printer::escape(&change.path)),
            _ => row(kind, change),
        })
    })
}

/// `C /etc/passwd  critical: user accounts and passwords`
fn row(kind: Kind, change: &Change) -> String {
    let color = match kind {
        Kind::Added => AnsiColors::Green,
        Kind::Changed => AnsiColors::Yellow,
        Kind::Deleted => AnsiColors::Red,
    };
    let letter = kind.letter();
    let letter = letter.if_supports_color(Stream::Stdout, |letter| letter.color(color));
    let path = printer::escape(&change.path);
    let missed = if change.compatible.is_none() {
        let reasons: Vec<&str> = change.reasons.names().collect();
        format!("  [docker diff misses it: {}]", reasons.join(", "))
    } else {
        String::new()
    };
    let meaning = change.finding.as_ref().map_or_else(String::new, |finding| {
        format!("  {}: {}", severity(change.severity), finding.text)
    });
    format!("{letter} {path}{missed}{meaning}")
}

/// A severity in its colour.
fn severity(severity: Severity) -> String {
    let color = match severity {
        Severity::Info | Severity::Low => return severity.to_string(),
        Severity::Medium => AnsiColors::Yellow,
        Severity::High => AnsiColors::Red,
        Severity::Critical => AnsiColors::BrightRed,
    };
    severity
        .if_supports_color(Stream::Stdout, |severity| severity.color(color))
        .to_string()
}

fn notes(args: &Args, comparison: &Comparison, is_read_only: bool) {
    if is_read_only {
        printer::note(format!(
            "{} is read-only: nothing in its root can change",
            args.container
        ));
        return;
    }
    let hidden = comparison
        .changes
        .iter()
        .filter(|change| change.compatible.is_none())
        .count() as u64;
    if !args.content && args.format == Format::Table && hidden + comparison.unread > 0 {
        printer::hint(&format!(
            "{hidden} more changes that docker diff does not show, and {} files written to whose \
             size and time are as in the image; look closer with: invar diff --content {}",
            comparison.unread, args.container
        ));
    }
}
