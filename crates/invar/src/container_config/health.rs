//! The health check: the image's, with the flags over it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use invar_engine::HealthCheck;
use jiff::SignedDuration;
use serde::Deserialize;

use super::options::HealthOptions;

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// The shortest time Docker takes.
const SHORTEST: Duration = Duration::from_millis(1);

/// `Healthcheck` of an image's configuration (Docker image specification 1.2); times in
/// nanoseconds, 0 for the default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageHealth {
    test: Vec<String>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
    retries: u32,
}

impl ImageHealth {
    /// The health check in an image's configuration as it was written.
    pub(crate) fn of(config: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Image {
            config: Option<Settings>,
        }
        #[derive(Deserialize)]
        struct Settings {
            #[serde(rename = "Healthcheck")]
            health: Option<ImageHealth>,
        }
        // The image was read before; what is malformed here is only not known to have a check.
        let image: Image = serde_json::from_slice(config).ok()?;
        image.config?.health
    }
}

pub(super) fn resolve(
    options: &HealthOptions,
    image: Option<&ImageHealth>,
) -> anyhow::Result<Option<HealthCheck>> {
    let settings = [
        &options.health_cmd,
        &options.health_interval,
        &options.health_timeout,
        &options.health_start_period,
        &options.health_start_interval,
    ];
    let is_asked_for =
        settings.iter().any(|setting| setting.is_some()) || options.health_retries.is_some();
    if options.no_healthcheck {
        if is_asked_for {
            bail!("--no-healthcheck and other --health flags contradict each other");
        }
        return Ok(None);
    }
    let none = ImageHealth::default();
    let image = image.unwrap_or(&none);
    let Some(args) = program(options, image)? else {
        return Ok(None);
    };
    let time = |name: &str, flag: &Option<String>, of_image: u64, default: Duration| match flag {
        Some(text) => duration(text).with_context(|| format!("{name} {text}")),
        None if of_image == 0 => Ok(default),
        None => Ok(Duration::from_nanos(of_image).max(SHORTEST)),
    };
    Ok(Some(HealthCheck {
        args,
        interval: time(
            "--health-interval",
            &options.health_interval,
            image.interval,
            INTERVAL,
        )?,
        timeout: time(
            "--health-timeout",
            &options.health_timeout,
            image.timeout,
            TIMEOUT,
        )?,
        retries: match options.health_retries.unwrap_or(image.retries) {
            0 => RETRIES,
            retries => retries,
        },
        start_period: time(
            "--health-start-period",
            &options.health_start_period,
            image.start_period,
            Duration::ZERO,
        )?,
        start_interval: time(
            "--health-start-interval",
            &options.health_start_interval,
            image.start_interval,
            START_INTERVAL,
        )?,
    }))
}

/// What to run: `CMD` and its arguments, or `CMD-SHELL` and a line for the shell.
fn program(options: &HealthOptions, image: &ImageHealth) -> anyhow::Result<Option<Vec<String>>> {
    let shell = |line: &str| ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
    match options.health_cmd.as_deref() {
        Some("") => bail!("--health-cmd is empty; to leave the image's out: --no-healthcheck"),
        Some("none") => return Ok(None),
        Some(line) => return Ok(Some(shell(line))),
        None => {}
    }
    match image
        .test
        .split_first()
        .map(|(kind, rest)| (kind.as_str(), rest))
    {
        None | Some(("NONE", _)) => Ok(None),
        Some(("CMD", args)) if !args.is_empty() => Ok(Some(args.to_vec())),
        Some(("CMD-SHELL", [line])) => Ok(Some(shell(line))),
        Some((kind, _)) => bail!("the image's health check {kind:?} cannot be understood"),
    }
}

/// A time as Docker writes it: `30s`, `1m30s`, `500ms`; `0s` too.
pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    let unclear = || format!("{text:?} is not a time: write for example 30s, 1m30s or 500ms");
    let time = match text {
        "0" => SignedDuration::ZERO,
        _ => text.parse().ok().with_context(unclear)?,
    };
    let time = Duration::try_from(time).ok().with_context(unclear)?;
    if !time.is_zero() && time < SHORTEST {
        bail!("{text:?} is shorter than 1ms");
    }
    Ok(time)
}
