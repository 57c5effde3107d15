//! `invar deploy`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use invar_rollout::compose::{self, Condition, Project};
use invar_rollout::driver::{Driver, Store};

use crate::cli::Cli;
use crate::deploying::show::{self, Ended, Planned};
use crate::deploying::{self, Gateway, Site, advise};
use crate::exit::{Advise as _, FAILED};
use crate::{printer, privilege};

/// Make this machine run what a compose file says, by replacing containers
///
/// Services come in the order of their dependencies. A new revision starts beside the old one; when
/// it is well, the gateway moves traffic to it, all at once or step by step (x-invar.rollout), and
/// back at once when it is worse. A deploy that was killed is gone on with by the next one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The compose file
    #[arg(short, long, value_name = "FILE", default_value = "compose.yaml")]
    file: PathBuf,

    /// Only show what would be replaced, and which input of its revision changed
    #[arg(long)]
    dry_run: bool,

    /// Name of the project (default: the file's, or its directory's)
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,

    /// Deploy services of this profile too; * for all
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,

    /// The engine that runs the containers: embedded, docker or podman
    #[arg(long, value_name = "ENGINE", default_value = "embedded")]
    engine: String,

    /// Also take away services of the project that the file no longer has
    #[arg(long)]
    remove_orphans: bool,

    /// How the result is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    #[command(flatten)]
    gateway: Gateway,

    /// Only these services (default: all)
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

const EXAMPLES: &str = "\
Examples:
  invar gateway &                      once: traffic goes through it
  invar deploy --dry-run               what would be replaced, and why
  invar deploy -f shop/compose.yaml    make it so
  invar status                         where each service stands
  invar history web                    every decision, with its numbers
  invar rollback web                   back to the revision before, at once";

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let project = read(args)?;
    let site = Site::open(cli.root(), &args.engine)?;
    let driver = deploying::driver(cli, &args.gateway, &site)?;
    let mut wanted = Vec::new();
    for name in chosen(&project, &args.services)? {
        let definition = deploying::definition(&project, name, &site, cli.root())?;
        wanted.push((name, format!("{}.{name}", project.name), definition));
    }
    if args.dry_run {
        let mut plans = Vec::new();
        for (_, service, definition) in &wanted {
            plans.push(Planned {
                service: service.clone(),
                revision: definition.revision(),
                plan: driver.plan(service, definition).map_err(advise)?,
            });
        }
        match args.format {
            Format::Json => printer::json(&plans)?,
            Format::Text => show::plans(&plans)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(engine) = site.embedded() {
        let names: Vec<&str> = wanted.iter().map(|(name, ..)| *name).collect();
        deploying::networks::ensure(engine, &project, &names)?;
    }
    let mut ended = Vec::new();
    for (name, service, definition) in &wanted {
        if is_job(&project, name) {
            deploying::run_to_its_end(&*site.engine, service, definition)?;
            continue;
        }
        let one = deploy_one(&driver, service, definition)?;
        let has_failed = one.has_failed();
        ended.push(one);
        if has_failed {
            // What depends on it expects the revision that is not there.
            break;
        }
    }
    if !ended.iter().any(Ended::has_failed) {
        ended.extend(clear_up(cli, args, &project)?);
    }
    match args.format {
        Format::Json => printer::json(&ended)?,
        Format::Text => printer::lines(ended.iter().map(Ended::sentence))?,
    }
    Ok(if ended.iter().any(Ended::has_failed) {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Removes warm revisions whose time is over, of every service, and the services that the file no
/// longer has; without `--remove-orphans` these are named.
fn clear_up(cli: &Cli, args: &Args, project: &Project) -> anyhow::Result<Vec<Ended>> {
    let mut removed = Vec::new();
    let prefix = format!("{}.", project.name);
    for stored in Store::open(cli.root())?.services()? {
        let service = stored.service.as_str();
        let (driver, _) = deploying::driver_of(cli, &args.gateway, service)?;
        let name = service.strip_prefix(&prefix);
        let is_orphan = name.is_some_and(|name| !project.names.contains(name));
        if is_orphan && args.remove_orphans {
            let outcome = driver
                .remove(service, &mut show::decision)
                .map_err(advise)?;
            removed.push(Ended::of(service, &outcome));
            deploying::networks::tidy(cli.root(), service)?;
            continue;
        }
        if is_orphan {
            printer::note(format!("{service} is not in the file any more and goes on"));
            printer::hint(&format!(
                "take it away: invar undeploy {service}, or deploy with --remove-orphans"
            ));
        }
        // What another service needs must not keep this deploy from having succeeded.
        if let Err(error) = driver.cool(service) {
            let error = anyhow::Error::from(error);
            printer::note(format!("{service} could not be tidied: {error:#}"));
        }
    }
    Ok(removed)
}

fn deploy_one(
    driver: &Driver,
    service: &str,
    definition: &invar_rollout::Definition,
) -> anyhow::Result<Ended> {
    let outcome = driver
        .deploy(service, definition, &mut show::decision)
        .map_err(advise)?;
    Ok(Ended::of(service, &outcome))
}

fn read(args: &Args) -> anyhow::Result<Project> {
    let options = compose::Options {
        name: args.project_name.as_deref(),
        profiles: &args.profile,
        environment: &|name| std::env::var(name).ok(),
    };
    let (project, warnings) = compose::load(Path::new(&args.file), &options)
        .hint("docs/deploy.md lists what a compose file may say")?;
    for warning in warnings {
        printer::note(format!("warning: {warning}"));
    }
    Ok(project)
}

/// The services to deploy, in order.
fn chosen<'a>(project: &'a Project, asked: &[String]) -> anyhow::Result<Vec<&'a str>> {
    for name in asked {
        if !project.services.contains_key(name) {
            let known: Vec<&str> = project.services.keys().map(String::as_str).collect();
            return Err(crate::exit::failure(
                format!("the file has no service {name:?}"),
                format!("it has: {}", known.join(", ")),
            ));
        }
    }
    let mut order = project.order()?;
    order.retain(|name| asked.is_empty() || asked.iter().any(|other| other == name));
    Ok(order)
}

/// Whether another service waits for this one to complete.
fn is_job(project: &Project, name: &str) -> bool {
    let all = project.services.values();
    all.flat_map(|service| &service.depends_on)
        .any(|dependency| {
            dependency.service == name && dependency.condition == Condition::Completed
        })
}
