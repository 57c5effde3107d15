//! Docker and Podman through the Docker Engine API.
//!
//! ```text
//!  connect ── where the daemon listens          describe ── inspect answer → Container
//!  create  ── ContainerConfig → container
//!  root    ── overlay directories → RootFs       recreate ── same settings under another name
//! ```
//!
//! The daemon keeps the containers; nothing of them is stored by Invar. Each call blocks on one
//! request. What the API cannot give (the root of a remote daemon, say) is `Unsupported`, and the
//! error names what is lost.

mod connect;
mod create;
mod describe;
#[cfg(fuzzing)]
pub mod fuzzing;
mod networks;
mod processes;
mod recreate;
mod root;
mod streams;

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as ApiError;
use bollard::models::ChangeType;
use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    RenameContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use tokio::runtime::Runtime;

use crate::config::ContainerConfig;
use crate::container::{Container, ContainerId, ContainerName, ExitStatus, RootFs, State};
use crate::engine::{Engine, ExecConfig, LogOptions, LogStream, Stdio};
use crate::error::{EngineError, Result};

/// A daemon that speaks the Docker Engine API.
#[derive(Debug)]
pub struct DockerEngine {
    kind: &'static str,
    is_local: bool,
    docker: Docker,
    runtime: Runtime,
}

impl DockerEngine {
    /// Docker where the environment or the current context says; `None` when nobody named a daemon
    /// and the default socket is not there.
    pub fn docker() -> Result<Option<Self>> {
        Self::connect("docker", &connect::Environment::read().docker()?)
    }

    /// Podman's Docker-compatible API, likewise.
    pub fn podman() -> Result<Option<Self>> {
        Self::connect("podman", &connect::Environment::read().podman())
    }

    fn connect(kind: &'static str, endpoint: &connect::Endpoint) -> Result<Option<Self>> {
        if !endpoint.is_present() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed("start the client of", &error.to_string()))?;
        let announced = endpoint.announced_version();
        let docker = {
            let _guard = runtime.enter();
            endpoint.connect(announced.as_ref().unwrap_or(bollard::API_DEFAULT_VERSION))?
        };
        let docker = if announced.is_some() {
            docker
        } else {
            let negotiated = runtime.block_on(docker.negotiate_version());
            negotiated.map_err(|error| failed("reach", &format!("{kind}: {error}")))?
        };
        Ok(Some(Self {
            kind,
            is_local: endpoint.is_local(),
            docker,
            runtime,
        }))
    }

    /// The id of an image and its configuration, as the OCI image specification writes it.
    pub fn image(&self, name: &str) -> Result<(String, serde_json::Value)> {
        let answer = self
            .runtime
            .block_on(self.docker.inspect_image(name))
            .map_err(|error| failed("find the image", &format!("{name:?}: {error}")))?;
        let config = serde_json::to_value(answer.config.unwrap_or_default())
            .map_err(|error| failed("read the image", &error.to_string()))?;
        Ok((answer.id.unwrap_or_default(), config))
    }

    /// Takes the images of an archive as `docker load` does.
    pub fn load_image(&self, archive: std::fs::File) -> Result<()> {
        streams::load_image(&self.runtime, &self.docker, archive)
    }

    /// Removes the name of an image, and the image with its last name.
    pub fn remove_image(&self, name: &str) -> Result<()> {
        let options = None::<bollard::query_parameters::RemoveImageOptions>;
        self.runtime
            .block_on(self.docker.remove_image(name, options, None))
            .map_err(|error| api_error(name, error))?;
        Ok(())
    }

    fn inspect_raw(&self, name: &str) -> Result<bollard::models::ContainerInspectResponse> {
        self.runtime
            .block_on(self.docker.inspect_container(name, None))
            .map_err(|error| api_error(name, error))
    }

    fn require_running(&self, id: &ContainerId) -> Result<Container> {
        let container = self.inspect(id.as_str())?;
        match container.state {
            State::Running | State::Paused => Ok(container),
            _ => Err(EngineError::WrongState {
                name: container.name.as_str().to_owned(),
                actual: "not running",
                needed: "running",
            }),
        }
    }
}

impl Engine for DockerEngine {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn list(&self) -> Result<Vec<Container>> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let listed = self
            .runtime
            .block_on(self.docker.list_containers(Some(options)))
            .map_err(|error| api_error("all", error))?;
        let mut containers = Vec::with_capacity(listed.len());
        for id in listed.into_iter().filter_map(|summary| summary.id) {
            match self.inspect(&id) {
                Ok(container) => containers.push(container),
                // Removed between the two requests.
                Err(EngineError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        Ok(containers)
    }

    fn inspect(&self, name_or_id: &str) -> Result<Container> {
        describe::container(self.kind, &self.inspect_raw(name_or_id)?)
    }

    fn settings(&self, id: &ContainerId) -> Result<serde_json::Value> {
        serde_json::to_value(self.inspect_raw(id.as_str())?)
            .map_err(|error| failed("read the settings of", &error.to_string()))
    }

    fn create(&self, name: &ContainerName, config: &ContainerConfig) -> Result<ContainerId> {
        create::create(&self.runtime, &self.docker, name, config)
    }

    fn recreate(&self, id: &ContainerId, name: &ContainerName) -> Result<ContainerId> {
        let old = self.inspect_raw(id.as_str())?;
        recreate::recreate(&self.runtime, &self.docker, old, name)
    }

    fn start(&self, id: &ContainerId, _stdio: Stdio) -> Result<()> {
        self.runtime
            .block_on(self.docker.start_container(id.as_str(), None))
            .map_err(|error| api_error(id.short(), error))
    }

    fn terminal_resized(&self, _id: &ContainerId) -> Result<()> {
        Err(EngineError::Unsupported {
            what: "resizing the terminal".to_owned(),
            reason: format!("{} was not asked to attach one", self.kind),
        })
    }

    fn wait(&self, id: &ContainerId) -> Result<ExitStatus> {
        streams::wait(&self.runtime, &self.docker, id)?;
        match self.inspect(id.as_str())?.state {
            State::Exited(status) => Ok(status),
            _ => Err(failed(
                "wait for",
                "the daemon says it ended and also that it has not",
            )),
        }
    }

    fn kill(&self, id: &ContainerId, signal: i32) -> Result<()> {
        let options = KillContainerOptionsBuilder::default()
            .signal(&signal.to_string())
            .build();
        self.runtime
            .block_on(self.docker.kill_container(id.as_str(), Some(options)))
            .map_err(|error| api_error(id.short(), error))
    }

    fn stop(&self, id: &ContainerId, timeout: Duration) -> Result<ExitStatus> {
        let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        self.runtime
            .block_on(self.docker.stop_container(id.as_str(), Some(options)))
            .map_err(|error| api_error(id.short(), error))?;
        self.wait(id)
    }

    fn pause(&self, id: &ContainerId) -> Result<()> {
        self.runtime
            .block_on(self.docker.pause_container(id.as_str()))
            .map_err(|error| api_error(id.short(), error))
    }

    fn resume(&self, id: &ContainerId) -> Result<()> {
        self.runtime
            .block_on(self.docker.unpause_container(id.as_str()))
            .map_err(|error| api_error(id.short(), error))
    }

    fn processes(&self, id: &ContainerId) -> Result<Vec<u32>> {
        let container = self.require_running(id)?;
        let init = container
            .init_pid
            .ok_or_else(|| failed("list the processes of", "no pid"))?;
        processes::of_container(init)
    }

    fn exec(&self, id: &ContainerId, exec: &ExecConfig) -> Result<u8> {
        self.require_running(id)?;
        streams::exec(&self.runtime, &self.docker, id, exec)
    }

    fn logs(
        &self,
        id: &ContainerId,
        options: &LogOptions,
        each: &mut dyn FnMut(LogStream, &[u8]) -> bool,
    ) -> Result<()> {
        streams::logs(&self.runtime, &self.docker, id, options, each)
    }

    fn open_root(&self, id: &ContainerId) -> Result<RootFs> {
        let answer = self.inspect_raw(id.as_str())?;
        let name = answer
            .name
            .as_deref()
            .unwrap_or_default()
            .trim_start_matches('/');
        if !self.is_local {
            return Err(EngineError::Unsupported {
                what: format!("reading the root of {name:?} directly"),
                reason: "its daemon runs on another machine; run invar there".to_owned(),
            });
        }
        let driver = answer.graph_driver.unwrap_or_default();
        root::open(name, &driver.name, &driver.data)
    }

    fn reported_changes(&self, id: &ContainerId) -> Result<Option<Vec<(char, String)>>> {
        let changes = self
            .runtime
            .block_on(self.docker.container_changes(id.as_str()))
            .map_err(|error| api_error(id.short(), error))?;
        let letter = |kind| match kind {
            ChangeType::_0 => 'C',
            ChangeType::_1 => 'A',
            ChangeType::_2 => 'D',
        };
        let changes = changes.unwrap_or_default().into_iter();
        Ok(Some(
            changes
                .map(|change| (letter(change.kind), change.path))
                .collect(),
        ))
    }

    fn is_rootless(&self) -> Result<bool> {
        let info = self
            .runtime
            .block_on(self.docker.info())
            .map_err(|error| api_error("its settings", error))?;
        let options = info.security_options.unwrap_or_default();
        Ok(options.iter().any(|option| option.contains("rootless")))
    }

    fn save_image(&self, image: &str, output: &mut dyn std::io::Write) -> Result<()> {
        streams::save_image(&self.runtime, &self.docker, image, output)
    }

    fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<()> {
        let options = RenameContainerOptionsBuilder::default()
            .name(name.as_str())
            .build();
        self.runtime
            .block_on(self.docker.rename_container(id.as_str(), options))
            .map_err(|error| api_error(id.short(), error))
    }

    fn remove(&self, id: &ContainerId, force: bool) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(force)
            .build();
        self.runtime
            .block_on(self.docker.remove_container(id.as_str(), Some(options)))
            .map_err(|error| api_error(id.short(), error))
    }
}

fn failed(action: &'static str, reason: &str) -> EngineError {
    EngineError::Runtime {
        action,
        reason: reason.to_owned(),
    }
}

/// The daemon's status codes in our terms.
fn api_error(name: &str, error: ApiError) -> EngineError {
    match error {
        ApiError::DockerResponseServerError {
            status_code: 404, ..
        } => EngineError::NotFound {
            name: name.to_owned(),
        },
        ApiError::DockerResponseServerError { message, .. } => failed(
            "do that with the container",
            &format!("the daemon refused: {message}"),
        ),
        other => failed("talk to the container engine", &other.to_string()),
    }
}
