//! `invar ps`

use std::net::SocketAddr;
use std::process::ExitCode;

use invar_engine::{Container, Endpoint, Health, HealthStatus, State};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::selection::{self, Key};
use crate::{age, engines, privilege};

/// Characters of the command in the table.
const COMMAND_WIDTH: usize = 30;

/// List the containers of every engine that answers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,

    /// Only the ids
    #[arg(short, long)]
    quiet: bool,

    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,

    /// Only this engine's: embedded, docker, podman
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,

    /// Only those: name=PART, id=, label=NAME[=VALUE], status=, ancestor=IMAGE, exited=CODE,
    /// health=; those that do not run too when status or exited is among them
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = selection::parse)]
    filter: Vec<selection::Filter>,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A container in JSON listings.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    name: &'a str,
    engine: &'a str,
    image: &'a str,
    command: &'a [String],
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    #[serde(flatten)]
    state: &'a State,
    health: Option<HealthStatus>,
    restarts: u32,
    revision: &'a str,
    endpoints: &'a [Endpoint],
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let mut containers = match &args.engine {
        Some(name) => engines::open(cli.root(), name)?.list()?,
        None => engines::list(cli.root()),
    };
    let goes_on = |container: &Container| {
        matches!(
            container.state,
            State::Running | State::Paused | State::Restarting(_)
        )
    };
    let asks_for_others = |(key, _): &selection::Filter| matches!(key, Key::Status | Key::Exited);
    let all = args.all || args.filter.iter().any(asks_for_others);
    containers
        .retain(|container| (all || goes_on(container)) && selection::has(&args.filter, container));
    if args.quiet {
        let ids = containers.iter().map(|container| id(container, args));
        printer::lines(ids.map(str::to_owned))?;
        return Ok(ExitCode::SUCCESS);
    }
    if containers
        .iter()
        .any(|container| container.state == State::Paused)
    {
        super::evidence::frozen::warn(cli.root())?;
    }
    match args.format {
        Format::Table => printer::table(
            [
                "CONTAINER ID",
                "IMAGE",
                "COMMAND",
                "CREATED",
                "STATUS",
                "PORTS",
                "NAME",
                "ENGINE",
            ],
            containers
                .iter()
                .map(|container| row(container, args, Timestamp::now())),
        )?,
        Format::Json => printer::json(&containers.iter().map(listed).collect::<Vec<_>>())?,
        Format::Jsonl => printer::jsonl(containers.iter().map(listed))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn id<'a>(container: &'a Container, args: &Args) -> &'a str {
    if args.no_trunc {
        container.id.as_str()
    } else {
        container.id.short()
    }
}

fn row(container: &Container, args: &Args, now: Timestamp) -> [String; 8] {
    let config = &container.config;
    let escaped = |text: &str| printer::escape(text.as_bytes()).into_owned();
    [
        id(container, args).to_owned(),
        escaped(&config.image_name),
        command(&escaped(&config.args.join(" ")), args.no_trunc),
        format!("{} ago", age::since(container.created_at, now)),
        status(container, now),
        published(container),
        container.name.to_string(),
        container.engine.to_owned(),
    ]
}

/// `8080->80/tcp`, in Docker's form; without an address it is every one of the host.
fn published(container: &Container) -> String {
    let ports = container.endpoints.iter().flat_map(|place| &place.ports);
    let shown = ports.map(|port| {
        let (container, protocol) = (port.container, port.protocol.as_str());
        let host = match port.address {
            Some(address) => SocketAddr::new(address, port.host).to_string(),
            None => port.host.to_string(),
        };
        format!("{host}->{container}/{protocol}")
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn command(text: &str, whole: bool) -> String {
    if whole || text.chars().count() <= COMMAND_WIDTH {
        return format!("\"{text}\"");
    }
    let cut: String = text.chars().take(COMMAND_WIDTH - 1).collect();
    format!("\"{cut}…\"")
}

/// What it is doing, in Docker's words.
fn status(container: &Container, now: Timestamp) -> String {
    let up = || {
        let since = container.started_at.unwrap_or(container.created_at);
        age::since(since, now)
    };
    match &container.state {
        State::Created => "Created".to_owned(),
        State::Running => match &container.health {
            Some(health) => format!("Up {} ({})", up(), shown_health(health)),
            None => format!("Up {}", up()),
        },
        State::Paused => format!("Up {} (Paused)", up()),
        State::Restarting(status) => format!(
            "Restarting ({}) {} ago",
            status.code,
            age::since(status.finished_at, now)
        ),
        State::Exited(status) => {
            let why = if status.oom_killed {
                ", no memory left"
            } else {
                ""
            };
            format!(
                "Exited ({}{why}) {} ago",
                status.code,
                age::since(status.finished_at, now)
            )
        }
    }
}

/// Docker's words.
fn shown_health(health: &Health) -> &'static str {
    match health.status {
        HealthStatus::Starting => "health: starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

fn listed(container: &Container) -> Listed<'_> {
    Listed {
        id: container.id.as_str(),
        name: container.name.as_str(),
        engine: container.engine,
        image: &container.config.image_name,
        command: &container.config.args,
        created_at: container.created_at,
        started_at: container.started_at,
        state: &container.state,
        health: container.health.as_ref().map(|health| health.status),
        restarts: container.restarts,
        revision: container.revision.as_str(),
        endpoints: &container.endpoints,
    }
}
