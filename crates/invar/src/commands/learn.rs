//! `invar learn`

use std::os::fd::AsFd as _;
use std::process::ExitCode;

use clap::ValueEnum;
use fs_err as fs;
use invar_agent::learn::{Holder, Place, places};
use invar_drift::{Kind, Options, open_beneath};
use invar_engine::Container;
use rustix::fs::{Dir, OFlags};
use serde::Serialize;

use crate::cli::Cli;
use crate::{engines, printer, privilege};

/// Propose how a container could run without writing to its root: which paths need memory or a
/// volume, and which rights it does not use
///
/// It is proposed from what the container has written until now, and from what its processes are. Let
/// it do its work first: what it did not do was not seen.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name or id; `docker:NAME` or `podman:NAME` for a container of another engine
    container: String,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Form::Table)]
    format: Form,
}

const EXAMPLES: &str = "\
Examples:
  invar learn web                      flags for invar run, with reasons
  invar learn --format compose web     lines for compose.yaml
  invar learn --format policy web      what the agent is to expect instead";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people: flags, with the reason of each
    Table,
    /// Lines for a service of compose.yaml
    Compose,
    /// A part of the agent's policy
    Policy,
    /// One JSON document
    Json,
}

/// What is proposed.
#[derive(Debug, Serialize)]
struct Proposal {
    container: String,
    /// It writes nothing to its root now, or cannot.
    is_read_only: bool,
    places: Vec<Place>,
    /// Paths written where a read-only container has memory anyway.
    scratch: usize,
    /// Whether none of its processes holds a capability, so that all can be dropped.
    drop_capabilities: Option<bool>,
    /// The user all its processes are, when it is one and not root.
    user: Option<String>,
    /// What cannot be told.
    not_seen: Vec<&'static str>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let found = engines::find(cli.root(), &args.container)?;
    let (engine, container) = (found.engine.as_ref(), &found.container);
    let root = engine.open_root(&container.id)?;
    let namespace = container
        .init_pid
        .and_then(|init| invar_drift::namespace_of(init).ok().flatten());
    let options = Options {
        namespace: namespace.unwrap_or_default(),
        ..Options::default()
    };
    let written: Vec<String> = match &root.upper {
        None => Vec::new(),
        Some(upper) => {
            let changes = invar_drift::changes(root.lower.as_fd(), upper.dir.as_fd(), &options)?;
            let dirs: std::collections::HashSet<&[u8]> =
                changes.iter().map(|change| parent(&change.path)).collect();
            let is_leaf = |path: &[u8]| !dirs.contains(path);
            changes
                .iter()
                .filter(|change| change.actual.is_some_and(|kind| kind != Kind::Deleted))
                .filter(|change| is_leaf(&change.path))
                .map(|change| printer::escape(&change.path).into_owned())
                .collect()
        }
    };
    let has_content = |dir: &str| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = open_beneath(root.lower.as_fd(), dir.as_bytes(), flags);
        let entries = opened.and_then(|dir| Dir::read_from(&dir));
        entries.is_ok_and(|entries| {
            let mut names = entries.flatten();
            names.any(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
        })
    };
    let places = places(&written, &has_content);
    let (drop_capabilities, user) = rights(engine.processes(&container.id).ok());
    let proposal = Proposal {
        container: container.name.as_str().to_owned(),
        is_read_only: root.upper.is_none(),
        scratch: written.len() - places.iter().map(|place| place.paths).sum::<usize>(),
        places,
        drop_capabilities,
        user,
        not_seen: vec![
            "which capabilities a process of root really uses",
            "which system calls are made",
            "what it would have written had it done more of its work",
        ],
    };
    print(args, container, &proposal)?;
    Ok(ExitCode::SUCCESS)
}

fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..slash.max(1)]
}

/// Whether no process holds a capability, and the one user that all are, unless it is root.
fn rights(processes: Option<Vec<u32>>) -> (Option<bool>, Option<String>) {
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).ok();
    let all: Vec<String> = processes.into_iter().flatten().filter_map(status).collect();
    if all.is_empty() {
        return (None, None);
    }
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let holds = |text: &String| {
        field(text, "CapEff:").is_none_or(|set| set.bytes().any(|digit| digit != b'0'))
    };
    let users: std::collections::BTreeSet<Option<String>> =
        all.iter().map(|text| field(text, "Uid:")).collect();
    let only = users.first().cloned().flatten();
    let user = only.filter(|user| users.len() == 1 && user != "0");
    (Some(!all.iter().any(holds)), user)
}

fn print(args: &Args, container: &Container, proposal: &Proposal) -> anyhow::Result<()> {
    match args.format {
        Form::Table => printer::lines(table(proposal).into_iter())?,
        Form::Compose => printer::lines(compose(proposal).into_iter())?,
        Form::Policy => printer::lines(policy(container, proposal).into_iter())?,
        Form::Json => printer::json(proposal)?,
    }
    let in_image = proposal
        .places
        .iter()
        .filter(|place| place.holder == Holder::Image);
    for place in in_image {
        printer::note(format!(
            "{} stays in the way of a read-only root: {} paths, for example {}; {}: change the image, \
             or mount a file read-only",
            place.dir,
            place.paths,
            place.examples.join(", "),
            place.because
        ));
    }
    printer::note(format!("not seen: {}", proposal.not_seen.join("; ")));
    Ok(())
}

/// The name of a volume for a directory.
fn volume(proposal: &Proposal, dir: &str) -> String {
    let name = dir
        .trim_matches('/')
        .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!("{}-{name}", proposal.container)
}

fn table(proposal: &Proposal) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |flag: String, because: &str| lines.push(format!("{flag:<44} {because}"));
    let because = match (proposal.is_read_only, proposal.scratch) {
        (true, _) => "as it is".to_owned(),
        (false, 0) => "with memory at /tmp, /run and /var/tmp, which it did not use".to_owned(),
        (false, used) => format!("with memory at /tmp, /run and /var/tmp for {used} paths"),
    };
    add("--read-only".to_owned(), &because);
    for place in &proposal.places {
        let because = format!("{} paths: {}", place.paths, place.because);
        // The container chose the path, and somebody will paste the line.
        match place.holder {
            Holder::Tmpfs => add(
                format!("--tmpfs {}", privilege::quote(&place.dir)),
                &because,
            ),
            Holder::Volume => {
                let name = volume(proposal, &place.dir);
                add(
                    format!("-v {}", privilege::quote(&format!("{name}:{}", place.dir))),
                    &because,
                );
            }
            Holder::Image => {}
        }
    }
    if proposal.drop_capabilities == Some(true) {
        add("--cap-drop ALL".to_owned(), "no process of it holds one");
    }
    if let Some(user) = &proposal.user {
        add(format!("--user {user}"), "all its processes are this user");
    }
    lines
}

fn compose(proposal: &Proposal) -> Vec<String> {
    let of = |holder| {
        let places = proposal.places.iter();
        places.filter(move |place| place.holder == holder)
    };
    let mut lines = vec!["read_only: true".to_owned()];
    if of(Holder::Tmpfs).next().is_some() {
        lines.push("tmpfs:".to_owned());
        lines.extend(of(Holder::Tmpfs).map(|place| format!("  - {}", quoted(&place.dir))));
    }
    if of(Holder::Volume).next().is_some() {
        lines.push("volumes:".to_owned());
        let volumes = of(Holder::Volume).map(|place| {
            let name = volume(proposal, &place.dir);
            format!("  - {}", quoted(&format!("{name}:{}", place.dir)))
        });
        lines.extend(volumes);
    }
    if proposal.drop_capabilities == Some(true) {
        lines.push("cap_drop: [ALL]".to_owned());
    }
    if let Some(user) = &proposal.user {
        lines.push(format!("user: \"{user}\""));
    }
    lines
}

/// What the agent is to expect of the container as it is.
fn policy(container: &Container, proposal: &Proposal) -> Vec<String> {
    let allow = proposal
        .places
        .iter()
        .filter(|place| place.holder != Holder::Image);
    let allow: Vec<String> = allow
        .map(|place| quoted(&format!("{}/**", place.dir)))
        .collect();
    vec![
        "[[container]]".to_owned(),
        format!("name = {}", quoted(container.name.as_str())),
        format!("allow = [{}]", allow.join(", ")),
    ]
}

/// As YAML and TOML both read it: the path is escaped, and holds nothing else.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}
