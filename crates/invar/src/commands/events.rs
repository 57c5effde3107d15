//! `invar events`

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use clap::ValueEnum;
use invar_engine::Engine as _;
use invar_engine::embedded::{EmbeddedEngine, Event, EventOptions};
use jiff::Timestamp;

use crate::cli::Cli;
use crate::{printer, privilege, times};

/// Show what happens to containers, from now on or from an earlier time
///
/// Goes on until it is interrupted, or until --until. Only Invar's own containers are shown.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Begin with this time: 10m (ago), 2026-11-24T10:00:00Z, 1764000000
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    since: Option<Timestamp>,

    /// End with this time; one in the past ends at once
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    until: Option<Timestamp>,

    /// Only these: container=NAME, event=ACTION, image=NAME, type=container; several of one kind
    /// mean any of them
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    filter: Vec<(Key, String)>,

    /// How to write it; json is one document a line, as with Docker
    #[arg(long, value_enum, default_value_t = EventFormat::Text)]
    format: EventFormat,
}

const EXAMPLES: &str = "\
Examples:
  invar events --since 1h --until 0s              the last hour
  invar events --filter event=die --format json   every end, as it happens";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EventFormat {
    /// For people.
    Text,
    /// One JSON document a line.
    #[value(alias = "jsonl")]
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Container,
    Event,
    Image,
    Kind,
}

fn filter(text: &str) -> Result<(Key, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let key = match key {
        "container" => Key::Container,
        "event" => Key::Event,
        "image" => Key::Image,
        "type" => Key::Kind,
        _ => return Err("filter by container=, event=, image= or type=".to_owned()),
    };
    Ok((key, value.to_owned()))
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_store(cli.root())?;
    let engine = EmbeddedEngine::open(cli.root())?;
    let wanted = Wanted::new(&engine, &args.filter);
    let now = Timestamp::now();
    let options = EventOptions {
        // Docker's rule: with neither, only what happens from now on.
        since: args.since.or(args.until.is_none().then_some(now)),
        until: args.until,
        follow: args.until.is_none_or(|until| until > now),
    };
    let mut written: io::Result<()> = Ok(());
    engine.events(&options, &mut |event| {
        if wanted.has(event) {
            written = write(event, args.format);
        }
        written.is_ok()
    })?;
    written?;
    Ok(ExitCode::SUCCESS)
}

/// The filters by their key: any value of each key.
struct Wanted(BTreeMap<Key, Vec<String>>);

impl Wanted {
    fn new(engine: &EmbeddedEngine, filters: &[(Key, String)]) -> Self {
        let mut wanted: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for (key, value) in filters {
            let values = wanted.entry(*key).or_default();
            values.push(value.clone());
            // Under whichever name it had.
            if *key == Key::Container
                && let Ok(container) = engine.inspect(value)
            {
                values.push(container.id.as_str().to_owned());
            }
        }
        Self(wanted)
    }

    fn has(&self, event: &Event) -> bool {
        self.0.iter().all(|(key, values)| {
            values.iter().any(|value| match key {
                Key::Container => {
                    event.name == *value || (!value.is_empty() && event.id.starts_with(value))
                }
                // `health_status` means each of them.
                Key::Event => {
                    event.action.split(':').next() == Some(value) || event.action == *value
                }
                Key::Image => event.image == *value,
                Key::Kind => event.kind == *value,
            })
        })
    }
}

fn write(event: &Event, format: EventFormat) -> io::Result<()> {
    match format {
        EventFormat::Json => printer::jsonl([event]),
        EventFormat::Text => {
            let attributes = [("image", &event.image), ("name", &event.name)]
                .into_iter()
                .chain(
                    event
                        .attributes
                        .iter()
                        .map(|(name, value)| (name.as_str(), value)),
                )
                .map(|(name, value)| format!("{name}={}", printer::escape(value.as_bytes())))
                .collect::<Vec<_>>();
            printer::line(format!(
                "{:.9} {} {} {} ({})",
                event.time,
                event.kind,
                event.action,
                event.id,
                attributes.join(", ")
            ))
        }
    }
}
