//! One file a subcommand: its arguments (the doc comments are the help) and one function.

mod capture;
mod completions;
mod create;
pub(crate) mod diff;
mod drill;
mod evidence;
mod exec;
mod gateway;
mod image;
mod images;
mod import;
mod inspect;
mod kill;
mod load;
mod logs;
mod pause;
mod ps;
mod rename;
mod replace;
mod restart;
mod rm;
mod rmi;
mod run;
mod save;
mod start;
mod stop;
mod tag;
mod unpause;
mod wait;
mod watch;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::Cli;

/// Every subcommand.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Capture(capture::Args),
    Completions(completions::Args),
    Create(Box<create::Args>),
    Diff(diff::Args),
    Drill(drill::Args),
    #[command(hide = true)]
    DrillApp(crate::drill::app::Args),
    Evidence(evidence::Args),
    Exec(exec::Args),
    Gateway(gateway::Args),
    Image(image::Args),
    Images(images::Args),
    Import(import::Args),
    Inspect(inspect::Args),
    Kill(kill::Args),
    Load(load::Args),
    Logs(logs::Args),
    Pause(pause::Args),
    Ps(ps::Args),
    Rename(rename::Args),
    Replace(replace::Args),
    Restart(restart::Args),
    Rm(rm::Args),
    Rmi(rmi::Args),
    Run(Box<run::Args>),
    Save(save::Args),
    Start(start::Args),
    Stop(stop::Args),
    Tag(tag::Args),
    Unpause(unpause::Args),
    Wait(wait::Args),
    Watch(watch::Args),
}

/// Runs the chosen subcommand.
pub(crate) fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Capture(args) => capture::run(cli, args),
        Command::Completions(args) => completions::run(args),
        Command::Create(args) => create::run(cli, args),
        Command::Diff(args) => diff::run(cli, args),
        Command::Drill(args) => drill::run(cli, args),
        Command::DrillApp(args) => Ok(crate::drill::app::run(args)),
        Command::Evidence(args) => evidence::run(cli, args),
        Command::Exec(args) => exec::run(cli, args),
        Command::Gateway(args) => gateway::run(cli, args),
        Command::Image(args) => image::run(cli, args),
        Command::Images(args) => images::run(cli, args),
        Command::Import(args) => import::run(cli, args),
        Command::Inspect(args) => inspect::run(cli, args),
        Command::Kill(args) => kill::run(cli, args),
        Command::Load(args) => load::run(cli, args),
        Command::Logs(args) => logs::run(cli, args),
        Command::Pause(args) => pause::run(cli, args),
        Command::Ps(args) => ps::run(cli, args),
        Command::Rename(args) => rename::run(cli, args),
        Command::Replace(args) => replace::run(cli, args),
        Command::Restart(args) => restart::run(cli, args),
        Command::Rm(args) => rm::run(cli, args),
        Command::Rmi(args) => rmi::run(cli, args),
        Command::Run(args) => run::run(cli, args),
        Command::Save(args) => save::run(cli, args),
        Command::Start(args) => start::run(cli, args),
        Command::Stop(args) => stop::run(cli, args),
        Command::Tag(args) => tag::run(cli, args),
        Command::Unpause(args) => unpause::run(cli, args),
        Command::Wait(args) => wait::run(cli, args),
        Command::Watch(args) => watch::run(cli, args),
    }
}
