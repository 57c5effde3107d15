//! `invar diff`

mod filter;
mod listing;
mod source;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use invar_agent::Attribution;
use invar_drift::{Change, Present, Severity};
use serde::Serialize;

use crate::cli::Cli;
use crate::{engines, exit, printer, privilege};
use filter::Filter;
use listing::Mounted;
use source::Source;

pub(crate) use source::rules;
pub(crate) use table::row;

/// Show what a container changed of its image: A added, C changed, D deleted
///
/// Without --content the letters are those of `docker diff`, and no file is read. With it, files
/// are compared by content, and what `docker diff` does not show is shown too.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Args {
    /// Name or id; `docker:NAME` or `podman:NAME` for a container of another engine
    container: String,

    /// Only these paths and what is in them; with * ? ** a pattern
    #[arg(value_name = "PATH", value_parser = Filter::parse)]
    paths: Vec<Filter>,

    /// Not these paths and what is in them
    #[arg(long, value_name = "PATH", value_parser = Filter::parse)]
    exclude: Vec<Filter>,

    /// Compare content, and show what docker misses: edits that kept size and time, link
    /// targets, extended attributes; also look for marks of malware in what changed
    #[arg(long)]
    content: bool,

    /// Show how each path was and is: type, mode, owner, size, times, attributes, capabilities,
    /// where it was renamed from; with --content, SHA-256
    #[arg(long)]
    detail: bool,

    /// Show how small text files changed; implies --content
    #[arg(long)]
    patch: bool,

    /// List the files of volumes and bind mounts of a running container as well
    #[arg(long)]
    volumes: bool,

    /// List the files in memory (tmpfs, /dev/shm) of a running container as well
    #[arg(long)]
    tmpfs: bool,

    /// Say who changed each path, as far as an agent has seen it, and how sure that is
    #[arg(long)]
    who: bool,

    /// Rules beside those that come with invar and those in /etc/invar/rules.d: a TOML file, or a
    /// directory of them
    #[arg(long, value_name = "FILE")]
    rules: Vec<PathBuf>,

    /// Only what is at least this bad
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = severity())]
    min_severity: Severity,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// End with 3 when any change is left after the filters; files of volumes and tmpfs count
    /// with --min-severity only
    #[arg(long)]
    exit_code: bool,
}

const EXAMPLES: &str = "\
Examples:
  invar diff --content lab             every change, read to the last byte
  invar diff docker:web                a container of Docker
  invar diff --exit-code web && …      in a script: 3 when anything changed
  invar diff --content --tmpfs --min-severity high web
                                       what an intruder may have left
  invar diff --patch web /etc          how its settings were edited";

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
    format: &'a str,
    version: u32,
    container: &'a str,
    id: &'a str,
    engine: &'a str,
    image: &'a str,
    read_only: bool,
    source: &'a Source,
    unread: u64,
    unstable: u64,
    changes: &'a [Told<'a>],
    mounts: &'a [Mounted],
}

/// A change, and who made it when that was asked for.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    change: &'a Change,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<Attribution>,
}

/// A file of a mount on a line of its own.
#[derive(Serialize)]
struct MountedFile<'a> {
    mount: &'a str,
    #[serde(flatten)]
    file: &'a Present,
}

fn severity() -> impl clap::builder::TypedValueParser<Value = Severity> {
    PossibleValuesParser::new(Severity::ALL.map(Severity::as_str)).map(|name| {
        let level = Severity::ALL
            .into_iter()
            .find(|level| level.as_str() == name);
        level.expect("clap lets only possible values through")
    })
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let rules = source::rules(&args.rules)?;
    let found = engines::find(cli.root(), &args.container)?;
    let mut compared = source::compare(&found, args, &rules)?;
    compared
        .comparison
        .changes
        .retain(|change| args.keeps(&change.path, change.severity));
    let mut mounts = listing::mounts(&found, args, &rules)?;
    for file_system in &mut mounts {
        file_system
            .files
            .retain(|file| args.keeps(&file.path, file.severity));
    }
    let comparison = &compared.comparison;
    let changes = told(cli, args, &found, &comparison.changes)?;
    match args.format {
        Format::Table | Format::Docker => {
            printer::lines_of(&changes, |told| table::line(args, told))?;
            printer::lines(table::mounts(args, &mounts))?;
        }
        Format::Json => printer::json(&Document {
            format: "invar-changes",
            version: 1,
            container: found.container.name.as_str(),
            id: found.container.id.as_str(),
            engine: found.container.engine,
            image: &found.container.config.image,
            read_only: compared.is_read_only,
            source: &compared.source,
            unread: comparison.unread,
            unstable: comparison.unstable,
            changes: &changes,
            mounts: &mounts,
        })?,
        Format::Jsonl => {
            printer::jsonl(&changes)?;
            printer::jsonl(mounts.iter().flat_map(|mount| {
                let target = mount.target.as_str();
                mount.files.iter().map(move |file| MountedFile {
                    mount: target,
                    file,
                })
            }))?;
        }
    }
    table::notes(args, &compared, &mounts);
    let counts_files = args.min_severity > Severity::Info;
    let has_found = !comparison.changes.is_empty()
        || (counts_files && mounts.iter().any(|mount| !mount.files.is_empty()));
    Ok(if args.exit_code && has_found {
        ExitCode::from(exit::FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

/// The changes with who made them, when that was asked for.
fn told<'c>(
    cli: &Cli,
    args: &Args,
    found: &engines::Found,
    changes: &'c [Change],
) -> anyhow::Result<Vec<Told<'c>>> {
    if !args.who {
        let told = changes.iter().map(|change| Told { change, who: None });
        return Ok(told.collect());
    }
    let paths = changes.iter().map(|change| change.path.as_slice());
    let who = invar_agent::attributions(cli.root(), &found.container.id, paths)?;
    let told = changes.iter().zip(who);
    Ok(told
        .map(|(change, who)| Told {
            change,
            who: Some(who),
        })
        .collect())
}

impl Args {
    fn reads_content(&self) -> bool {
        self.content || self.patch
    }

    fn keeps(&self, path: &[u8], severity: Severity) -> bool {
        severity >= self.min_severity
            && (self.paths.is_empty() || self.paths.iter().any(|filter| filter.fits(path)))
            && !self.exclude.iter().any(|filter| filter.fits(path))
    }
}
