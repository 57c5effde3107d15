//! `invar watch`

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use invar_drift::{Glob, Severity};
use invar_engine::{Container, Engine, State};
use invar_sensor::{Counts, Event, Guarding, Sensor, SensorError, Settings, What};
use invar_sys::signal::{SIGHUP, SIGINT, SIGTERM, SignalFd};
use serde::Serialize;

use super::diff;
use crate::cli::Cli;
use crate::printer::{self, Format};
use crate::{engines, privilege, sensing, signals};

/// How often the engines are asked for containers that were started since.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the loop waits for events before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// Show every change in running containers as it happens, with who did it; refuse programs that are
/// not of the image
///
/// Without names, every container of every engine is watched, also those started later: they are
/// found within about half a second. Ctrl-C ends it with a summary.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(crate) struct Args {
    /// Names or ids; `docker:NAME` or `podman:NAME` for containers of another engine
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,

    /// Refuse to run programs, libraries and scripts that are not of the image, as long as this
    /// command runs
    #[arg(long)]
    block: bool,

    /// Paths that may run although they are not of the image; with * ? ** a pattern
    #[arg(long, value_name = "PATH", value_parser = glob)]
    allow: Vec<Glob>,

    /// Rules beside those that come with invar and those in /etc/invar/rules.d: a TOML file, or a
    /// directory of them
    #[arg(long, value_name = "FILE")]
    rules: Vec<PathBuf>,

    /// Only what is at least this bad
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = severity())]
    min_severity: Severity,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

const NOTES: &str = "\
Examples:
  invar watch                          all containers of this machine
  invar watch --block web docker:db    these two; what was dropped into them does not run
  invar watch --min-severity high --format jsonl | logger -t invar

What --block cannot stop: anonymous memory, what an interpreter reads from standard input, and where
the kernel takes no LSM programs (invar doctor: guard) also memfd and a file that was already open
when it was filled. When this command ends, however it ends, everything runs again.";

fn glob(text: &str) -> Result<Glob, String> {
    if !text.starts_with('/') {
        return Err("a path of a container begins with /".to_owned());
    }
    Glob::parse(text).map_err(str::to_owned)
}

fn severity() -> impl clap::builder::TypedValueParser<Value = Severity> {
    PossibleValuesParser::new(Severity::ALL.map(Severity::as_str)).map(|name| {
        let level = Severity::ALL
            .into_iter()
            .find(|level| level.as_str() == name);
        level.expect("clap lets only possible values through")
    })
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    // Before the first thread, so that each of them leaves the signals to this descriptor.
    let signals = SignalFd::block(&signals::heeded(&[SIGINT, SIGTERM, SIGHUP]))?;
    let mut watcher = Watcher::new(cli.root(), args)?;
    let events = watcher.sensor.events();
    watcher.look(true)?;
    let ends = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ends);
    std::thread::spawn(move || {
        // Without signals there is only kill -9.
        signals.wait().ok();
        told.store(true, Ordering::SeqCst);
    });
    let printing = Arc::clone(&ends);
    let (format, least) = (args.format, args.min_severity);
    let printer = std::thread::spawn(move || {
        let written = write_all(&events, format, least, &printing);
        // A reader that went away ends the watch.
        printing.store(true, Ordering::SeqCst);
        written
    });
    let mut looked = Instant::now();
    while !ends.load(Ordering::SeqCst) {
        std::thread::sleep(PATIENCE);
        if looked.elapsed() >= LOOK_EVERY {
            watcher.look(false)?;
            looked = Instant::now();
        }
    }
    let written = printer.join();
    written.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    drop(watcher);
    Ok(ExitCode::SUCCESS)
}

/// Keeps the sensor's list of containers true.
struct Watcher<'a> {
    root: &'a Path,
    args: &'a Args,
    /// Engine and id of those that were asked for; empty for all.
    asked: Vec<(&'static str, String)>,
    sensor: Sensor,
    /// Runs that cannot be watched, and were told of.
    refused: HashSet<(String, u32)>,
}

impl<'a> Watcher<'a> {
    fn new(root: &'a Path, args: &'a Args) -> anyhow::Result<Self> {
        let mut asked = Vec::new();
        for name in &args.containers {
            let found = engines::find(root, name)?;
            asked.push((found.container.engine, found.container.id.to_string()));
        }
        let settings = Settings {
            rules: diff::rules(&args.rules)?,
            allow: args.allow.clone(),
            guard: if args.block {
                Guarding::WhileItLives
            } else {
                Guarding::None
            },
        };
        Ok(Self {
            root,
            args,
            asked,
            sensor: Sensor::start(settings)?,
            refused: HashSet::new(),
        })
    }

    /// Begins to watch what was started since and lets go of what has ended.
    fn look(&mut self, is_first: bool) -> anyhow::Result<()> {
        let mut there = HashSet::new();
        for (engine, containers) in engines::all(self.root, is_first) {
            for container in containers {
                let Some(init) = self.concerns(&container) else {
                    continue;
                };
                there.insert((container.id.to_string(), init));
                self.begin(&*engine, &container, init, is_first)?;
            }
        }
        self.sensor
            .keep_only(|id, init| there.contains(&(id.to_owned(), init)));
        if is_first && there.is_empty() {
            printer::note("no container runs yet; each is watched once it is started");
        }
        Ok(())
    }

    fn concerns(&self, container: &Container) -> Option<u32> {
        let is_asked = self.asked.is_empty()
            || self
                .asked
                .iter()
                .any(|(engine, id)| *engine == container.engine && id == container.id.as_str());
        let runs = matches!(container.state, State::Running);
        container.init_pid.filter(|_| is_asked && runs)
    }

    fn begin(
        &mut self,
        engine: &dyn Engine,
        container: &Container,
        init: u32,
        is_first: bool,
    ) -> anyhow::Result<()> {
        let id = container.id.as_str();
        if self.sensor.watches(id, init) {
            return Ok(());
        }
        match self.watch(engine, container) {
            Ok(()) => Ok(()),
            // What was asked for by name must not go unwatched without the user knowing.
            Err(error) if is_first && !self.asked.is_empty() => Err(error),
            // Tried again: it is only being started, or just ends.
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => {
                if self.refused.insert((id.to_owned(), init)) {
                    printer::note(format!("{} is not watched: {error:#}", container.name));
                }
                Ok(())
            }
        }
    }

    fn watch(&mut self, engine: &dyn Engine, container: &Container) -> anyhow::Result<()> {
        let target = invar_agent::target(engine, container, self.args.block, Vec::new());
        let target =
            target.with_context(|| format!("could not open the root of {}", container.name))?;
        let Some(target) = target else {
            return Ok(());
        };
        let before = self.sensor.watch(&target)?;
        let how = match (self.args.block, self.sensor.is_guarded()) {
            (true, true) => "blocking, with the kernel's guard",
            (true, false) => "blocking",
            (false, _) => "observing",
        };
        let earlier = match before {
            0 => String::new(),
            1 => "; 1 path had changed before".to_owned(),
            many => format!("; {many} paths had changed before"),
        };
        printer::note(format!(
            "watching {}:{} ({how}){earlier}",
            container.engine, container.name
        ));
        Ok(())
    }
}

fn is_passing(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<SensorError>(),
        Some(SensorError::Gone { .. })
    )
}

/// The last thing that is told.
#[derive(Serialize)]
struct Summary {
    summary: Counts,
}

/// Writes events until it is to end, then the summary.
fn write_all(
    events: &invar_sensor::Events,
    format: Format,
    least: Severity,
    ends: &AtomicBool,
) -> anyhow::Result<()> {
    let mut is_first = true;
    let mut lost = Counts::default();
    if format == Format::Json {
        printer::line(r#"{"format":"invar-events","version":1,"events":["#)?;
    }
    loop {
        // Asked before the last events are taken, so that none of them is left.
        let is_last = ends.load(Ordering::SeqCst);
        let taken = events.take(if is_last { Duration::ZERO } else { PATIENCE });
        let shown = taken.iter().filter(|event| {
            // What tells of a loss is never too mild to be told.
            event.severity >= least || event.what == What::Missed
        });
        write(shown, format, &mut is_first)?;
        tell_losses(&mut lost, &events.counts());
        if is_last {
            break;
        }
    }
    let counts = events.counts();
    match format {
        Format::Table => printer::note(summary(&counts)),
        Format::Json => printer::line(format!(
            r#"],"summary":{}}}"#,
            serde_json::to_string(&counts)?
        ))?,
        Format::Jsonl => printer::jsonl([Summary { summary: counts }])?,
    }
    Ok(())
}

fn write<'a>(
    events: impl Iterator<Item = &'a Event>,
    format: Format,
    is_first: &mut bool,
) -> anyhow::Result<()> {
    match format {
        Format::Table => printer::lines(events.map(|event| {
            let time = event.time.strftime("%H:%M:%S%.3f");
            format!("{time} {}", sensing::line(event))
        }))?,
        Format::Jsonl => printer::jsonl(events)?,
        Format::Json => {
            let mut lines = Vec::new();
            for event in events {
                let comma = if std::mem::take(is_first) { "" } else { "," };
                lines.push(format!("{comma}{}", serde_json::to_string(event)?));
            }
            printer::lines(lines.into_iter())?;
        }
    }
    Ok(())
}

/// A loss is told when it happens, not only at the end.
fn tell_losses(told: &mut Counts, now: &Counts) {
    if now.overflows > told.overflows {
        printer::note(
            "the kernel's queue was full and events were lost; a walk looks for what they were",
        );
    }
    if now.dropped > told.dropped {
        let dropped = now.dropped - told.dropped;
        printer::note(format!(
            "{dropped} events were dropped: they are not written fast enough"
        ));
    }
    *told = *now;
}

fn summary(counts: &Counts) -> String {
    format!(
        "{} events ({} blocked), {} repeated ones left out, {} lost by the kernel's queue, {} \
         dropped, {} found by a walk",
        counts.events,
        counts.blocked,
        counts.repeated,
        match counts.overflows {
            0 => "none".to_owned(),
            1 => "some (once)".to_owned(),
            times => format!("some ({times} times)"),
        },
        counts.dropped,
        counts.missed
    )
}
