//! Flags and an image's own settings become one [`ContainerConfig`], by Docker's rules.
//!
//! ```text
//!  Options (flags) ─┐
//!  Image            ├─▶ resolve ─▶ ContainerConfig (every field decided)
//!  Host             ┘
//! ```
//!
//! Where Docker has a rule, it is Docker's; each has a line in a table test. Invar's own defaults
//! are the ones its purpose asks for: the root is read-only with small tmpfs on `/tmp`, `/run` and
//! `/var/tmp`, programs do not run from writable mounts, and 2048 processes are enough.

mod capabilities;
mod environment;
mod health;
mod mounts;
mod networking;
mod options;
mod program;
pub(crate) mod quantity;
mod restart;
mod security;

pub(crate) use environment::flag as environment_variable;
pub(crate) use health::ImageHealth;
use options::Userns;
pub(crate) use options::{Options, PullPolicy};
pub(crate) use restart::policy as restart_policy;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use invar_engine::{ContainerConfig, Resources, User, UserNamespace};
use oci_spec::image::Config;

use crate::exit::failure;
use crate::signals;

/// Processes and threads when nothing else is asked for; Podman's number.
const DEFAULT_PIDS: u64 = 2048;
/// The most processes a 64-bit Linux can number (`PID_MAX_LIMIT`): no limit of our own.
const UNLIMITED_PIDS: u64 = 4_194_304;
/// Below this a container cannot even be set up; Docker's number.
const LEAST_MEMORY: u64 = 6 << 20;

/// The image a container is made from.
#[derive(Debug)]
pub(crate) struct ImageSettings<'a> {
    /// Digest of its configuration.
    pub(crate) id: &'a str,
    /// As the user named it.
    pub(crate) name: &'a str,
    /// Its own settings.
    pub(crate) config: &'a Config,
    /// Its health check, which Docker keeps beside them.
    pub(crate) health: Option<ImageHealth>,
}

/// What the rules ask of the machine; a value, so that the rules are testable.
pub(crate) struct Host<'a> {
    /// The caller's environment.
    pub(crate) environment: &'a dyn Fn(&str) -> Option<String>,
    /// Where relative paths begin.
    pub(crate) working_directory: PathBuf,
    /// How many processors there are.
    pub(crate) processors: usize,
    /// Capabilities that a process started here can have, as bits.
    pub(crate) bounding_set: u64,
    /// Whether containers can have networks of their own.
    pub(crate) has_bridges: bool,
}

impl Host<'_> {
    /// This machine and this process.
    pub(crate) fn here() -> anyhow::Result<Self> {
        Ok(Self {
            environment: &|name| std::env::var(name).ok(),
            working_directory: std::env::current_dir()
                .context("could not find the working directory")?,
            processors: std::thread::available_parallelism()?.get(),
            bounding_set: capabilities::bounding_set(),
            has_bridges: invar_engine::embedded::has_bridges(),
        })
    }
}

/// Decides every field of a container's configuration.
pub(crate) fn resolve(
    options: &Options,
    command: &[String],
    image: &ImageSettings<'_>,
    host: &Host<'_>,
) -> anyhow::Result<ContainerConfig> {
    let config = image.config;
    let writable = is_writable(options);
    let network = networking::chosen(options, host);
    Ok(ContainerConfig {
        image: image.id.to_owned(),
        image_name: image.name.to_owned(),
        args: program::args(
            options.entrypoint.as_deref(),
            command,
            config.entrypoint().as_deref(),
            config.cmd().as_deref(),
        )
        .ok_or_else(|| {
            failure(
                format!("the image {:?} does not say what to run", image.name),
                format!("name a program: invar run {} PROGRAM", image.name),
            )
        })?,
        env: environment::resolve(options, config, host)?,
        cwd: program::working_directory(options.workdir.as_deref(), config)?,
        user: user(options, config),
        hostname: hostname(options)?,
        writable,
        mounts: mounts::resolve(options, config, writable, host)?,
        networking: networking::resolve(options, config, &network)?,
        network,
        resources: resources(options, host)?,
        capabilities: capabilities::resolve(&options.cap_add, &options.cap_drop, host)?,
        init: options.init,
        tty: options.tty,
        interactive: options.interactive,
        stop_signal: stop_signal(options, config)?,
        auto_remove: options.rm,
        labels: labels(options, config)?,
        restart: restart::resolve(options)?,
        health: health::resolve(&options.health, image.health.as_ref())?,
        apparmor: security::resolve(&options.security_opt)?,
        userns: match options.userns {
            Userns::Host => UserNamespace::Host,
            Userns::Auto => UserNamespace::Auto,
        },
    })
}

/// Read-only unless asked for: by `--writable`, or by `--read-only=false` as scripts write it.
fn is_writable(options: &Options) -> bool {
    options.writable || options.read_only == Some(false)
}

fn user(options: &Options, config: &Config) -> User {
    let given = options.user.as_deref().or(config.user().as_deref());
    User(
        given
            .filter(|user| !user.is_empty())
            .unwrap_or("0")
            .to_owned(),
    )
}

/// Empty stands for the short id, which exists only once the container does.
fn hostname(options: &Options) -> anyhow::Result<String> {
    let Some(name) = &options.hostname else {
        return Ok(String::new());
    };
    host_name(name)
}

/// Checks a name as resolvers know them.
pub(crate) fn host_name(name: &str) -> anyhow::Result<String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 63 || !name.split('.').all(label) {
        bail!(
            "{name:?} is not a host name: use letters, digits, '-' and '.', at most 63 characters"
        );
    }
    Ok(name.to_owned())
}

fn resources(options: &Options, host: &Host<'_>) -> anyhow::Result<Resources> {
    let memory = options.memory.as_deref().map_or(Ok(None), memory)?;
    let cpus = options.cpus.as_deref();
    let nano_cpus = cpus.map_or(Ok(None), |text| nano_cpus(text, host.processors))?;
    Ok(Resources {
        memory,
        nano_cpus,
        pids: options.pids_limit.map_or(DEFAULT_PIDS, pids),
    })
}

/// `--memory`: a size, or -1 for no limit.
pub(crate) fn memory(text: &str) -> anyhow::Result<Option<u64>> {
    if matches!(text, "-1" | "0") {
        return Ok(None);
    }
    let bytes = quantity::size(text).with_context(|| format!("--memory {text}"))?;
    if bytes < LEAST_MEMORY {
        bail!("--memory: the least a container can be set up with is 6m");
    }
    Ok(Some(bytes))
}

/// `--cpus`: processors, or 0 for no limit.
pub(crate) fn nano_cpus(text: &str, processors: usize) -> anyhow::Result<Option<u64>> {
    quantity::nano_cpus(text, processors).with_context(|| format!("--cpus {text}"))
}

/// `--pids-limit`: a number, or -1 for no limit of our own.
pub(crate) fn pids(limit: i64) -> u64 {
    match limit {
        ..=0 => UNLIMITED_PIDS,
        limit => limit.unsigned_abs().min(UNLIMITED_PIDS),
    }
}

fn stop_signal(options: &Options, config: &Config) -> anyhow::Result<String> {
    let given = options
        .stop_signal
        .as_deref()
        .or(config.stop_signal().as_deref())
        .filter(|signal| !signal.is_empty())
        .unwrap_or("SIGTERM");
    let number = signals::parse(given).context("--stop-signal")?;
    Ok(invar_sys::signal_names::name(number))
}

/// The image's labels, with the caller's over them.
fn labels(options: &Options, config: &Config) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels: BTreeMap<String, String> = config
        .labels()
        .iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for label in &options.label {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        if name.is_empty() {
            bail!("--label {label:?} has no name");
        }
        labels.insert(name.to_owned(), value.to_owned());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests;
