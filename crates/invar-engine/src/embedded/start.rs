//! Starting a container: everything that can fail for the user's reasons happens here, in the
//! command; then a shim takes over.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process;
use std::time::{Duration, Instant};

use fs_err as fs;
use invar_sys::process::{command, inherit, read_only_self};

use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::FlockOperation;
use rustix::thread::CapabilitySet;

use super::layout::{self, Directory};
use super::owners::Owners;
use super::registry::Entry;
use super::restart::History;
use super::runtime::inside::Inside;
use super::runtime::{program, spec};
use super::shim::{Answer, Request, health};
use super::status::{Record, Status};
use super::{EmbeddedEngine, apparmor, cgroup, channel, exec, root, users, volumes};
use crate::config::{ContainerConfig, Mount, Network, UserNamespace};
use crate::container::{ContainerId, State};
use crate::engine::Stdio;
use crate::error::{EngineError, Result};

/// What is known once the root is mounted: the health check, and who the program is in its user
/// namespace, and its user outside one.
type Plans = (Option<health::Plan>, Option<Inside>, u32);

/// How long a run that has just ended may take to clean up before the next begins.
const PATIENCE: Duration = Duration::from_secs(10);

impl EmbeddedEngine {
    /// Starts the container; returns once its program was executed.
    pub(super) fn start_entry(&self, entry: &Entry, stdio: Stdio) -> Result<()> {
        let directory = self.layout.container(&entry.id);
        let mut status = claim(self, entry, &directory)?;
        status.append(&Record::Starting)?;
        let started = self.start_claimed(entry, status, stdio, History::default());
        if started.is_err() && matches!(entry.config.network, Network::Named(_)) {
            // The error that stopped it matters more than what taking its place back says.
            self.networks.release_if_dead(&entry.id).ok();
        }
        started
    }

    /// As [`Self::start_entry`], for a container that is claimed and recorded as starting.
    pub(super) fn start_claimed(
        &self,
        entry: &Entry,
        status: Status,
        stdio: Stdio,
        history: History,
    ) -> Result<()> {
        let directory = self.layout.container(&entry.id);
        status.forget_old();
        super::clear_run(&entry.id, &directory)?;
        let failed = |source: std::io::Error| EngineError::Runtime {
            action: "start the container's shim",
            reason: source.to_string(),
        };
        let owners = self.registry.first_owner(&entry.id)?;
        let owners = owners.map(Owners::new).transpose()?;
        let placed = self.place(entry)?;
        let request = Request {
            id: entry.id.clone(),
            root: self.layout.root().to_owned(),
            directory: directory.path().to_owned(),
            capabilities: available(&entry.config.capabilities),
            cwd: entry.config.cwd.clone(),
            files: placed.files,
            place: placed.place,
            tty: entry.config.tty,
            interactive: entry.config.interactive,
            attached: matches!(stdio, Stdio::Attached { .. }),
            init: entry.config.init,
            auto_remove: entry.config.auto_remove,
            name: entry.name.as_str().to_owned(),
            image: entry.config.image_name.clone(),
            restart: entry.config.restart,
            history,
            health: None,
            inside: None,
            user: 0,
            has_namespace: owners.is_some(),
            shifted: self.shifted(entry),
        };
        let (control, root, plans) = std::thread::scope(|scope| {
            // Executed and getting ready while the root is mounted; it ends by itself when that
            // fails.
            let spawning = scope.spawn(move || {
                let control = spawn(&status, placed.handles, stdio)?;
                drop(status);
                channel::send(&control, &request)?;
                Ok(control)
            });
            let prepared = self.prepare(entry, &directory, owners.as_ref());
            let spawned = spawning.join();
            let spawned = spawned.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (root, plans) = prepared?;
            Ok::<_, EngineError>((spawned.map_err(failed)?, root, plans))
        })?;
        channel::send_handle(&control, root.as_fd()).map_err(failed)?;
        drop(root);
        if let Some(owners) = &owners {
            channel::send_handle(&control, owners.namespace.as_fd()).map_err(failed)?;
        }
        channel::send(&control, &plans).map_err(failed)?;
        match channel::receive(&control) {
            Ok(Answer::Started) => Ok(()),
            Ok(Answer::Failed(failure)) => Err(failure.into()),
            Err(_ended) => Err(failed(std::io::Error::other(
                "it was killed before the program ran",
            ))),
        }
    }

    /// Mounts the root, fills volumes and writes what the runtime reads.
    fn prepare(
        &self,
        entry: &Entry,
        directory: &Directory,
        owners: Option<&Owners>,
    ) -> Result<(OwnedFd, Plans)> {
        let config = &entry.config;
        if owners.is_some() && config.mounts.iter().any(Mount::is_volume) {
            // A volume gets the ids of the image, not those it is shown with.
            let plain = root::open(&self.images, directory, config)?.lower;
            volumes::ensure(&self.layout, config, plain.as_fd())?;
        }
        let root = root::mount(&self.images, directory, config, owners)?;
        volumes::ensure(&self.layout, config, root.as_fd())?;
        if let (true, Some(owners)) = (config.writable, owners) {
            root::make_mount_points(root.as_fd(), config, owners)?;
        }
        let account = users::resolve(root.as_fd(), &config.user)?;
        layout::make_visible(&directory.etc())?;
        layout::make_private(&directory.runtime())?;
        let inputs = spec::Inputs {
            id: &entry.id,
            config,
            account: &account,
            directory,
            layout: &self.layout,
            capabilities: available(&config.capabilities),
            open_files: open_files(),
            first: owners.map(|owners| owners.first),
            profile: apparmor::profile(&config.apparmor)?,
        };
        let spec = spec::spec(&inputs)?;
        let health = config.health.as_ref().map(|check| health::Plan {
            check: check.clone(),
            exec: exec::Request {
                id: entry.id.clone(),
                directory: directory.path().to_owned(),
                process: spec::process(&inputs, &check.args, &spec::environment(&inputs), false),
                cwd: config.cwd.clone(),
                capabilities: config.capabilities.clone(),
                tty: false,
                interactive: false,
                inside: Inside::of(&inputs),
                stranger: None,
            },
        });
        let path = directory.runtime().join("config.json");
        let text = serde_json::to_vec(&spec).expect("a specification is plain data");
        fs::write(&path, text).map_err(|source| EngineError::io("write", &path, source))?;
        Ok((root, (health, Inside::of(&inputs), account.uid)))
    }

    /// What of the host's is mounted with other owners.
    fn shifted(&self, entry: &Entry) -> Vec<(usize, PathBuf)> {
        let mounts = entry.config.mounts.iter().enumerate();
        mounts
            .filter(|_| entry.config.userns == UserNamespace::Auto)
            .filter_map(|(number, mount)| Some((number, spec::source(mount, &self.layout)?)))
            .collect()
    }
}

/// Locks the container for a run or its removal. One that has ended is waited for while it cleans
/// up.
pub(super) fn claim(
    engine: &EmbeddedEngine,
    entry: &Entry,
    directory: &Directory,
) -> Result<Status> {
    let status = Status::open(directory)?;
    let deadline = Instant::now() + PATIENCE;
    while !status.try_lock()? {
        let state = engine.observe(entry)?.state;
        let is_up = matches!(state, State::Running | State::Paused | State::Restarting(_));
        if is_up || Instant::now() > deadline {
            return Err(EngineError::WrongState {
                name: entry.name.as_str().to_owned(),
                actual: super::state_name(&state),
                needed: "stopped",
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(status)
}

/// The most open files one process may be given here.
pub(super) fn open_files() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX)
}

/// Executes this program as a shim; our end of the conversation with it.
fn spawn(status: &Status, network: Vec<OwnedFd>, stdio: Stdio) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let file = read_only_self()?;
    // Copies of our own, because the handles themselves must not pass into other programs.
    let mut handles = vec![theirs, status.handle().try_clone_to_owned()?];
    handles.extend(network);
    let mut shim = command(file.as_fd());
    shim.arg("shim").env_clear().current_dir("/");
    for handle in &handles {
        inherit(handle.as_fd())?;
        shim.arg(program::number(handle));
    }
    match stdio {
        Stdio::Detached => {
            shim.stdin(process::Stdio::null())
                .stdout(process::Stdio::null())
                .stderr(process::Stdio::null());
        }
        Stdio::Attached {
            stdin,
            stdout,
            stderr,
        } => {
            shim.stdin(stdin.map_or_else(process::Stdio::null, Into::into))
                .stdout(stdout)
                .stderr(stderr);
        }
    }
    // Not waited for: it outlives this command, and is adopted when this one ends first.
    drop(shim.spawn()?);
    Ok(ours)
}

/// Of these capabilities, those this process has itself: it can give no other.
pub(super) fn available(wanted: &[String]) -> Vec<String> {
    let held = rustix::thread::capabilities(None).map(|sets| sets.permitted);
    let held = held.unwrap_or(CapabilitySet::empty());
    wanted
        .iter()
        .filter(|name| {
            let short = name.strip_prefix("CAP_").unwrap_or(name);
            CapabilitySet::from_name(short).is_none_or(|one| held.contains(one))
        })
        .cloned()
        .collect()
}

impl EmbeddedEngine {
    /// Makes a container; it is there once its name is in the registry.
    pub(super) fn create_entry(&self, entry: &Entry) -> Result<()> {
        let directory = self.layout.container(&entry.id);
        layout::make_private(&self.layout.containers())?;
        // Until it is claimed, nobody may take the directory for one that was left behind.
        let no_sweep = self.lock_directories(FlockOperation::LockShared)?;
        layout::make_private(directory.path())?;
        let status = Status::create(&directory)?;
        if !status.try_lock()? {
            unreachable!("the file was made for a fresh random id");
        }
        drop(no_sweep);
        let made = self.fill(&directory, &entry.config, entry);
        if made.is_err() {
            // The error that stopped it matters more than what cleaning up says.
            self.discard_files(&entry.id).ok();
        }
        made
    }

    fn fill(&self, directory: &Directory, config: &ContainerConfig, entry: &Entry) -> Result<()> {
        let image = invar_image::Digest::parse(&config.image)?;
        self.images.hold(&image, entry.id.as_str())?;
        root::build_scaffold(&self.images, directory, config)?;
        self.registry.insert(entry)
    }

    /// Removes directories without a container: of a creation or a removal that was killed.
    pub(super) fn sweep(&self) -> Result<()> {
        // While another container is being made it is left for the next time.
        let Ok(claiming) = self.lock_directories(FlockOperation::NonBlockingLockExclusive) else {
            return Ok(());
        };
        let left = self.claim_left_behind()?;
        drop(claiming);
        for (id, _claim) in left {
            self.discard_files(&id)?;
        }
        Ok(())
    }

    /// The directories of no container, each with the claim that keeps others from removing it
    /// too. One without a status file was cut short before it had it.
    fn claim_left_behind(&self) -> Result<Vec<(ContainerId, Option<Status>)>> {
        let Ok(directories) = fs::read_dir(self.layout.containers()) else {
            return Ok(Vec::new());
        };
        let mut left = Vec::new();
        for directory in directories.flatten() {
            let name = directory.file_name().into_string().unwrap_or_default();
            let Ok(id) = ContainerId::try_from(name) else {
                continue;
            };
            if self.registry.get(&id).is_ok() {
                continue;
            }
            let claim = Status::open(&self.layout.container(&id)).ok();
            if let Some(status) = &claim
                && !status.try_lock()?
            {
                continue;
            }
            // Asked again once it is claimed: a container being made is in the registry when it lets go.
            if matches!(self.registry.get(&id), Err(EngineError::NotFound { .. })) {
                left.push((id, claim));
            }
        }
        Ok(left)
    }

    /// Shared while a directory is being made, exclusive while those left behind are told apart.
    fn lock_directories(&self, operation: FlockOperation) -> Result<fs::File> {
        let path = self.layout.containers().join(".lock");
        let failed = |source| EngineError::io("lock", &path, source);
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        rustix::fs::flock(&file, operation).map_err(|errno| failed(errno.into()))?;
        Ok(file)
    }

    /// Removes what belongs to a container that is not in the registry (any more).
    pub(super) fn discard_files(&self, id: &ContainerId) -> Result<()> {
        let directory = self.layout.container(id);
        super::clear_run(id, &directory)?;
        self.images.release(id.as_str())?;
        let path = directory.path();
        invar_sys::tree::remove(path).map_err(|source| EngineError::io("remove", path, source))?;
        cgroup::Group::of(id).remove()
    }
}
