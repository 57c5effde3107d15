//! One file a subcommand: its arguments (the doc comments are the help) and one function.

mod abort;
pub(crate) mod agent;
mod attach;
mod boot;
mod capture;
mod completions;
mod container;
mod cp;
mod create;
mod deploy;
pub(crate) mod diff;
mod doctor;
mod drill;
mod events;
mod evidence;
mod exec;
pub(crate) mod gateway;
mod history;
mod hold;
mod image;
mod images;
mod import;
mod inspect;
mod kill;
mod learn;
mod load;
mod login;
mod logout;
mod logs;
mod network;
mod pause;
mod port;
mod promote;
mod prune;
mod ps;
pub(crate) mod pull;
mod push;
mod rename;
mod replace;
mod restart;
mod rm;
mod rmi;
mod rollback;
mod run;
mod save;
mod start;
mod stats;
mod status;
mod stop;
mod system;
mod tag;
mod top;
mod undeploy;
mod unpause;
mod update;
mod wait;
mod watch;

use std::process::ExitCode;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};

use crate::cli::Cli;

/// Every subcommand.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Abort(abort::Args),
    Agent(agent::Args),
    Attach(attach::Args),
    Boot(boot::Args),
    Capture(capture::Args),
    Completions(completions::Args),
    Container(container::Args),
    Cp(cp::Args),
    Create(Box<create::Args>),
    Deploy(deploy::Args),
    Diff(diff::Args),
    Doctor(doctor::Args),
    Drill(drill::Args),
    #[command(hide = true)]
    DrillApp(crate::drill::app::Args),
    Events(events::Args),
    Evidence(evidence::Args),
    Exec(exec::Args),
    Gateway(gateway::Args),
    History(history::Args),
    Hold(hold::Args),
    Image(image::Args),
    Images(images::Args),
    Import(import::Args),
    Inspect(inspect::Args),
    Kill(kill::Args),
    Learn(learn::Args),
    Load(load::Args),
    Login(login::Args),
    Logout(logout::Args),
    Logs(logs::Args),
    Network(network::Args),
    Pause(pause::Args),
    Port(port::Args),
    Promote(promote::Args),
    Ps(ps::Args),
    Pull(pull::Args),
    Push(push::Args),
    Rename(rename::Args),
    Replace(replace::Args),
    Restart(restart::Args),
    Rm(rm::Args),
    Rmi(rmi::Args),
    Rollback(rollback::Args),
    Run(Box<run::Args>),
    Save(save::Args),
    Start(start::Args),
    Status(status::Args),
    Stats(stats::Args),
    Stop(stop::Args),
    System(system::Args),
    Tag(tag::Args),
    Top(top::Args),
    Undeploy(undeploy::Args),
    Unpause(unpause::Args),
    Update(update::Args),
    Wait(wait::Args),
    Watch(watch::Args),
}

/// A subcommand that can be read without the others.
pub(crate) struct Often {
    pub(crate) name: &'static str,
    /// Adds its flags.
    pub(crate) describe: fn(clap::Command) -> clap::Command,
    pub(crate) read: fn(&ArgMatches) -> Result<Command, clap::Error>,
}

/// What scripts run in loops.
pub(crate) const OFTEN: &[Often] = &[
    Often::new::<diff::Args>("diff", |found| {
        FromArgMatches::from_arg_matches(found).map(Command::Diff)
    }),
    Often::new::<exec::Args>("exec", |found| {
        FromArgMatches::from_arg_matches(found).map(Command::Exec)
    }),
    Often::new::<ps::Args>("ps", |found| {
        FromArgMatches::from_arg_matches(found).map(Command::Ps)
    }),
    Often::new::<rm::Args>("rm", |found| {
        FromArgMatches::from_arg_matches(found).map(Command::Rm)
    }),
    Often::new::<run::Args>("run", |found| {
        FromArgMatches::from_arg_matches(found).map(|args| Command::Run(Box::new(args)))
    }),
    Often::new::<start::Args>("start", |found| {
        FromArgMatches::from_arg_matches(found).map(Command::Start)
    }),
    Often::new::<stop::Args>("stop", |found| {
        FromArgMatches::from_arg_matches(found).map(Command::Stop)
    }),
];

impl Often {
    const fn new<A: Args>(
        name: &'static str,
        read: fn(&ArgMatches) -> Result<Command, clap::Error>,
    ) -> Self {
        Self {
            name,
            describe: A::augment_args,
            read,
        }
    }
}

/// Runs the chosen subcommand.
pub(crate) fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Abort(args) => abort::run(cli, args),
        Command::Agent(args) => agent::run(cli, args),
        Command::Attach(args) => attach::run(cli, args),
        Command::Boot(args) => boot::run(cli, args),
        Command::Capture(args) => capture::run(cli, args),
        Command::Completions(args) => completions::run(args),
        Command::Container(args) => container::run(cli, args),
        Command::Cp(args) => cp::run(cli, args),
        Command::Create(args) => create::run(cli, args),
        Command::Deploy(args) => deploy::run(cli, args),
        Command::Diff(args) => diff::run(cli, args),
        Command::Doctor(args) => doctor::run(cli, args),
        Command::Drill(args) => drill::run(cli, args),
        Command::DrillApp(args) => Ok(crate::drill::app::run(args)),
        Command::Events(args) => events::run(cli, args),
        Command::Evidence(args) => evidence::run(cli, args),
        Command::Exec(args) => exec::run(cli, args),
        Command::Gateway(args) => gateway::run(cli, args),
        Command::History(args) => history::run(cli, args),
        Command::Hold(args) => hold::run(cli, args),
        Command::Image(args) => image::run(cli, args),
        Command::Images(args) => images::run(cli, args),
        Command::Import(args) => import::run(cli, args),
        Command::Inspect(args) => inspect::run(cli, args),
        Command::Kill(args) => kill::run(cli, args),
        Command::Learn(args) => learn::run(cli, args),
        Command::Load(args) => load::run(cli, args),
        Command::Login(args) => login::run(cli, args),
        Command::Logout(args) => logout::run(cli, args),
        Command::Logs(args) => logs::run(cli, args),
        Command::Network(args) => network::run(cli, args),
        Command::Pause(args) => pause::run(cli, args),
        Command::Port(args) => port::run(cli, args),
        Command::Promote(args) => promote::run(cli, args),
        Command::Ps(args) => ps::run(cli, args),
        Command::Pull(args) => pull::run(cli, args),
        Command::Push(args) => push::run(cli, args),
        Command::Rename(args) => rename::run(cli, args),
        Command::Replace(args) => replace::run(cli, args),
        Command::Restart(args) => restart::run(cli, args),
        Command::Rm(args) => rm::run(cli, args),
        Command::Rmi(args) => rmi::run(cli, args),
        Command::Rollback(args) => rollback::run(cli, args),
        Command::Run(args) => run::run(cli, args),
        Command::Save(args) => save::run(cli, args),
        Command::Start(args) => start::run(cli, args),
        Command::Status(args) => status::run(cli, args),
        Command::Stats(args) => stats::run(cli, args),
        Command::Stop(args) => stop::run(cli, args),
        Command::System(args) => system::run(cli, args),
        Command::Tag(args) => tag::run(cli, args),
        Command::Top(args) => top::run(cli, args),
        Command::Undeploy(args) => undeploy::run(cli, args),
        Command::Unpause(args) => unpause::run(cli, args),
        Command::Update(args) => update::run(cli, args),
        Command::Wait(args) => wait::run(cli, args),
        Command::Watch(args) => watch::run(cli, args),
    }
}
