//! `invar`: keeps containers exactly as they were built.
#![forbid(unsafe_code)]

mod cli;
mod commands;
#[cfg_attr(
    not(test),
    expect(dead_code, unused_imports, reason = "for the run command")
)]
mod container_config;
mod engines;
mod exit;
mod hints;
#[cfg_attr(not(test), expect(dead_code, reason = "for the run command"))]
mod names;
mod printer;
mod privilege;
mod signals;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::report_usage(&error),
    };
    match commands::run(&cli) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}
