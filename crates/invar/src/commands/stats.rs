//! `invar stats`

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use invar_engine::{Container, State, Usage, usage};
use serde::Serialize;

use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::{engines, privilege};

/// Between two looks; Docker's.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between the two looks that a share of processor time needs when there is only one answer.
const SHORT: Duration = Duration::from_millis(200);

/// Show what running containers use, again and again
///
/// CPU in percent of one processor. Memory without what the kernel can drop at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One answer only
    #[arg(long)]
    no_stream: bool,

    /// Also containers that do not run
    #[arg(short, long)]
    all: bool,

    /// Whole ids
    #[arg(long)]
    no_trunc: bool,

    /// How to write it; json and jsonl give one answer after another
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// Names or ids (default: all that run)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// What one container uses.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    engine: &'static str,
    /// Hundredths of a percent of one processor.
    cpu_percent: f64,
    #[serde(flatten)]
    usage: Usage,
}

/// Counters of the look before.
type Before = HashMap<String, (Instant, u64)>;

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let mut before = Before::new();
    look(cli, args, &mut before)?;
    std::thread::sleep(SHORT);
    let clears = args.format == Format::Table && !args.no_stream && io::stdout().is_terminal();
    loop {
        let rows = look(cli, args, &mut before)?;
        if clears {
            // Home, and erase what is below: less flicker than erasing first.
            write!(io::stdout().lock(), "\x1b[H\x1b[J")?;
        }
        show(args, &rows)?;
        if args.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(INTERVAL);
    }
}

fn look(cli: &Cli, args: &Args, before: &mut Before) -> anyhow::Result<Vec<Row>> {
    let containers = if args.containers.is_empty() {
        let mut all = engines::list(cli.root());
        all.retain(|c| args.all || matches!(c.state, State::Running | State::Paused));
        all
    } else {
        let find = |name: &String| Ok(engines::find(cli.root(), name)?.container);
        args.containers
            .iter()
            .map(find)
            .collect::<anyhow::Result<_>>()?
    };
    let mut rows = Vec::with_capacity(containers.len());
    let mut now = Before::new();
    for container in containers {
        let used = container.init_pid.and_then(usage);
        let time = Instant::now();
        let id = container.id.as_str().to_owned();
        let used = match (used, &container.state) {
            (Some(used), _) => used,
            // It has ended since it was listed.
            (None, State::Running) => continue,
            (None, _) => Usage::default(),
        };
        let cpu_percent = before.get(&id).map_or(0.0, |(then, nanoseconds)| {
            percent(
                used.cpu_nanoseconds.saturating_sub(*nanoseconds),
                time.duration_since(*then),
            )
        });
        now.insert(id.clone(), (time, used.cpu_nanoseconds));
        rows.push(row(&container, args, cpu_percent, used));
    }
    *before = now;
    Ok(rows)
}

fn row(container: &Container, args: &Args, cpu_percent: f64, usage: Usage) -> Row {
    let is_short = args.format == Format::Table && !args.no_trunc;
    Row {
        id: if is_short {
            container.id.short().to_owned()
        } else {
            container.id.as_str().to_owned()
        },
        name: container.name.to_string(),
        engine: container.engine,
        cpu_percent,
        usage,
    }
}

/// Processor time over time, rounded to hundredths.
fn percent(nanoseconds: u64, over: Duration) -> f64 {
    let over = over.as_nanos().max(1);
    let hundredths = u128::from(nanoseconds) * 10_000 / over;
    f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0
}

fn show(args: &Args, rows: &[Row]) -> io::Result<()> {
    match args.format {
        Format::Json => printer::json(&rows),
        Format::Jsonl => printer::jsonl(rows),
        Format::Table => printer::table(
            [
                "CONTAINER ID",
                "NAME",
                "CPU %",
                "MEM USAGE / LIMIT",
                "MEM %",
                "NET I/O",
                "BLOCK I/O",
                "PIDS",
            ],
            rows.iter().map(cells),
        ),
    }
}

fn cells(row: &Row) -> [String; 8] {
    let usage = &row.usage;
    let pair = |a: u64, b: u64| format!("{} / {}", printer::size(a), printer::size(b));
    let of_limit = usage.memory_limit.map(|limit| {
        let hundredths = u128::from(usage.memory) * 10_000 / u128::from(limit.max(1));
        format!("{}.{:02}%", hundredths / 100, hundredths % 100)
    });
    let limit = usage.memory_limit.map_or("none".to_owned(), printer::size);
    let network = match (usage.network_received, usage.network_sent) {
        (Some(received), Some(sent)) => pair(received, sent),
        _ => "host".to_owned(),
    };
    [
        row.id.clone(),
        row.name.clone(),
        format!("{:.2}%", row.cpu_percent),
        format!("{} / {limit}", printer::size(usage.memory)),
        of_limit.unwrap_or_else(|| "-".to_owned()),
        network,
        pair(usage.disk_read, usage.disk_written),
        usage.pids.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_busy_processors_are_two_hundred_percent() {
        let second = Duration::from_secs(1);
        assert!((percent(2_000_000_000, second) - 200.0).abs() < 1e-9);
        assert!((percent(1_234_000, second) - 0.12).abs() < 1e-9);
        assert!(percent(0, Duration::ZERO).abs() < 1e-9);
    }
}
