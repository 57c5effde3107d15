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

mod apparmor;
mod attach;
mod boot;
mod cgroup;
mod channel;
mod devices;
mod exec;
mod init;
mod journal;
mod layout;
mod logs;
mod membership;
mod network;
mod owners;
mod place;
mod registry;
mod restart;
mod root;
mod runtime;
mod shim;
mod start;
mod status;
mod update;
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
use self::network::Networks;
#[cfg(fuzzing)]
pub use self::network::fuzzing;
pub use self::network::{
    DEFAULT_NETWORK, ForeignChain, NetworkFacts, NetworkInfo, NetworkOptions, has_bridges,
};
use self::registry::{Entry, Registry};
use self::runtime::spec;
use self::status::{Now, Phase, Record, Run, Status};
use crate::config::{ContainerConfig, MountKind, Network};
use crate::container::{
    Container, ContainerId, ContainerName, ExitStatus, Health, HealthStatus, RootFs, State,
};
use crate::engine::{
    Attached, Attachment, Engine, ExecConfig, LogOptions, LogStream, Stdio, Update,
};
use crate::error::{EngineError, Result};
use crate::files::Files;

pub use self::apparmor::has_parser as has_apparmor_parser;
pub use self::journal::{Event, EventOptions};

/// The engine's name before a colon.
pub const KIND: &str = "embedded";

/// The engine of one state root.
#[derive(Debug)]
pub struct EmbeddedEngine {
    layout: Layout,
    images: ImageStore,
    registry: Registry,
    networks: Networks,
    /// The status files of what this value started: one that removes itself at its end (`--rm`)
    /// can then still be waited for.
    started: Mutex<HashMap<ContainerId, Status>>,
}

/// Runs one of the roles this program plays besides its commands, when the first argument names
/// one: the shim, what it becomes while it waits, the helper of `exec`, a container's init, a
/// network's resolver. They come before everything else a
/// program does at its start, because they must stay small and single-threaded.
pub fn play_role(args: &[String]) -> Option<ExitCode> {
    let (role, rest) = args.get(1..)?.split_first()?;
    match role.as_str() {
        "shim" => Some(shim::main(rest)),
        "shim-restart" => Some(restart::main(rest)),
        "exec-helper" => Some(exec::main(rest)),
        "init" => Some(init::main(rest)),
        "resolver" => Some(network::resolver::main(rest)),
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
            networks: Networks::open(&layout, images.database())?,
            images,
            started: Mutex::default(),
            layout,
        })
    }

    /// As [`Self::open`], when the next thing is to start a container: what the kernel needs long
    /// for begins at once.
    pub fn open_to_run(root: &Path) -> Result<Self> {
        cgroup::expect_move();
        Self::open(root)
    }

    /// The images its containers are made from.
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// Makes a network for containers; its id.
    pub fn create_network(&self, name: &str, options: &NetworkOptions) -> Result<String> {
        self.networks.create(name, options)
    }

    /// Every network that was made, and the default one once a container was in it.
    pub fn networks(&self) -> Result<Vec<NetworkInfo>> {
        self.networks.list()
    }

    /// What networks need of this host, and what may stand in their way.
    pub fn network_facts(&self) -> Result<NetworkFacts> {
        self.networks.facts()
    }

    /// Removes a network that no running container is in; its name.
    pub fn remove_network(&self, name: &str) -> Result<String> {
        self.networks.remove(name)
    }

    /// What a container is and does. A run whose shim was killed is ended here.
    fn observe(&self, entry: &Entry) -> Result<Container> {
        let mut container = self.observe_process(entry)?;
        if container.init_pid.is_some() && matches!(entry.config.network, Network::Named(_)) {
            container.endpoints = self.networks.endpoints_of(&entry.id)?;
        }
        Ok(container)
    }

    /// The same without its places in networks.
    fn observe_process(&self, entry: &Entry) -> Result<Container> {
        let directory = self.layout.container(&entry.id);
        let mut status = Status::open(&directory)?;
        // The lock first: a shim records the end before it lets go.
        let is_locked = status.is_locked()?;
        let mut now = status.now()?;
        if !is_locked && now.phase.is_unfinished() {
            self.end_orphan(entry, &directory, &mut status)?;
            now = status.now()?;
        }
        let state = state_of(&entry.id, &now.phase);
        let is_up = matches!(state, State::Running | State::Paused);
        Ok(Container {
            id: entry.id.clone(),
            name: entry.name.clone(),
            engine: KIND,
            revision: entry.config.revision(),
            config: entry.config.clone(),
            init_pid: now.started.filter(|_| is_up).map(|(init, _, _)| init.pid),
            created_at: entry.created_at,
            started_at: now.started.map(|(_, _, at)| at),
            endpoints: Vec::new(),
            restarts: now.restarts,
            health: is_up
                .then(|| health_of(&entry.config, &directory, &now))
                .flatten(),
            state,
        })
    }

    /// Ends a run that nobody supervises any more: its shim, or the command that started it, was
    /// killed.
    fn end_orphan(&self, entry: &Entry, directory: &Directory, status: &mut Status) -> Result<()> {
        if !status.try_lock()? {
            // Another command is at it, or it is being started again.
            return Ok(());
        }
        let now = status.now()?;
        let error = |text: &str| Some(text.to_owned());
        let (code, error) = match now.phase {
            Phase::Starting(_) | Phase::StartingAgain(_) => {
                (125, error("its start was interrupted"))
            }
            Phase::Up => (137, error("its shim was killed; the container was ended")),
            Phase::Waiting(ended, _) => (
                ended.code,
                error("what was to start it again was killed while it waited"),
            ),
            Phase::Created | Phase::Ended(_) => return Ok(()),
        };
        clear_run(&entry.id, directory)?;
        if matches!(entry.config.network, Network::Named(_)) {
            self.networks.release(&entry.id)?;
        }
        status.append(&Record::Ended(ExitStatus {
            code,
            oom_killed: false,
            error,
            finished_at: Timestamp::now(),
        }))?;
        self.tell(entry, "die", &[("exit_code", &code.to_string())]);
        Ok(())
    }

    /// Adds to the journal.
    fn tell(&self, entry: &Entry, action: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        journal::record(
            self.layout.root(),
            &Event {
                time: Timestamp::now(),
                kind: "container".to_owned(),
                action: action.to_owned(),
                id: entry.id.as_str().to_owned(),
                name: entry.name.as_str().to_owned(),
                image: entry.config.image_name.clone(),
                attributes,
            },
        );
    }

    /// Hands on what happened to containers, oldest first; with `follow`, goes on.
    pub fn events(
        &self,
        options: &EventOptions,
        each: &mut dyn FnMut(&Event) -> bool,
    ) -> Result<()> {
        journal::read(self.layout.root(), options, each)
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
        let started = status.now()?.started;
        Ok(started.map(|(init, shim, _)| (init, shim)))
    }

    /// Records that somebody wants the container to end, so that no policy starts it again.
    fn request_stop(&self, id: &ContainerId) -> Result<()> {
        Status::open(&self.layout.container(id))?.append(&Record::StopRequested)
    }

    /// Ends the wait of a container that was to be started again.
    fn stop_waiting(&self, id: &ContainerId) -> Result<ExitStatus> {
        let failed = |source: std::io::Error| EngineError::Runtime {
            action: "keep the container from being started again",
            reason: source.to_string(),
        };
        let entry = self.registry.get(id)?;
        let mut status = Status::open(&self.layout.container(id))?;
        loop {
            match status.now()?.phase {
                Phase::Waiting(_, shim) => {
                    if let Some(process) = shim.open().map_err(failed)? {
                        send_signal(process.as_fd(), SIGTERM).map_err(failed)?;
                        wait_for_end(process.as_fd(), Duration::from_secs(1)).map_err(failed)?;
                    }
                    self.observe(&entry)?;
                }
                Phase::Starting(_) | Phase::StartingAgain(_) => {
                    self.observe(&entry)?;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Phase::Ended(ended) => return Ok(ended),
                // It was started just before it heard.
                Phase::Created | Phase::Up => {
                    return self.stop(id, Duration::from_secs(10));
                }
            }
        }
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

    /// Ends one for a shutdown: nothing waits to start it again, and nothing says that it was not
    /// wanted.
    fn shut_down_one(&self, container: &Container, timeout: Duration) -> Result<()> {
        let id = &container.id;
        let was_wanted = !Status::open(&self.layout.container(id))?
            .now()?
            .is_stop_requested;
        self.stop(id, timeout)?;
        if was_wanted {
            Status::open(&self.layout.container(id))?.append(&Record::WantedAgain)?;
        }
        Ok(())
    }

    /// Sends a signal, and after `timeout` `SIGKILL`.
    fn end(&self, id: &ContainerId, signal: i32, timeout: Duration) -> Result<ExitStatus> {
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

    /// Removes a container that is not running from the registry and from disk.
    fn discard(&self, id: &ContainerId) -> Result<()> {
        let entry = self.registry.get(id);
        self.registry.delete(id)?;
        self.discard_files(id)?;
        if let Ok(entry) = &entry {
            self.tell(entry, "destroy", &[]);
        }
        let volumes = entry.map(|entry| entry.config.mounts);
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
        let mut endpoints = self.networks.endpoints()?;
        if !endpoints.is_empty() {
            // A listing must not fail for want of a resolver.
            self.networks.mend().ok();
        }
        let mut containers = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.observe_process(&entry) {
                Ok(mut container) => {
                    if container.init_pid.is_some() {
                        container.endpoints = endpoints.remove(&entry.id).unwrap_or_default();
                    }
                    containers.push(container);
                }
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
        if let Network::Named(network) = &config.network {
            self.networks.require(network)?;
        }
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
        self.tell(&entry, "create", &[]);
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
        let policy = self.registry.get(id).map(|entry| entry.config.restart);
        let is_started_again = policy.is_ok_and(|policy| !policy.is_no());
        let mut waited_for = None;
        loop {
            let records = status.records()?;
            let now = Now::of(&records);
            let run = waited_for.get_or_insert(now.started);
            if let Some(ended) = ended_after(&records, *run) {
                return Ok(ended);
            }
            // With a policy the shim lives on, to start it again.
            let process = now
                .started
                .map(|(init, shim, _)| if is_started_again { init } else { shim });
            if let Some(process) = process.and_then(|process| process.open().ok().flatten()) {
                wait_for_end(process.as_fd(), Duration::from_hours(1)).map_err(|source| {
                    EngineError::Runtime {
                        action: "wait for the container",
                        reason: source.to_string(),
                    }
                })?;
            }
            if let Some(ended) = ended_after(&status.records()?, *run) {
                return Ok(ended);
            }
            if now.started.is_none() {
                *run = None;
            }
            // Never started, just starting, or its shim was killed: looking ends that one.
            if let State::Exited(ended) = self.observe(&self.registry.get(id)?)?.state {
                return Ok(ended);
            }
            std::thread::sleep(if is_started_again {
                Duration::from_millis(2)
            } else {
                Duration::from_millis(20)
            });
        }
    }

    fn kill(&self, id: &ContainerId, signal: i32) -> Result<()> {
        let (entry, _) = self.up(id)?;
        if signal == SIGKILL || signal == signal_number(&entry.config.stop_signal) {
            self.request_stop(id)?;
        }
        self.signal(id, signal)?;
        self.tell(&entry, "kill", &[("signal", &signal.to_string())]);
        if signal == SIGKILL && Group::of(id).is_frozen() {
            // A frozen process of a v1 group dies only once it is thawed.
            Group::of(id).thaw()?;
        }
        Ok(())
    }

    fn stop(&self, id: &ContainerId, timeout: Duration) -> Result<ExitStatus> {
        let entry = self.registry.get(id)?;
        self.stop_with(id, signal_number(&entry.config.stop_signal), timeout)
    }

    fn stop_with(&self, id: &ContainerId, signal: i32, timeout: Duration) -> Result<ExitStatus> {
        let entry = self.registry.get(id)?;
        if matches!(self.observe(&entry)?.state, State::Restarting(_)) {
            self.request_stop(id)?;
            return self.stop_waiting(id);
        }
        let (entry, _) = self.up(id)?;
        self.request_stop(id)?;
        let ended = self.end(id, signal, timeout)?;
        self.tell(&entry, "stop", &[]);
        Ok(ended)
    }

    fn pause(&self, id: &ContainerId) -> Result<()> {
        let (entry, container) = self.up(id)?;
        match container.state {
            State::Paused => return Err(wrong_state(&entry.name, &container.state, "running")),
            _ => Group::of(id).freeze().or_else(|error| {
                // It may have ended just now, and its group with it.
                self.up(id).and(Err(error))
            })?,
        }
        self.tell(&entry, "pause", &[]);
        Ok(())
    }

    fn resume(&self, id: &ContainerId) -> Result<()> {
        let (entry, container) = self.up(id)?;
        match container.state {
            State::Paused => Group::of(id).thaw()?,
            state => return Err(wrong_state(&entry.name, &state, "paused")),
        }
        self.tell(&entry, "unpause", &[]);
        Ok(())
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
            (State::Running, Some(init)) => {
                let program = exec.args.first().map_or("", String::as_str);
                self.tell(&entry, "exec_start", &[("program", program)]);
                let code = self.exec_in(&entry, init, exec)?;
                self.tell(&entry, "exec_die", &[("exit_code", &code.to_string())]);
                Ok(code)
            }
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

    fn open_files(&self, id: &ContainerId) -> Result<Files> {
        let entry = self.registry.get(id)?;
        let container = self.observe(&entry)?;
        if let (Some(init), Some((identity, _))) = (container.init_pid, self.run_of(id)?)
            && identity.pid == init
        {
            let files = Files::of_running(init)?;
            // Opened while it was still the same process.
            return match identity.open() {
                Ok(Some(_)) => Ok(files),
                _ => self.open_files(id),
            };
        }
        let directory = self.layout.container(id);
        // Nobody starts it while its root is mounted here.
        let claim = start::claim(self, &entry, &directory)?;
        let handle = claim.handle().try_clone_to_owned();
        Ok(Files {
            root: root::mount(&self.images, &directory, &entry.config, None)?,
            hidden: spec::mounted_on(&entry.config),
            is_read_only: !entry.config.writable,
            // Its files have the ids they have inside.
            first: 0,
            _claim: Some(
                handle.map_err(|error| EngineError::io("lock", &directory.status(), error))?,
            ),
        })
    }

    fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<()> {
        let old = self.registry.get(id)?;
        self.registry.rename(id, name)?;
        let entry = Entry {
            name: name.clone(),
            ..old.clone()
        };
        self.tell(&entry, "rename", &[("old_name", old.name.as_str())]);
        Ok(())
    }

    fn set_aliases(&self, id: &ContainerId, aliases: &[String]) -> Result<()> {
        self.networks.set_aliases(id, aliases)
    }

    fn update(&self, id: &ContainerId, update: &Update) -> Result<()> {
        update::update(self, id, update)
    }

    fn attach(&self, id: &ContainerId, attachment: &Attachment) -> Result<Attached> {
        let (_, container) = self.up(id)?;
        let directory = self.layout.container(&container.id);
        attach::attach(&directory, &container, attachment)
    }

    fn boot(&self) -> Result<Vec<(Container, Result<()>)>> {
        boot::start_all(self)
    }

    fn shut_down(&self, timeout: Duration) -> Result<Vec<(Container, Result<()>)>> {
        boot::end_all(self, timeout)
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
        } else if matches!(state, State::Restarting(_)) {
            if !force {
                return Err(wrong_state(&entry.name, &state, "stopped"));
            }
            self.stop(id, Duration::ZERO)?;
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

/// The state that a phase means, and whether the kernel has frozen it.
fn state_of(id: &ContainerId, phase: &Phase) -> State {
    match phase {
        Phase::Created | Phase::Starting(None) => State::Created,
        Phase::Starting(Some(ended)) | Phase::Ended(ended) => State::Exited(ended.clone()),
        Phase::Waiting(ended, _) | Phase::StartingAgain(ended) => State::Restarting(ended.clone()),
        Phase::Up if Group::of(id).is_frozen() => State::Paused,
        Phase::Up => State::Running,
    }
}

/// How the run that began so ended; `None` while it has not. Without a run, how the container is.
fn ended_after(records: &[Record], run: Option<Run>) -> Option<ExitStatus> {
    let Some((_, _, began)) = run else {
        return match records.last() {
            Some(Record::Ended(ended)) => Some(ended.clone()),
            _ => None,
        };
    };
    records
        .iter()
        .skip_while(|record| !matches!(record, Record::Started { at, .. } if *at == began))
        .find_map(|record| match record {
            Record::Ended(ended) => Some(ended.clone()),
            _ => None,
        })
}

/// What the health check says: the verdict from the records, the checks from the file beside them.
fn health_of(config: &ContainerConfig, directory: &Directory, now: &Now) -> Option<Health> {
    config.health.as_ref()?;
    let status = now.health.unwrap_or(HealthStatus::Starting);
    let mut health = shim::health::read(directory).unwrap_or(Health {
        status,
        failing_streak: 0,
        log: Vec::new(),
    });
    health.status = status;
    Some(health)
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
        State::Restarting(_) => "waiting to be started again",
    }
}

fn wrong_state(name: &ContainerName, state: &State, needed: &'static str) -> EngineError {
    EngineError::WrongState {
        name: name.as_str().to_owned(),
        actual: state_name(state),
        needed,
    }
}
