//! `invar replace`

use std::process::ExitCode;
use std::time::Duration;

use invar_engine::EngineError;
use invar_evidence::{EvidenceStore, Limits, Order, ReplaceOptions, Replacement, Traffic};

use super::capture;
use crate::background::{Background, Role};
use crate::cli::Cli;
use crate::deploying::Gateway;
use crate::printer::{self, Format};
use crate::{engines, exit, healing, privilege};

/// Put a fresh container of the same image and settings in the place of one, and keep the old one
/// as evidence
///
/// The fresh container is started first. Only when both would need the same port, address or
/// volume, the old one ends first, and the time without a container is shown. The old container
/// is frozen, captured and killed. The requests of a deployed service go to the fresh one at the
/// gateway, without one being dropped. Its evidence is sealed in the background, and then what is left of
/// it removed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id; `docker:NAME` or `podman:NAME` for a container of another engine
    container: String,

    /// Keep no evidence: stop the old container and remove it
    #[arg(long)]
    no_capture: bool,

    #[command(flatten)]
    taking: capture::Taking,

    /// Seconds the fresh container may take until it runs and its health check passes
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    ready_timeout: u64,

    /// Seconds a container that is not captured may take to stop
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u64,

    #[command(flatten)]
    gateway: Gateway,

    /// Seconds that requests under way on a container of a deployed service may take
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain: u64,

    #[command(flatten)]
    background: Background,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let mut worker = match args.background.begin(false)? {
        Role::Done(code) => return Ok(code),
        Role::Worker(worker) => worker,
    };
    let store = EvidenceStore::open(cli.root())?;
    let options = ReplaceOptions {
        capture: !args.no_capture,
        wanted: args.taking.wanted(),
        limits: args.taking.limits(),
        ready: Duration::from_secs(args.ready_timeout),
        stop: Duration::from_secs(args.time),
        ..ReplaceOptions::default()
    };
    let in_background = worker.is_let_go_of();
    let mut printed = Ok(());
    let replacement = match engines::find(cli.root(), &args.container) {
        Ok(found) => {
            let (engine, old) = (found.engine.as_ref(), &found.container);
            let drain = Duration::from_secs(args.drain);
            let mut traffic =
                healing::traffic(cli.root(), &args.gateway.control, engine, old, drain)?;
            let traffic = traffic
                .as_deref_mut()
                .map(|traffic| traffic as &mut dyn Traffic);
            let done =
                invar_evidence::replace(&store, engine, old, &options, traffic, &mut |done| {
                    if in_background {
                        printed = print(done, args.format);
                        worker.let_go();
                    }
                })?;
            (!in_background || done.recovered).then_some(done)
        }
        Err(error) => match unfinished(cli, &store, &args.container)? {
            Some(replacement) if is_not_found(&error) => Some(replacement),
            _ => return Err(error),
        },
    };
    printed?;
    if let Some(replacement) = &replacement {
        print(replacement, args.format)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(done: &Replacement, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Table => printer::lines(lines(done).into_iter())?,
        Format::Json => printer::json(done)?,
        Format::Jsonl => printer::jsonl([done])?,
    }
    Ok(())
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(
        exit::find::<EngineError>(error),
        Some(EngineError::NotFound { .. })
    )
}

/// A killed replacement may have taken the name from the old container without giving it to the
/// fresh one.
fn unfinished(
    cli: &Cli,
    store: &EvidenceStore,
    asked: &str,
) -> anyhow::Result<Option<Replacement>> {
    let (kind, asked) = match asked.split_once(':') {
        Some((kind, name)) => (Some(kind), name),
        None => (None, asked),
    };
    for (engine, name) in invar_evidence::unfinished(store)? {
        if name.as_str() == asked && kind.is_none_or(|kind| kind == engine) {
            let engine = engines::open(cli.root(), &engine)?;
            let limits = Limits::default();
            return Ok(invar_evidence::recover(
                store,
                engine.as_ref(),
                &name,
                limits,
            )?);
        }
    }
    Ok(None)
}

fn lines(done: &Replacement) -> Vec<String> {
    let mut lines = vec![
        format!("replaced    {}", done.name),
        format!("old         {}", done.old.short()),
        format!("new         {}", done.new.short()),
    ];
    if let Some(evidence) = &done.evidence {
        lines.push(format!("evidence    {evidence}"));
    }
    if done.recovered {
        lines.push("finished what an earlier replacement had begun".to_owned());
        return lines;
    }
    let mut times = vec![format!("fresh ready after {} ms", done.fresh_ms)];
    if let Some(frozen) = done.frozen_ms {
        times.push(format!("old frozen for {frozen} ms"));
    }
    times.push(match &done.order {
        Order::FreshFirst => "no gap".to_owned(),
        Order::OldFirst { because } => {
            let because = printer::escape(because.as_bytes());
            format!("gap of {} ms, because {because}", done.gap_ms)
        }
    });
    times.push(format!("done after {} ms", done.total_ms));
    lines.push(format!("times       {}", times.join(", ")));
    lines
}
