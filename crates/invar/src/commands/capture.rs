//! `invar capture`

use std::process::ExitCode;

use anyhow::Context as _;
use invar_evidence::{
    Evidence, EvidenceStore, Header, Kept, Limits, Method, Plan, Taken, Volumes, Wanted,
};

use super::evidence::export::{self, Place};
use crate::background::{Background, Role};
use crate::cli::Cli;
use crate::container_config::quantity;
use crate::printer::{self, Format};
use crate::registries::RegistryFlags;
use crate::{engines, privilege};

/// Freeze a container, keep what is in it as evidence, and let it go on
///
/// Nothing is executed inside the container. Prints the id of the evidence once all of it is
/// taken; it is compared, hashed and signed in the background, and whatever reads it waits for that.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id; `docker:NAME` or `podman:NAME` for a container of another engine
    container: String,

    /// Kill it while it is frozen instead of letting it go on
    #[arg(long)]
    stop: bool,

    /// Keep it frozen until everything is copied, instead of copying most of it after it went on
    #[arg(long, conflicts_with = "stop")]
    exact: bool,

    #[command(flatten)]
    taking: Taking,

    /// Export it as soon as it is sealed: a file, `-` for standard output, or a registry
    #[arg(long, value_name = "FILE|-|oci://HOST/REPOSITORY:TAG")]
    to: Option<String>,

    #[command(flatten)]
    registry: RegistryFlags,

    #[command(flatten)]
    background: Background,

    /// How to write it; JSON says what was found, so it is waited for
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What is taken, and how much of it.
#[derive(Debug, clap::Args)]
pub(super) struct Taking {
    /// Take the content of its temporary file systems, which is gone with it; this is the default
    #[arg(long, overrides_with = "no_tmpfs")]
    tmpfs: bool,

    /// Leave its temporary file systems out
    #[arg(long)]
    no_tmpfs: bool,

    /// Files of its volumes to take: none, those changed since it was created, or all
    #[arg(long, value_enum, value_name = "WHICH", default_value = "none")]
    volumes: WhichVolumes,

    /// Also take what is mounted at this path in it: a bind mount, a volume, a tmpfs; repeatable
    #[arg(long, value_name = "PATH")]
    include_mount: Vec<String>,

    /// Also keep the memory of each process, as an ELF core; the container is frozen for longer
    #[arg(long)]
    memory: bool,

    /// Copy at most so much altogether (default: 64g)
    #[arg(long, value_name = "SIZE", value_parser = size_argument)]
    max_size: Option<u64>,

    /// Copy at most so much of one part: PART is tmpfs, volumes, memory, logs or file (any single
    /// file); repeatable
    #[arg(long, value_name = "PART=SIZE", value_parser = part_argument)]
    max_part: Vec<(Part, u64)>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum WhichVolumes {
    None,
    Changed,
    All,
}

/// A part with a budget of its own.
#[derive(Debug, Clone, Copy)]
enum Part {
    Tmpfs,
    Volumes,
    Memory,
    Logs,
    File,
}

const PARTS: [(&str, Part); 5] = [
    ("tmpfs", Part::Tmpfs),
    ("volumes", Part::Volumes),
    ("memory", Part::Memory),
    ("logs", Part::Logs),
    ("file", Part::File),
];

fn size_argument(text: &str) -> Result<u64, String> {
    quantity::size(text).map_err(|error| error.to_string())
}

fn part_argument(text: &str) -> Result<(Part, u64), String> {
    let (name, size) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not PART=SIZE: write for example tmpfs=512m"))?;
    let known = || PARTS.map(|(name, _)| name).join(", ");
    let part = PARTS.iter().find(|(known, _)| *known == name);
    let (_, part) =
        part.ok_or_else(|| format!("{name:?} is not a part: the parts are {}", known()))?;
    Ok((*part, size_argument(size)?))
}

impl Taking {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            tmpfs: !self.no_tmpfs,
            volumes: match self.volumes {
                WhichVolumes::None => Volumes::None,
                WhichVolumes::Changed => Volumes::Changed,
                WhichVolumes::All => Volumes::All,
            },
            mounts: self.include_mount.clone(),
            memory: self.memory,
            exact: false,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        if let Some(size) = self.max_size {
            limits.copied = size;
        }
        for (part, size) in &self.max_part {
            match part {
                Part::Tmpfs => limits.tmpfs = *size,
                Part::Volumes => limits.volumes = *size,
                Part::Memory => limits.memory = *size,
                Part::Logs => limits.log = *size,
                Part::File => limits.file = *size,
            }
        }
        limits
    }
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let to = args.to.as_deref().map(Place::parse).transpose()?;
    let is_waited_for = to.is_some() || args.format != Format::Table;
    let mut worker = match args.background.begin(is_waited_for)? {
        Role::Done(code) => return Ok(code),
        Role::Worker(worker) => worker,
    };
    let found = engines::find(cli.root(), &args.container)?;
    let store = EvidenceStore::open(cli.root())?;
    let mut plan = Plan {
        stop: args.stop,
        remove: false,
        wanted: args.taking.wanted(),
    };
    plan.wanted.exact = args.exact;
    let limits = args.taking.limits();
    let engine = found.engine.as_ref();
    let (container, in_background) = (&found.container, worker.is_let_go_of());
    let mut printed = Ok(());
    let evidence = invar_evidence::capture(&store, engine, container, plan, limits, &mut |kept| {
        if in_background {
            printed = print_kept(kept);
            worker.let_go();
        }
    })?;
    printed?;
    match &to {
        Some(place) if place.is_standard_output() => printer::note(evidence.id.as_str()),
        _ if in_background => {}
        _ => print(&evidence, args.format)?,
    }
    if let Some(place) = to {
        let exported = export::captured(cli, &store, &evidence, &place, &args.registry);
        let id = &evidence.id;
        exported.with_context(|| format!("evidence {id} is sealed here, and was not exported"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The id for a script, what was found for a person.
pub(super) fn print(evidence: &Evidence, format: Format) -> anyhow::Result<()> {
    match (format, &evidence.header) {
        (Format::Table, header) => {
            printer::line(evidence.id.as_str())?;
            if let Some(header) = header {
                printer::note(outline(header));
            }
        }
        (Format::Json, header) => printer::json(header)?,
        (Format::Jsonl, header) => printer::jsonl([header])?,
    }
    Ok(())
}

/// The id, and what is known before it is sealed.
fn print_kept(kept: &Kept<'_>) -> anyhow::Result<()> {
    printer::line(kept.id.as_str())?;
    let frozen = kept
        .frozen_ms
        .map(|frozen| format!("frozen for {frozen} ms"));
    let parts = frozen.into_iter().chain(kept.upper.map(how));
    let parts = parts.chain(["being sealed in the background".to_owned()]);
    printer::note(parts.collect::<Vec<_>>().join(", "));
    Ok(())
}

/// What was taken, in one line.
fn outline(header: &Header) -> String {
    let Some(summary) = &header.summary else {
        return "not sealed".to_owned();
    };
    let mut parts = Vec::new();
    if let Some(frozen) = summary.frozen_ms {
        parts.push(format!("frozen for {frozen} ms"));
    }
    parts.push(format!("{} processes", summary.processes));
    parts.push(format!(
        "{} changed paths",
        summary.changes.values().sum::<u64>()
    ));
    parts.extend(summary.upper.as_ref().map(how));
    parts.push(format!("{} gaps", summary.gaps));
    parts.join(", ")
}

/// How the upper directory was taken.
fn how(upper: &Taken) -> String {
    match upper.method {
        Method::Renamed => "upper directory moved, no byte copied".to_owned(),
        Method::Linked => format!("upper directory linked, {} copied", size(upper.copied)),
        Method::Copied if upper.changed_meanwhile > 0 => format!(
            "upper directory copied, {}, {} entries changed after it went on",
            size(upper.copied),
            upper.changed_meanwhile
        ),
        Method::Copied => format!("upper directory copied, {}", size(upper.copied)),
    }
}

fn size(bytes: u64) -> String {
    if bytes == 0 {
        "no byte".to_owned()
    } else {
        printer::size(bytes)
    }
}
