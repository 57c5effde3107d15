//! The command line: global options and the list of subcommands.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args as _, FromArgMatches as _, Parser};

use crate::commands::{self, Command};

/// Keeps containers exactly as they were built: runs them unchangeable, shows every change,
/// keeps the evidence, and replaces what was touched.
#[derive(Debug, Parser)]
#[command(
    name = "invar",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every subcommand takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// Where images, containers and evidence are kept
    #[arg(
        long,
        global = true,
        env = "INVAR_ROOT",
        default_value = "/var/lib/invar"
    )]
    root: PathBuf,
}

impl Cli {
    /// Reads the command line.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let words: Vec<OsString> = std::env::args_os().collect();
        // What the short way does not understand is explained by the whole.
        Self::read_often(&words).map_or_else(|| Self::try_parse_from(&words), Ok)
    }

    /// Reads a command that scripts run often, without describing all the others to the parser:
    /// that takes it longer than anything else here.
    fn read_often(words: &[OsString]) -> Option<Self> {
        let name = words.get(1)?.to_str()?;
        let often = commands::OFTEN.iter().find(|often| often.name == name)?;
        let described = Global::augment_args(clap::Command::new("invar"))
            .subcommand((often.describe)(clap::Command::new(often.name)));
        let found = described.try_get_matches_from(words).ok()?;
        let (_, of_command) = found.subcommand()?;
        Some(Self {
            global: Global::from_arg_matches(of_command).ok()?,
            command: (often.read)(of_command).ok()?,
        })
    }

    /// The state directory.
    pub(crate) fn root(&self) -> &Path {
        &self.global.root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_short_way_reads_what_the_whole_reads() {
        for line in [
            "invar run --rm -e A=b busybox true --root x",
            "invar run --root /x -d busybox",
            "invar exec -it web sh -c ls",
            "invar ps --root=/x -a",
            "invar diff web --content",
            "invar stop a b",
        ] {
            let short = Cli::read_often(&words(line)).expect(line);
            let whole = Cli::try_parse_from(words(line)).expect(line);
            assert_eq!(format!("{short:?}"), format!("{whole:?}"), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_or_asks_for_help_is_left_to_the_whole() {
        for line in [
            "invar run",
            "invar run --help",
            "invar run --nonsense x",
            "invar drill",
        ] {
            assert!(Cli::read_often(&words(line)).is_none(), "{line}");
        }
    }
}
