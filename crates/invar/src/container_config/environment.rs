//! The program's environment: default `PATH`, the image's, env files, flags; later ones win.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use oci_spec::image::Config;

use super::{Host, Options};

/// What an image without its own PATH gets, as with Docker.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// More than any environment the kernel would pass to a program.
const LARGEST_ENV_FILE: u64 = 4 << 20;

/// Every variable as `NAME=value`, each name once.
///
/// `HOSTNAME` and `HOME` depend on the container's id and on its user database; the engine adds
/// them at start when they are not here.
pub(super) fn resolve(
    options: &Options,
    config: &Config,
    host: &Host<'_>,
) -> anyhow::Result<Vec<String>> {
    let mut settings = vec![DEFAULT_PATH.to_owned()];
    if options.tty {
        settings.push("TERM=xterm".to_owned());
    }
    if let Some(name) = &options.hostname {
        settings.push(format!("HOSTNAME={name}"));
    }
    settings.extend(config.env().iter().flatten().cloned());
    for path in &options.env_file {
        settings.extend(read_file(path, host)?);
    }
    for setting in &options.env {
        settings.push(flag(setting, host)?);
    }
    Ok(last_wins(&settings))
}

/// `NAME=value`, or `NAME` alone for the caller's value; a variable the caller does not have is
/// unset, whatever the image says.
pub(crate) fn flag(setting: &str, host: &Host<'_>) -> anyhow::Result<String> {
    match setting.split_once('=') {
        Some(("", _)) => bail!("--env {setting:?} has no name"),
        Some(_) => Ok(setting.to_owned()),
        None if setting.is_empty() => bail!("--env needs a name"),
        None => Ok((host.environment)(setting)
            .map_or_else(|| setting.to_owned(), |value| format!("{setting}={value}"))),
    }
}

/// Docker's format: one `NAME=VALUE` a line, taken as it is; `NAME` alone takes the caller's value
/// when it has one; `#` begins a comment line.
fn read_file(path: &Path, host: &Host<'_>) -> anyhow::Result<Vec<String>> {
    let mut text = String::new();
    fs_err::File::open(path)
        .and_then(|file| file.take(LARGEST_ENV_FILE + 1).read_to_string(&mut text))
        .with_context(|| format!("could not read the env file {}", path.display()))?;
    if text.len() as u64 > LARGEST_ENV_FILE {
        bail!("the env file {} is larger than 4 MiB", path.display());
    }
    let mut settings = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for (line, number) in text.lines().map(str::trim_start).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            bail!(
                "{}, line {number}: {name:?} is not the name of a variable",
                path.display()
            );
        }
        if line.contains('=') {
            settings.push(line.to_owned());
        } else if let Some(value) = (host.environment)(name) {
            settings.push(format!("{name}={value}"));
        }
    }
    Ok(settings)
}

/// Keeps each name's last setting, in the place of its first; a name without `=` is unset.
fn last_wins(settings: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    settings
        .iter()
        .filter(|setting| seen.insert(name(setting)))
        .filter_map(|first| settings.iter().rfind(|last| name(last) == name(first)))
        .filter(|setting| setting.contains('='))
        .cloned()
        .collect()
}

fn name(setting: &str) -> &str {
    setting.split('=').next().unwrap_or(setting)
}
