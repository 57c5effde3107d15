//! Volumes, bind mounts and tmpfs: `-v`, `--mount`, `--tmpfs`, the image's volumes and Invar's own
//! tmpfs of a read-only root.
//!
//! Docker's words keep Docker's meaning, with two differences. A host path that does not exist is
//! an error, because Docker's silent empty directory hides a spelling mistake. Programs on a
//! writable mount do not run unless it says `exec`, because that is where an attacker can write.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use invar_engine::{ContainerId, ContainerName, Mount, MountKind};
use oci_spec::image::Config;

use super::{Host, Options, program, quantity};
use crate::exit::failure;

/// Size of a tmpfs that does not say.
const TMPFS_SIZE: u64 = 256 << 20;
/// Anyone may write, only the owner may delete.
const TMPFS_MODE: u32 = 0o1777;
/// Where programs expect to write even when their root is read-only.
const SCRATCH: [(&str, u32); 3] = [("/run", 0o755), ("/tmp", 0o1777), ("/var/tmp", 0o1777)];

/// Every mount of the container, sorted by target.
pub(super) fn resolve(
    options: &Options,
    config: &Config,
    writable: bool,
    host: &Host<'_>,
) -> anyhow::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for text in &options.volume {
        mounts.push(volume(text, host).with_context(|| format!("--volume {text}"))?);
    }
    for text in &options.mount {
        mounts.push(key_value(text, host).with_context(|| format!("--mount {text}"))?);
    }
    for text in &options.tmpfs {
        mounts.push(tmpfs(text).with_context(|| format!("--tmpfs {text}"))?);
    }
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    if let Some(pair) = mounts
        .windows(2)
        .find(|pair| pair[0].target == pair[1].target)
    {
        bail!("{} is mounted twice", pair[0].target.display());
    }
    for path in config.volumes().iter().flatten() {
        let target = target(path).with_context(|| format!("volume {path:?} of the image"))?;
        add_default(&mut mounts, anonymous_volume(target));
    }
    if !writable {
        for (path, mode) in SCRATCH {
            add_default(&mut mounts, scratch(path, mode));
        }
    }
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(mounts)
}

/// Adds a mount nobody asked for, unless something is mounted there already.
fn add_default(mounts: &mut Vec<Mount>, mount: Mount) {
    if mounts.iter().all(|other| other.target != mount.target) {
        mounts.push(mount);
    }
}

fn scratch(path: &str, mode: u32) -> Mount {
    Mount {
        target: PathBuf::from(path),
        kind: MountKind::Tmpfs {
            size: TMPFS_SIZE,
            mode,
        },
        read_only: false,
        exec: false,
    }
}

/// A fresh volume named by 64 random digits, as Docker names them.
fn anonymous_volume(target: PathBuf) -> Mount {
    Mount {
        target,
        kind: MountKind::Volume {
            name: ContainerId::random().as_str().to_owned(),
        },
        read_only: false,
        exec: false,
    }
}

/// `PATH`, or `SOURCE:PATH[:OPTIONS]`.
fn volume(text: &str, host: &Host<'_>) -> anyhow::Result<Mount> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, path, options) = match parts[..] {
        [path] => return Ok(anonymous_volume(target(path)?)),
        [source, path] => (source, path, ""),
        [source, path, options] => (source, path, options),
        _ => bail!("it has more than two ':'; a path with ':' needs --mount"),
    };
    let access = Access::parse(options.split(',').filter(|option| !option.is_empty()))?;
    Ok(access.mount(target(path)?, source_kind(source, host)?))
}

/// A path (`/…`, `./…`, `../…`) of the host, or a volume's name.
fn source_kind(source: &str, host: &Host<'_>) -> anyhow::Result<MountKind> {
    if source.starts_with(['/', '.']) {
        return bind(source, host);
    }
    named_volume(source)
}

fn named_volume(name: &str) -> anyhow::Result<MountKind> {
    if ContainerName::parse(name).is_err() {
        bail!(
            "{name:?} is neither an absolute host path nor a volume name (letters, digits, '_', \
             '.' and '-')"
        );
    }
    Ok(MountKind::Volume {
        name: name.to_owned(),
    })
}

fn bind(source: &str, host: &Host<'_>) -> anyhow::Result<MountKind> {
    let joined = host.working_directory.join(source);
    let source = joined
        .to_str()
        .and_then(program::absolute)
        .unwrap_or(joined);
    if !source.try_exists().unwrap_or(false) {
        return Err(failure(
            format!("there is no {} on the host", source.display()),
            format!("make it first: mkdir -p {}", source.display()),
        ));
    }
    Ok(MountKind::Bind { source })
}

/// `type=bind,source=/a,target=/b,readonly`
fn key_value(text: &str, host: &Host<'_>) -> anyhow::Result<Mount> {
    let (mut kind, mut source, mut path) = ("volume", None, None);
    let (mut size, mut mode) = (TMPFS_SIZE, TMPFS_MODE);
    let mut access = Access::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        match key {
            "type" => kind = value,
            "source" | "src" => source = Some(value),
            "target" | "destination" | "dst" => path = Some(target(value)?),
            "readonly" | "ro" => access.read_only = flag(key, value)?,
            "exec" => access.exec = Some(flag(key, value)?),
            "tmpfs-size" => size = quantity::size(value)?,
            "tmpfs-mode" => mode = octal(value)?,
            "consistency" => {}
            "bind-propagation" if matches!(value, "private" | "rprivate") => {}
            _ => bail!("{key:?} is not there; use type, source, target, readonly, exec"),
        }
    }
    let path = path.context("it needs target=PATH")?;
    let kind = match (kind, source) {
        ("bind", Some(source)) => bind(source, host)?,
        ("bind", None) => bail!("a bind mount needs source=PATH"),
        ("volume", Some(name)) => named_volume(name)?,
        ("volume", None) => anonymous_volume(PathBuf::new()).kind,
        ("tmpfs", None) => MountKind::Tmpfs { size, mode },
        ("tmpfs", Some(_)) => bail!("a tmpfs has no source"),
        _ => bail!("type is bind, volume or tmpfs"),
    };
    Ok(access.mount(path, kind))
}

/// `PATH[:OPTIONS]`
fn tmpfs(text: &str) -> anyhow::Result<Mount> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut mode) = (TMPFS_SIZE, TMPFS_MODE);
    let mut rest = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = quantity::size(value)?,
            Some(("mode", value)) => mode = octal(value)?,
            None if matches!(option, "nosuid" | "nodev") => {}
            _ => rest.push(option),
        }
    }
    Ok(Access::parse(rest)?.mount(target(path)?, MountKind::Tmpfs { size, mode }))
}

/// Who may do what on a mount.
#[derive(Default)]
struct Access {
    read_only: bool,
    exec: Option<bool>,
}

impl Access {
    fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        let mut access = Self::default();
        for option in options {
            match option {
                "ro" | "readonly" => access.read_only = true,
                "rw" => access.read_only = false,
                "exec" => access.exec = Some(true),
                "noexec" => access.exec = Some(false),
                // Docker's defaults, and hints for a file server that no Linux host has.
                "private" | "rprivate" | "cached" | "delegated" | "consistent" => {}
                _ => bail!("option {option:?} is not there; use ro, rw, exec or noexec"),
            }
        }
        Ok(access)
    }

    /// Nothing can be dropped on a read-only mount of the host, so its programs run as with
    /// Docker.
    fn mount(self, target: PathBuf, kind: MountKind) -> Mount {
        let trusted = self.read_only && matches!(kind, MountKind::Bind { .. });
        Mount {
            target,
            kind,
            read_only: self.read_only,
            exec: self.exec.unwrap_or(trusted),
        }
    }
}

/// An absolute path inside the container where something may be mounted.
fn target(path: &str) -> anyhow::Result<PathBuf> {
    let Some(clean) = program::absolute(path) else {
        bail!("{path:?} is not an absolute path inside the container");
    };
    if clean == Path::new("/") {
        bail!("nothing can be mounted over the container's root");
    }
    if clean.starts_with("/proc") || clean.starts_with("/sys") {
        bail!("nothing can be mounted in /proc or /sys: they show the kernel's own view");
    }
    if clean == Path::new("/dev") {
        // Its null device hides what a container must not see (CVE-2025-31133).
        bail!("nothing can be mounted over /dev, only on a name in it such as /dev/log");
    }
    Ok(clean)
}

fn flag(key: &str, value: &str) -> anyhow::Result<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => bail!("{key} is true or false"),
    }
}

fn octal(text: &str) -> anyhow::Result<u32> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => bail!("{text:?} is not a mode: write for example 1777"),
    }
}
