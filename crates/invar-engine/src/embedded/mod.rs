//! The embedded engine: containers without a daemon.
//!
//! ```text
//!  create ─▶ registry (state.db), directory, scaffold
//!  start  ─▶ root mounted, OCI specification written ─▶ shim ─▶ libcontainer ─▶ program
//!  others ─▶ the registry says what was asked for, the status file what happened,
//!            the control group who is in it
//! ```
//!
//! No process of Invar has to run for a container to be listed, stopped or removed; every state is
//! read from what the last step left on disk and in the kernel. Steps that were killed half-way
//! are finished or undone by the next command that looks.

mod cgroup;
mod channel;
mod devices;
mod exec;
mod init;
mod layout;
mod logs;
mod registry;
mod root;
mod runtime;
mod shim;
mod start;
mod status;
mod users;
mod volumes;

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fs_err as fs;
use invar_image::{Digest, ImageStore};
use invar_sys::process::{Identity, send_signal, wait_for_end};
use invar_sys::signal::{SIGKILL, SIGTERM, SIGWINCH};
use jiff::Timestamp;
use rustix::process::WaitStatus;

use self::cgroup::Group;
use self::layout::{Directory, Layout};
use self::registry::{Entry, Registry};
use self::status::{Record, Status};
use crate::config::{ContainerConfig, MountKind};
use crate::container::{Container, ContainerId, ContainerName, ExitStatus, RootFs, State};
use crate::engine::{Engine, ExecConfig, LogOptions, LogStream, Stdio};
use crate::error::{EngineError, Result};

/// The engine's name before a colon.
pub const KIND: &str = "embedded";

/// The engine of one state root.
#[derive(Debug)]
pub struct EmbeddedEngine {
    layout: Layout,
    images: ImageStore,
    registry: Registry,
    /// The status files of what this value started: one that removes itself at its end (`--rm`)
    /// can then still be waited for.
    started: Mutex<HashMap<ContainerId, Status>>,
}

/// Runs one of the roles this program plays besides its commands, when the first argument names
/// one: the shim, the helper of `exec`, a container's init. They come before everything else a
/// program does at its start, because they must stay small and single-threaded.
pub fn play_role(args: &[String]) -> Option<ExitCode> {
    let (role, rest) = args.get(1..)?.split_first()?;
    match role.as_str() {
        "shim" => Some(shim::main(rest)),
        "exec-helper" => Some(exec::main(rest)),
        "init" => Some(init::main(rest)),
        _ => None,
    }
}

impl EmbeddedEngine {
    /// Opens the engine under a state root, made when missing.
    pub fn open(root: &Path) -> Result<Self> {
        let root =
            std::path::absolute(root).map_err(|source| EngineError::io("find", root, source))?;
        let layout = Layout::new(&root);
        let images = ImageStore::open(&root)?;
        Ok(Self {
            registry: Registry::open(images.database())?,
            images,
            started: Mutex::default(),
            layout,
        })
    }

    /// The images its containers are made from.
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// What a container is and does. A run whose shim was killed is ended here.
    fn observe(&self, entry: &Entry) -> Result<Container> {
        let directory = self.layout.container(&entry.id);
        let mut status = Status::open(&directory)?;
        // The lock first: a shim records the end before it lets go.
        let is_locked = status.is_locked()?;
        let mut records = status.records()?;
        if !is_locked && is_unfinished(&records) {
            end_orphan(entry, &directory, &mut status)?;
            records = status.records()?;
        }
        let started = records.iter().rev().find_map(|record| match record {
            Record::Started { init, at, .. } => Some((*init, *at)),
            _ => None,
        });
        let state = state_of(&entry.id, &records);
        let is_up = matches!(state, State::Running | State::Paused);
        Ok(Container {
            id: entry.id.clone(),
            name: entry.name.clone(),
            engine: KIND,
            revision: entry.config.revision(),
            config: entry.config.clone(),
            init_pid: started.filter(|_| is_up).map(|(init, _)| init.pid),
            created_at: entry.created_at,
            started_at: started.map(|(_, at)| at),
            state,
        })
    }

    fn up(&self, id: &ContainerId) -> Result<(Entry, Container)> {
        let entry = self.registry.get(id)?;
        let container = self.observe(&entry)?;
        match container.state {
            State::Running | State::Paused => Ok((entry, container)),
            state => Err(wrong_state(&entry.name, &state, "running")),
        }
    }

    /// The identities of the first process and the shim of the last run.
    fn run_of(&self, id: &ContainerId) -> Result<Option<(Identity, Identity)>> {
        let mut status = Status::open(&self.layout.container(id))?;
        let records = status.records()?;
        Ok(records.iter().rev().find_map(|record| match record {
            Record::Started { init, shim, .. } => Some((*init, *shim)),
            _ => None,
        }))
    }

    fn signal(&self, id: &ContainerId, signal: i32) -> Result<()> {
        let Some((init, _)) = self.run_of(id)? else {
            return Ok(());
        };
        let failed = |source: std::io::Error| EngineError::Runtime {
            action: "send a signal to the container",
            reason: source.to_string(),
        };
        if let Some(process) = init.open().map_err(failed)? {
            send_signal(process.as_fd(), signal).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes a container that is not running from the registry and from disk.
    fn discard(&self, id: &ContainerId) -> Result<()> {
        let volumes = self.registry.get(id).map(|entry| entry.config.mounts);
        self.registry.delete(id)?;
        self.discard_files(id)?;
        for mount in volumes.into_iter().flatten() {
            if let MountKind::Volume { name } = &mount.kind
                && is_anonymous(name)
            {
                let path = volumes::path(&self.layout, name);
                invar_sys::tree::remove(&path)
                    .map_err(|source| EngineError::io("remove", &path, source))?;
            }
        }
        Ok(())
    }
}

impl Engine for EmbeddedEngine {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn save_image(&self, image: &str, output: &mut dyn std::io::Write) -> Result<()> {
        let image = self.images.get(&Digest::parse(image)?)?;
        Ok(self.images.save(&image, output)?)
    }

    fn list(&self) -> Result<Vec<Container>> {
        let entries = self.registry.all()?;
        let mut containers = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.observe(&entry) {
                Ok(container) => containers.push(container),
                // Removed since the registry was read.
                Err(EngineError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(containers)
    }

    fn inspect(&self, name_or_id: &str) -> Result<Container> {
        self.observe(&self.registry.find(name_or_id)?)
    }

    fn create(&self, name: &ContainerName, config: &ContainerConfig) -> Result<ContainerId> {
        // Most that are created are started at once.
        cgroup::expect_move();
        // What cannot be removed must not keep new containers from being made.
        self.sweep().ok();
        let entry = Entry {
            id: ContainerId::random(),
            name: name.clone(),
            config: config.clone(),
            created_at: Timestamp::now(),
        };
        self.create_entry(&entry)?;
        Ok(entry.id)
    }

    fn recreate(&self, id: &ContainerId, name: &ContainerName) -> Result<ContainerId> {
        self.create(name, &self.registry.get(id)?.config)
    }

    fn settings(&self, id: &ContainerId) -> Result<serde_json::Value> {
        let container = self.observe(&self.registry.get(id)?)?;
        serde_json::to_value(container).map_err(|error| EngineError::Runtime {
            action: "describe the container",
            reason: error.to_string(),
        })
    }

    fn start(&self, id: &ContainerId, stdio: Stdio) -> Result<()> {
        let entry = self.registry.get(id)?;
        let status = Status::open(&self.layout.container(id))?;
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.insert(id.clone(), status);
        drop(started);
        self.start_entry(&entry, stdio)
    }

    fn terminal_resized(&self, id: &ContainerId) -> Result<()> {
        let failed = |source: std::io::Error| EngineError::Runtime {
            action: "tell the shim of the terminal's size",
            reason: source.to_string(),
        };
        let Some((_, shim)) = self.run_of(id)? else {
            return Ok(());
        };
        if let Some(process) = shim.open().map_err(failed)? {
            send_signal(process.as_fd(), SIGWINCH).map_err(failed)?;
        }
        Ok(())
    }

    fn wait(&self, id: &ContainerId) -> Result<ExitStatus> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let known = started.remove(id);
        drop(started);
        let mut status = match known {
            Some(status) => status,
            None => Status::open(&self.layout.container(id))?,
        };
        loop {
            let shim = status
                .records()?
                .iter()
                .rev()
                .find_map(|record| match record {
                    Record::Started { shim, .. } => Some(*shim),
                    _ => None,
                });
            if let Some(process) = shim.and_then(|shim| shim.open().ok().flatten()) {
                wait_for_end(process.as_fd(), Duration::from_hours(1)).map_err(|source| {
                    EngineError::Runtime {
                        action: "wait for the container",
                        reason: source.to_string(),
                    }
                })?;
            }
            if let Some(Record::Ended(ended)) = status.records()?.pop() {
                return Ok(ended);
            }
            // Never started, just starting, or its shim was killed: looking ends that one.
            if let State::Exited(ended) = self.observe(&self.registry.get(id)?)?.state {
                return Ok(ended);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&self, id: &ContainerId, signal: i32) -> Result<()> {
        self.up(id)?;
        self.signal(id, signal)?;
        if signal == SIGKILL && Group::of(id).is_frozen() {
            // A frozen process of a v1 group dies only once it is thawed.
            Group::of(id).thaw()?;
        }
        Ok(())
    }

    fn stop(&self, id: &ContainerId, timeout: Duration) -> Result<ExitStatus> {
        let (entry, _) = self.up(id)?;
        let signal = signal_number(&entry.config.stop_signal);
        let run = self.run_of(id)?;
        let group = Group::of(id);
        self.signal(id, signal)?;
        if group.is_frozen() {
            group.thaw()?;
        }
        let process = run.and_then(|(init, _)| init.open().ok().flatten());
        if let Some(process) = process {
            let ended = wait_for_end(process.as_fd(), timeout);
            if !ended.is_ok_and(|ended| ended) {
                self.signal(id, SIGKILL)?;
            }
        }
        self.wait(id)
    }

    fn pause(&self, id: &ContainerId) -> Result<()> {
        let (entry, container) = self.up(id)?;
        match container.state {
            State::Paused => Err(wrong_state(&entry.name, &container.state, "running")),
            _ => Group::of(id).freeze().or_else(|error| {
                // It may have ended just now, and its group with it.
                self.up(id).and(Err(error))
            }),
        }
    }

    fn resume(&self, id: &ContainerId) -> Result<()> {
        let (entry, container) = self.up(id)?;
        match container.state {
            State::Paused => Group::of(id).thaw(),
            state => Err(wrong_state(&entry.name, &state, "paused")),
        }
    }

    fn processes(&self, id: &ContainerId) -> Result<Vec<u32>> {
        let (_, container) = self.up(id)?;
        let mut pids = Group::of(id).processes()?;
        // The kernel lists by number, and the numbers of later processes may be lower.
        pids.sort_by_key(|pid| Some(*pid) != container.init_pid);
        Ok(pids)
    }

    fn exec(&self, id: &ContainerId, exec: &ExecConfig) -> Result<u8> {
        let (entry, container) = self.up(id)?;
        match (&container.state, container.init_pid) {
            (State::Running, Some(init)) => self.exec_in(&entry, init, exec),
            (state, _) => Err(wrong_state(&entry.name, state, "running")),
        }
    }

    fn logs(
        &self,
        id: &ContainerId,
        options: &LogOptions,
        each: &mut dyn FnMut(LogStream, &[u8]) -> bool,
    ) -> Result<()> {
        let entry = self.registry.get(id)?;
        let has_ended = || match self.observe(&entry) {
            Ok(container) => Ok(matches!(container.state, State::Exited(_))),
            // Removed meanwhile.
            Err(_gone) => Ok(true),
        };
        logs::read(&self.layout.container(id), options, &has_ended, each)
    }

    fn open_root(&self, id: &ContainerId) -> Result<RootFs> {
        let entry = self.registry.get(id)?;
        root::open(&self.images, &self.layout.container(id), &entry.config)
    }

    fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<()> {
        self.registry.rename(id, name)
    }

    fn remove(&self, id: &ContainerId, force: bool) -> Result<()> {
        let entry = self.registry.get(id)?;
        let state = self.observe(&entry)?.state;
        if matches!(state, State::Running | State::Paused) {
            if !force {
                return Err(wrong_state(&entry.name, &state, "stopped"));
            }
            self.kill(id, SIGKILL)?;
            self.wait(id)?;
        }
        let directory = self.layout.container(id);
        let claimed = match start::claim(self, &entry, &directory) {
            // It removed itself (`--rm`).
            Err(EngineError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(());
            }
            claimed => claimed?,
        };
        let removed = self.discard(id);
        drop(claimed);
        removed
    }
}

/// The state that records tell of, and whether the kernel has frozen it.
fn state_of(id: &ContainerId, records: &[Record]) -> State {
    let is_starting = matches!(records.last(), Some(Record::Starting));
    match records.iter().nth_back(usize::from(is_starting)) {
        Some(Record::Ended(status)) => State::Exited(status.clone()),
        Some(Record::Started { .. }) if is_starting => State::Created,
        Some(Record::Started { .. }) if Group::of(id).is_frozen() => State::Paused,
        Some(Record::Started { .. }) => State::Running,
        _ => State::Created,
    }
}

/// Ends a run that nobody supervises any more: its shim, or the command that started it, was
/// killed.
fn end_orphan(entry: &Entry, directory: &Directory, status: &mut Status) -> Result<()> {
    if !status.try_lock()? {
        // Another command is at it, or it is being started again.
        return Ok(());
    }
    let records = status.records()?;
    if !is_unfinished(&records) {
        return Ok(());
    }
    let (code, error) = match records.last() {
        Some(Record::Starting) => (125, "its start was interrupted"),
        _ => (137, "its shim was killed; the container was ended"),
    };
    clear_run(&entry.id, directory)?;
    status.append(&Record::Ended(ExitStatus {
        code,
        oom_killed: false,
        error: Some(error.to_owned()),
        finished_at: Timestamp::now(),
    }))
}

/// Kills and removes what a run may have left behind; nothing of it is needed any more.
fn clear_run(id: &ContainerId, directory: &Directory) -> Result<()> {
    let group = Group::of(id);
    if group.exists() {
        group.kill_all()?;
    }
    group.remove()?;
    for mounted in [directory.rootfs(), directory.etc()] {
        // Mounted only in the namespace of a shim; elsewhere there is nothing to unmount.
        rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).ok();
        fs::remove_dir(&mounted).ok();
    }
    let runtime = directory.runtime();
    invar_sys::tree::remove(&runtime).map_err(|source| EngineError::io("remove", &runtime, source))
}

/// Whether the last record is one that a later one must follow.
fn is_unfinished(records: &[Record]) -> bool {
    matches!(
        records.last(),
        Some(Record::Starting | Record::Started { .. })
    )
}

/// As Docker counts: the code, or 128 and the signal.
fn exit_code(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| signal + 128);
    let code = status.exit_status().or(signal).unwrap_or(255);
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// The number of a signal that a configuration names; `SIGTERM` for one that no table has.
fn signal_number(name: &str) -> i32 {
    invar_sys::signal_names::parse(name).unwrap_or(SIGTERM)
}

/// Docker's form of a name nobody gave: 64 digits.
fn is_anonymous(volume: &str) -> bool {
    ContainerId::try_from(volume.to_owned()).is_ok()
}

fn state_name(state: &State) -> &'static str {
    match state {
        State::Created => "not started",
        State::Running => "running",
        State::Paused => "paused",
        State::Exited(_) => "stopped",
    }
}

fn wrong_state(name: &ContainerName, state: &State, needed: &'static str) -> EngineError {
    EngineError::WrongState {
        name: name.as_str().to_owned(),
        actual: state_name(state),
        needed,
    }
}
