//! `invar container …`: the container commands under the name Docker also has for them.

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::Cli;

/// Manage containers: the same commands as without "container", and prune
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Attach(super::attach::Args),
    Cp(super::cp::Args),
    Create(Box<super::create::Args>),
    Diff(super::diff::Args),
    Exec(super::exec::Args),
    Inspect(super::inspect::Args),
    Kill(super::kill::Args),
    Logs(super::logs::Args),
    #[command(visible_alias = "list", alias = "ps")]
    Ls(super::ps::Args),
    Pause(super::pause::Args),
    /// Remove every container that does not run, with what it wrote
    Prune(super::prune::Args),
    Rename(super::rename::Args),
    Restart(super::restart::Args),
    Rm(super::rm::Args),
    Run(Box<super::run::Args>),
    Start(super::start::Args),
    Stats(super::stats::Args),
    Stop(super::stop::Args),
    Top(super::top::Args),
    Unpause(super::unpause::Args),
    Update(super::update::Args),
    Wait(super::wait::Args),
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Task::Attach(args) => super::attach::run(cli, args),
        Task::Cp(args) => super::cp::run(cli, args),
        Task::Create(args) => super::create::run(cli, args),
        Task::Diff(args) => super::diff::run(cli, args),
        Task::Exec(args) => super::exec::run(cli, args),
        Task::Inspect(args) => super::inspect::run(cli, args),
        Task::Kill(args) => super::kill::run(cli, args),
        Task::Logs(args) => super::logs::run(cli, args),
        Task::Ls(args) => super::ps::run(cli, args),
        Task::Pause(args) => super::pause::run(cli, args),
        Task::Prune(args) => super::prune::containers(cli, args),
        Task::Rename(args) => super::rename::run(cli, args),
        Task::Restart(args) => super::restart::run(cli, args),
        Task::Rm(args) => super::rm::run(cli, args),
        Task::Run(args) => super::run::run(cli, args),
        Task::Start(args) => super::start::run(cli, args),
        Task::Stats(args) => super::stats::run(cli, args),
        Task::Stop(args) => super::stop::run(cli, args),
        Task::Top(args) => super::top::run(cli, args),
        Task::Unpause(args) => super::unpause::run(cli, args),
        Task::Update(args) => super::update::run(cli, args),
        Task::Wait(args) => super::wait::run(cli, args),
    }
}
