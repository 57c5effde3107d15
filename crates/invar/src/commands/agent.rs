//! `invar agent`

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use invar_agent::api::client;
use invar_agent::api::protocol::Ask;
use invar_agent::{Agent, AgentError, Host, Settings, policy};
use invar_engine::{Container, Engine, EngineError};
use invar_evidence::Traffic;
use invar_sensor::{Guarding, PINS, lift};
use invar_sys::signal::{SIGHUP, SIGINT, SIGTERM, SignalFd};
use serde_json::Value;

use super::gateway::CONTROL;
use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::{engines, exit, healing, privilege, signals};

/// Watch every container of this machine, and respond to what should not happen
///
/// Without a subcommand this is the agent itself: it watches the containers of all engines, refuses
/// what their policy forbids, and alerts, freezes, captures or replaces. SIGHUP has it read its
/// policy again. The subcommands speak to the running agent.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = NOTES)]
pub(crate) struct Args {
    #[command(flatten)]
    run: Run,

    #[command(subcommand)]
    ask: Option<Command>,
}

const NOTES: &str = "\
Examples:
  invar agent                      watch and respond by /etc/invar/agent.toml
  invar agent check my.toml        say what is wrong with a policy
  invar agent status               what is watched, and what was seen
  invar agent seal web             what web changes from now on is drift
  invar agent release web          let a frozen or quarantined container go on";

/// The agent itself.
#[derive(Debug, clap::Args)]
struct Run {
    /// The policy; without the file everything is observed, and the worst is told
    #[arg(long, value_name = "FILE", default_value = POLICY)]
    policy: PathBuf,

    /// The control socket of the gateway, at which traffic is moved when a service is healed
    #[arg(long, value_name = "SOCKET", default_value = CONTROL)]
    gateway: PathBuf,

    #[command(flatten)]
    at: At,
}

const POLICY: &str = "/etc/invar/agent.toml";

/// Where the agent is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct At {
    /// The agent's socket (default: /run/invar/agent.sock, or agent.sock in another state root)
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
}

impl At {
    fn path(&self, cli: &Cli) -> PathBuf {
        self.control.clone().unwrap_or_else(|| control(cli.root()))
    }
}

/// Where the agent of a state root is asked.
pub(crate) fn control(root: &Path) -> PathBuf {
    if root == Path::new("/var/lib/invar") {
        "/run/invar/agent.sock".into()
    } else {
        root.join("agent.sock")
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is wrong with a policy, or that nothing is
    Check {
        /// The policy
        #[arg(default_value = POLICY)]
        file: PathBuf,
    },
    /// Show what is watched, and how the agent is
    Status {
        #[command(flatten)]
        show: Show,
    },
    /// Show what was done about attacked containers, newest first
    Incidents {
        /// At most so many
        #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
        most: u32,
        #[command(flatten)]
        show: Show,
    },
    /// Say that a container has set itself up: what it changes from now on is drift
    Seal {
        /// Its name or id
        container: String,
        #[command(flatten)]
        at: At,
    },
    /// Let a frozen or quarantined container go on, and forget its incident
    Release {
        /// Its name or id
        container: String,
        #[command(flatten)]
        at: At,
    },
    /// Let everything run again that a killed agent's guard still refuses
    ///
    /// What an agent refuses it refuses by programs in the kernel, where the kernel takes them: they
    /// stay when the agent is killed, and go when it ends in order.
    Lift,
    /// Freeze what is blocked when the agent that started this is killed
    #[command(hide = true)]
    Warden {
        /// The agent's policy
        #[arg(long)]
        policy: PathBuf,
        /// Its process
        agent: u32,
    },
    /// Have the agent read its policy again
    Reload {
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    at: At,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.ask {
        None => serve(cli, &args.run)?,
        Some(Command::Check { file }) => check(file)?,
        Some(Command::Status { show }) => status(cli, show)?,
        Some(Command::Incidents { most, show }) => incidents(cli, *most, show)?,
        Some(Command::Seal { container, at }) => {
            let container = container.clone();
            ask(&at.path(cli), Ask::Seal { container })?;
        }
        Some(Command::Release { container, at }) => {
            let container = container.clone();
            ask(&at.path(cli), Ask::Release { container })?;
        }
        Some(Command::Lift) => lift_guard(cli)?,
        Some(Command::Warden { policy, agent }) => warden(cli, policy, *agent)?,
        Some(Command::Reload { at }) => {
            ask(&at.path(cli), Ask::Reload)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// This machine, or a part of it, as the agent sees it.
struct Machine {
    root: PathBuf,
    policy: PathBuf,
    kinds: Vec<&'static str>,
    gateway: PathBuf,
}

/// How long requests under way on an attacked container may take.
const DRAIN: Duration = Duration::from_secs(2);

impl Host for Machine {
    fn kinds(&self) -> Vec<&'static str> {
        self.kinds.clone()
    }

    fn open(&self, kind: &str) -> Result<Option<Box<dyn Engine>>, EngineError> {
        engines::try_open(&self.root, kind)
    }

    fn traffic<'e>(
        &self,
        engine: &'e dyn Engine,
        container: &Container,
    ) -> Option<Box<dyn Traffic + 'e>> {
        // An attacked container must go, also when its traffic cannot be moved.
        let traffic = healing::traffic(&self.root, &self.gateway, engine, container, DRAIN);
        traffic.ok().flatten()
    }

    fn warden(&self) -> process::Command {
        // Also when the file was replaced by a newer version meanwhile.
        let mut command = process::Command::new("/proc/self/exe");
        command.arg0("invar").arg("--root").arg(&self.root);
        command.args(["agent", "warden", "--policy"]);
        command.arg(&self.policy);
        command
    }
}

/// Where the guard of a state root's agent is pinned. Names there hold no dots.
fn pins(root: &Path) -> anyhow::Result<PathBuf> {
    if root == Path::new("/var/lib/invar") {
        return Ok(PINS.into());
    }
    let root = std::path::absolute(root)?;
    let name = root.as_os_str().as_encoded_bytes().iter().map(|byte| {
        if byte.is_ascii_alphanumeric() {
            char::from(*byte)
        } else {
            '_'
        }
    });
    Ok(PathBuf::from(format!("{PINS}{}", name.collect::<String>())))
}

/// An agent of one engine only: with the embedded one it knows the containers of this state root
/// and no others.
pub(crate) fn agent_of(
    root: &Path,
    settings: Settings,
    kind: &'static str,
) -> Result<Agent, AgentError> {
    let gateway = root.join("gateway.sock");
    start(root, settings, vec![kind], gateway)
}

fn start(
    root: &Path,
    settings: Settings,
    kinds: Vec<&'static str>,
    gateway: PathBuf,
) -> Result<Agent, AgentError> {
    let machine = Machine {
        root: root.to_owned(),
        policy: settings.policy.clone(),
        kinds,
        gateway,
    };
    Agent::start(settings, Arc::new(machine))
}

fn serve(cli: &Cli, args: &Run) -> anyhow::Result<()> {
    privilege::require_root()?;
    // Before the first thread, so that each of them leaves the signals to this descriptor.
    let signals = SignalFd::block(&signals::heeded(&[SIGINT, SIGTERM, SIGHUP]))?;
    let settings = Settings {
        root: std::path::absolute(cli.root())?,
        policy: args.policy.clone(),
        control: args.at.path(cli),
        guard: Guarding::Pinned(pins(cli.root())?),
    };
    if !settings.policy.exists() {
        let policy = settings.policy.display();
        printer::note(format!(
            "there is no policy {policy}: everything is observed, and what is bad is told"
        ));
    }
    let kinds = engines::kinds().collect();
    let agent = start(cli.root(), settings, kinds, args.gateway.clone()).map_err(advise)?;
    let (end, reload) = (agent.end(), agent.reload());
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            match signal {
                SIGHUP => reload(),
                _ => end(),
            }
        }
    });
    Ok(agent.run()?)
}

fn lift_guard(cli: &Cli) -> anyhow::Result<()> {
    privilege::require_root()?;
    if status_of(cli.root()).is_some() {
        return Err(exit::failure(
            "the agent runs, and its guard with it",
            "let a container's programs run by its policy (docs/agent.md), or stop the agent",
        ));
    }
    let pins = pins(cli.root())?;
    if lift(&pins)? {
        printer::note("the guard is lifted: everything runs again");
    } else {
        printer::note(format!("no guard is pinned at {}", pins.display()));
    }
    Ok(())
}

/// Nobody else than an agent starts this.
fn warden(cli: &Cli, policy: &Path, agent: u32) -> anyhow::Result<()> {
    privilege::require_root()?;
    // A service manager that clears up after a killed agent must not end it.
    let _unheeded = SignalFd::block(&[SIGINT, SIGTERM, SIGHUP])?;
    // Nor may a lack of memory, which may be what has killed the agent. Where that is not allowed,
    // it is as likely to be chosen as others.
    fs_err::write("/proc/self/oom_score_adj", "-1000").ok();
    let machine = Machine {
        root: cli.root().to_owned(),
        policy: policy.to_owned(),
        kinds: engines::kinds().collect(),
        gateway: CONTROL.into(),
    };
    let watch = invar_agent::Watch {
        root: machine.root.clone(),
        policy: policy.to_owned(),
        agent,
    };
    Ok(invar_agent::keep_watch(&watch, &machine)?)
}

fn advise(error: AgentError) -> anyhow::Error {
    match &error {
        AgentError::Running { .. } => exit::failure(
            error.to_string(),
            "ask it with: invar agent status; or stop it first",
        ),
        _ => error.into(),
    }
}

fn check(file: &Path) -> anyhow::Result<()> {
    let text = fs_err::read_to_string(file)?;
    policy::parse(&text, &file.display().to_string())?;
    printer::note(format!("{} is a good policy", file.display()));
    Ok(())
}

/// Asks the running agent.
fn ask(control: &Path, question: Ask) -> anyhow::Result<Value> {
    client::ask(control, question).map_err(|error| match &error {
        AgentError::Io { source, .. }
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            exit::failure(
                format!("no agent answers at {}", control.display()),
                "start one with: invar agent, or systemctl start invar-agent",
            )
        }
        _ => error.into(),
    })
}

/// What the agent of a state root says of itself, when there is one.
pub(crate) fn status_of(root: &Path) -> Option<Value> {
    client::ask(&control(root), Ask::Status).ok()
}

fn status(cli: &Cli, show: &Show) -> anyhow::Result<()> {
    let found = ask(&show.at.path(cli), Ask::Status)?;
    match show.format {
        Format::Table => print_status(&found)?,
        Format::Json => printer::json(&found)?,
        Format::Jsonl => printer::jsonl([&found])?,
    }
    Ok(())
}

/// What is watched as a table, then what is wrong with the agent.
pub(crate) fn print_status(found: &Value) -> anyhow::Result<()> {
    let text = |value: &Value| match value {
        Value::String(text) => printer::escape(text.as_bytes()).into_owned(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let containers = found["containers"].as_array();
    printer::table(
        [
            "CONTAINER",
            "MODE",
            "RESPOND",
            "PHASE",
            "EVENTS",
            "BLOCKED",
            "WORST",
            "INCIDENT",
            "LAST",
        ],
        containers.into_iter().flatten().map(|one| {
            let name = format!("{}:{}", text(&one["engine"]), text(&one["name"]));
            let last: String = text(&one["last"]).chars().take(60).collect();
            [
                name,
                text(&one["mode"]),
                text(&one["respond"]),
                text(&one["phase"]),
                text(&one["events"]),
                text(&one["blocked"]),
                text(&one["worst"]),
                text(&one["incident"]),
                last,
            ]
        }),
    )?;
    if let Some(problem) = found["policy_problem"].as_str() {
        let problem = printer::escape(problem.as_bytes());
        printer::note(format!("the policy could not be read again: {problem}"));
    }
    for problem in found["engines_unreachable"]
        .as_array()
        .into_iter()
        .flatten()
    {
        printer::note(format!("not watched: {}", text(problem)));
    }
    let lost = ["dropped", "overflows"].map(|name| found["counts"][name].as_u64().unwrap_or(0));
    if lost.iter().any(|count| *count > 0) {
        let [dropped, overflows] = lost;
        printer::note(format!(
            "{dropped} events were dropped, the kernel's queue was full {overflows} times"
        ));
    }
    if let Some(waiting) = found["alerts"]["waiting"]
        .as_u64()
        .filter(|count| *count > 0)
    {
        printer::note(format!("{waiting} alerts wait for their webhook"));
    }
    Ok(())
}

fn incidents(cli: &Cli, most: u32, show: &Show) -> anyhow::Result<()> {
    let found = ask(&show.at.path(cli), Ask::Incidents { most })?;
    let all = found.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    match show.format {
        Format::Table => printer::table(
            [
                "ID",
                "BEGUN",
                "CONTAINER",
                "SEVERITY",
                "RESPOND",
                "EVIDENCE",
                "OUTCOME",
            ],
            all.iter().map(|one| {
                let shown = |value: &Value| printer::escape(text(value).as_bytes()).into_owned();
                let outcome = one["outcome"].as_str();
                let outcome =
                    outcome.map_or_else(|| format!("{} …", text(&one["step"])), str::to_owned);
                [
                    one["id"].to_string(),
                    text(&one["begun_at"]),
                    format!("{}:{}", shown(&one["engine"]), shown(&one["name"])),
                    text(&one["severity"]),
                    text(&one["respond"]),
                    text(&one["evidence"]),
                    printer::escape(outcome.as_bytes()).into_owned(),
                ]
            }),
        )?,
        Format::Json => printer::json(&all)?,
        Format::Jsonl => printer::jsonl(&all)?,
    }
    Ok(())
}
