//! `invar`: keeps containers exactly as they were built.
#![forbid(unsafe_code)]

mod age;
mod attached;
mod background;
mod cli;
mod commands;
mod container_config;
mod creating;
mod deploying;
mod doctor;
mod drill;
mod engines;
mod exit;
mod following;
mod healing;
mod hints;
mod names;
mod printer;
mod privilege;
mod progress;
mod registries;
mod selection;
mod sensing;
mod several;
mod signals;
mod terminal;
mod times;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    if let Some(code) = invar_engine::embedded::play_role(&args) {
        return code;
    }
    let cli = match cli::Cli::read() {
        Ok(cli) => cli,
        Err(error) => return exit::report_usage(&error),
    };
    match commands::run(&cli) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}
