//! `invar gateway`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use invar_gateway::control::client::Client;
use invar_gateway::control::protocol::{Applied, Changed, Refusal, Request, Switched};
use invar_gateway::{Options, config::Config};

use crate::cli::Cli;
use crate::{exit, following, printer};

/// Serve traffic and move it between revisions without dropping a request
///
/// Without a subcommand this is the gateway itself: it serves what it served before, and does what
/// its control socket says. The subcommands speak to the running gateway.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    serve: Serve,

    #[command(subcommand)]
    ask: Option<Ask>,
}

/// The gateway itself.
#[derive(Debug, clap::Args)]
struct Serve {
    /// Control socket
    #[arg(long, default_value = CONTROL, value_name = "SOCKET")]
    control: PathBuf,

    /// Serve this configuration in place of the saved one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Threads that serve connections (default: one for each processor)
    #[arg(long, value_name = "COUNT")]
    workers: Option<usize>,

    /// Append a line of JSON for each request
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,

    /// Take the sockets of the gateway that runs, which then finishes its connections and ends
    #[arg(long)]
    take_over: bool,

    /// How long open connections may go on when the gateway ends
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    drain: u64,
}

/// What the running gateway is asked.
#[derive(Debug, Subcommand)]
enum Ask {
    /// Serve a configuration; its good items are in force even if others are refused
    Apply {
        /// JSON, as docs/formats/gateway-control.md says
        file: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Show services, revisions and their containers as JSON
    Status {
        #[command(flatten)]
        at: At,
    },
    /// Send all traffic of a service to one revision, forward or back
    Switch {
        /// The service
        service: String,
        /// The revision
        revision: String,
        /// Switch even if none of its containers answers
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        at: At,
    },
    /// Start the installed program anew and hand all sockets over to it
    Upgrade {
        #[command(flatten)]
        at: At,
    },
}

/// Where the gateway is.
#[derive(Debug, clap::Args)]
struct At {
    /// Control socket
    #[arg(long, default_value = CONTROL, value_name = "SOCKET")]
    control: PathBuf,
}

/// Where the gateway is asked unless told otherwise.
pub(crate) const CONTROL: &str = "/run/invar/gateway.sock";

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.ask {
        None => serve(cli, &args.serve),
        Some(ask) => self::ask(ask),
    }
}

fn serve(cli: &Cli, args: &Serve) -> anyhow::Result<ExitCode> {
    if let Some(parent) = args.control.parent() {
        fs_err::create_dir_all(parent)?;
    }
    let options = Options {
        state: cli.root().join("gateway"),
        control: args.control.clone(),
        workers: args.workers,
        access_log: args.access_log.clone(),
        config: args.config.as_deref().map(read_config).transpose()?,
        take_over: args.take_over,
        drain: Duration::from_secs(args.drain),
        successor: successor()?,
    };
    let (root, control) = (cli.root().to_owned(), args.control.clone());
    invar_gateway::run(options, |refused| {
        show_refused(refused);
        printer::note("the gateway serves");
        std::thread::spawn(move || following::follow(&root, &control));
    })?;
    Ok(ExitCode::SUCCESS)
}

/// This command line, to be started again from what is installed then.
fn successor() -> anyhow::Result<Vec<OsString>> {
    let program = std::env::current_exe().context("could not find the running program")?;
    // After an update the path of a replaced file ends so.
    let installed = program.to_string_lossy();
    let installed = installed.strip_suffix(" (deleted)").unwrap_or(&installed);
    let mut arguments = vec![OsString::from(installed)];
    let mut given = std::env::args_os().skip(1);
    while let Some(argument) = given.next() {
        // The saved configuration is newer than the one of this start.
        if argument == "--config" {
            given.next();
        } else if argument != "--take-over" && !argument.to_string_lossy().starts_with("--config=")
        {
            arguments.push(argument);
        }
    }
    arguments.push("--take-over".into());
    Ok(arguments)
}

fn ask(ask: &Ask) -> anyhow::Result<ExitCode> {
    match ask {
        Ask::Apply { file, at } => {
            let applied: Applied = connect(&at.control)?.apply(read_config(file)?)?;
            note_unsaved(applied.not_saved.as_deref());
            show_refused(&applied.refused);
            Ok(if applied.refused.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::FAILED)
            })
        }
        Ask::Status { at } => {
            printer::json(&connect(&at.control)?.status()?)?;
            Ok(ExitCode::SUCCESS)
        }
        Ask::Switch {
            service,
            revision,
            force,
            at,
        } => {
            let switched: Switched = connect(&at.control)?.ask(&Request::Switch {
                service: service.clone(),
                to: revision.clone(),
                drain_ms: 30_000,
                exclusive_ms: None,
                force: *force,
            })?;
            note_unsaved(switched.not_saved.as_deref());
            printer::line(format!(
                "{service}: {} → {revision} in {} µs, {} in flight on {}",
                switched.from, switched.took_us, switched.in_flight, switched.from
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Ask::Upgrade { at } => {
            let changed: Changed = connect(&at.control)?.ask(&Request::Upgrade)?;
            note_unsaved(changed.not_saved.as_deref());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn connect(control: &Path) -> anyhow::Result<Client> {
    Client::connect(control).map_err(|error| {
        exit::failure(
            format!("no gateway answers at {}: {error}", control.display()),
            "start one with: invar gateway",
        )
    })
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text = fs_err::read(path)?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a gateway configuration", path.display()))
}

fn show_refused(refused: &[Refusal]) {
    for refusal in refused {
        let before = if refusal.kept_last_good {
            " (the last good one stays)"
        } else {
            ""
        };
        printer::note(format!(
            "{} {} is not in force: {}{before}",
            refusal.kind,
            printer::escape(refusal.name.as_bytes()),
            refusal.reason
        ));
    }
}

fn note_unsaved(reason: Option<&str>) {
    if let Some(reason) = reason {
        printer::note(format!("this will not survive a restart: {reason}"));
    }
}
