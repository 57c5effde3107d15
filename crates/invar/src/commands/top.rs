//! `invar top`

use std::process::ExitCode;

use fs_err as fs;
use serde::Serialize;

use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::{engines, privilege};

/// List the processes of a running container
///
/// As the host numbers them. Nothing is executed in the container.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// Name or id
    container: String,
}

#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    parent: u32,
    uid: u32,
    state: char,
    threads: u64,
    /// Clock ticks of processor time.
    ticks: u64,
    /// Bytes in memory.
    memory: u64,
    command: String,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let found = engines::find(cli.root(), &args.container)?;
    let mut pids = found.engine.processes(&found.container.id)?;
    pids.sort_unstable();
    // One that has ended since it was listed is left out.
    let processes: Vec<Process> = pids.into_iter().filter_map(read).collect();
    match args.format {
        Format::Table => printer::table(
            [
                "PID", "PPID", "UID", "STATE", "THREADS", "TIME", "MEMORY", "COMMAND",
            ],
            processes.iter().map(row),
        )?,
        Format::Json => printer::json(&processes)?,
        Format::Jsonl => printer::jsonl(&processes)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn row(process: &Process) -> [String; 8] {
    let seconds = process.ticks / rustix::param::clock_ticks_per_second().max(1);
    [
        process.pid.to_string(),
        process.parent.to_string(),
        process.uid.to_string(),
        process.state.to_string(),
        process.threads.to_string(),
        format!(
            "{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        ),
        printer::size(process.memory),
        printer::escape(process.command.as_bytes()).into_owned(),
    ]
}

fn read(pid: u32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let uid = rustix::fs::stat(format!("/proc/{pid}")).ok()?.st_uid;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    parse(pid, uid, &stat, &line)
}

/// `proc_pid_stat(5)`; the name in parentheses may hold anything.
fn parse(pid: u32, uid: u32, stat: &str, line: &[u8]) -> Option<Process> {
    let (name_ends, name_begins) = (stat.rfind(')')?, stat.find('(')?);
    let fields: Vec<&str> = stat[name_ends + 1..].split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let command = if line.is_empty() {
        // A kernel thread, or one that has ended and was not waited for.
        format!("[{}]", stat.get(name_begins + 1..name_ends)?)
    } else {
        let words = line.strip_suffix(b"\0").unwrap_or(line);
        String::from_utf8_lossy(words).replace('\0', " ")
    };
    Some(Process {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        uid,
        state: fields.first()?.chars().next()?,
        threads: number(17)?,
        ticks: number(11)?.saturating_add(number(12)?),
        memory: number(21)?.saturating_mul(u64::try_from(rustix::param::page_size()).ok()?),
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_imitates_the_kernel_s_form_does_not_deceive() {
        let stat = "7 (a) S 1 (b) R 3 7 7 0 -1 0 0 0 0 0 25 17 0 0 20 0 2 0 99 4096 2 0";
        let process = parse(7, 0, stat, b"").unwrap();
        assert_eq!((process.parent, process.state), (3, 'R'));
        assert_eq!((process.ticks, process.threads), (42, 2));
        assert_eq!(process.command, "[a) S 1 (b]");
        assert_eq!(
            parse(7, 0, stat, b"sh\0-c\0x\0").unwrap().command,
            "sh -c x"
        );
    }
}
