//! `invar logs`

use std::io::{self, Write as _};
use std::process::ExitCode;

use invar_engine::{LogOptions, LogStream};
use jiff::Timestamp;

use crate::cli::Cli;
use crate::{engines, privilege, times};

/// Show what a container wrote to its standard output and standard error
///
/// Each stream goes where it came from.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,

    /// Only the last so many lines, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = tail)]
    tail: Tail,

    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,

    /// No line before this: 10m (ago), 2026-11-24T10:00:00Z, 1764000000
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    since: Option<Timestamp>,

    /// No line after this
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    until: Option<Timestamp>,

    /// Name or id
    container: String,
}

const EXAMPLES: &str = "\
Examples:
  invar logs -f --tail 20 web      the last lines, and what follows
  invar logs web 2>/dev/null       standard output only";

/// How many lines from the end; `None` for all.
#[derive(Debug, Clone, Copy)]
struct Tail(Option<usize>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        number => match number.parse() {
            Ok(lines) => Ok(Tail(Some(lines))),
            Err(error) => Err(format!("{error}; write a number of lines, or all")),
        },
    }
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let found = engines::find(cli.root(), &args.container)?;
    let options = LogOptions {
        follow: args.follow,
        tail: args.tail.0,
        timestamps: args.timestamps,
        since: args.since,
        until: args.until,
    };
    let mut written = Ok(());
    found
        .engine
        .logs(&found.container.id, &options, &mut |stream, line| {
            written = write(stream, line);
            written.is_ok()
        })?;
    written?;
    Ok(ExitCode::SUCCESS)
}

fn write(stream: LogStream, line: &[u8]) -> io::Result<()> {
    match stream {
        LogStream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(line)?;
            out.flush()
        }
        LogStream::Stderr => io::stderr().lock().write_all(line),
    }
}
