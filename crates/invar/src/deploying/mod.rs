//! What the commands of services share: from a compose file to definitions, and to a driver.
//!
//! ```text
//!  compose.yaml ──▶ Project ──translate──▶ Options of `invar run` ──▶ ContainerConfig ──▶ Definition
//! ```
//! A service is made by the rules of `invar run`, so both mean the same by the same words.

mod alarm;
mod job;
pub(crate) mod networks;
pub(crate) mod show;
mod translate;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use invar_engine::Engine;
use invar_engine::docker::DockerEngine;
use invar_engine::embedded::{self, EmbeddedEngine};
use invar_image::Config;
use invar_rollout::driver::{Driver, RolloutError, Store};

use crate::cli::Cli;
use crate::commands::gateway::CONTROL;
use crate::exit;

pub(crate) use job::run_to_its_end;
pub(crate) use translate::definition;

/// Where the gateway is.
#[derive(Debug, clap::Args)]
pub(crate) struct Gateway {
    /// The gateway's control socket
    #[arg(long, default_value = CONTROL, value_name = "SOCKET")]
    pub(crate) control: PathBuf,
}

/// Where a service's containers and images are.
pub(crate) struct Site {
    pub(crate) engine: Arc<dyn Engine>,
    images: Images,
}

/// Where images come from.
enum Images {
    Store(Arc<EmbeddedEngine>),
    Daemon(Arc<DockerEngine>),
}

impl Site {
    /// The engine of this name.
    pub(crate) fn open(root: &Path, kind: &str) -> anyhow::Result<Self> {
        let daemon = |engine: Option<DockerEngine>| {
            engine.map(Arc::new).ok_or_else(|| {
                exit::failure(format!("{kind} was not found on this machine"), "start it")
            })
        };
        let engine = match kind {
            "docker" => daemon(DockerEngine::docker()?)?,
            "podman" => daemon(DockerEngine::podman()?)?,
            embedded::KIND => {
                let engine = Arc::new(EmbeddedEngine::open(root)?);
                return Ok(Self {
                    images: Images::Store(Arc::clone(&engine)),
                    engine,
                });
            }
            _ => {
                return Err(exit::failure(
                    format!("there is no engine {kind:?}"),
                    "the engines are: embedded, docker, podman",
                ));
            }
        };
        Ok(Self {
            images: Images::Daemon(Arc::clone(&engine)),
            engine,
        })
    }

    /// The engine that is part of this program, if that is the one.
    pub(crate) fn embedded(&self) -> Option<&EmbeddedEngine> {
        match &self.images {
            Images::Store(engine) => Some(engine),
            Images::Daemon(_) => None,
        }
    }

    /// Digest and settings of an image.
    fn image(&self, name: &str) -> anyhow::Result<(String, Config)> {
        match &self.images {
            Images::Store(engine) => {
                let image = engine.images().resolve(name)?;
                let config = image.config.config().clone().unwrap_or_default();
                Ok((image.id.as_str().to_owned(), config))
            }
            Images::Daemon(engine) => {
                let (id, config) = engine.image(name)?;
                Ok((id, serde_json::from_value(config)?))
            }
        }
    }
}

/// A driver over a site and the gateway.
pub(crate) fn driver(cli: &Cli, gateway: &Gateway, site: &Site) -> anyhow::Result<Driver> {
    let store = Store::open(cli.root())?;
    let engine = Arc::clone(&site.engine);
    let root = cli.root().to_owned();
    let driver = Driver::new(store, engine, &gateway.control);
    Ok(driver.with_alarm(move || Some(alarm::changes(&root))))
}

/// A driver for a service that was deployed, and the service's whole name.
pub(crate) fn driver_of(
    cli: &Cli,
    gateway: &Gateway,
    asked: &str,
) -> anyhow::Result<(Driver, String)> {
    let store = Store::open(cli.root())?;
    let service = store.find(asked).map_err(advise)?;
    let engine = store.engine(&service)?;
    let site = Site::open(cli.root(), engine.as_deref().unwrap_or(embedded::KIND))?;
    Ok((driver(cli, gateway, &site)?, service))
}

/// Adds the next step to an error of a rollout.
pub(crate) fn advise(error: RolloutError) -> anyhow::Error {
    let next_step = match &error {
        RolloutError::Gateway { socket, .. } => {
            format!(
                "start a gateway: invar gateway --control {}",
                socket.display()
            )
        }
        RolloutError::Refused { .. } => {
            "see what listens there: ss -ltnp; then publish another port".to_owned()
        }
        RolloutError::UnknownService { .. } => "see which there are: invar status".to_owned(),
        RolloutError::Ambiguous { .. } => "say which one: PROJECT.SERVICE".to_owned(),
        RolloutError::NothingBefore { .. } => "deploy an earlier compose file instead".to_owned(),
        RolloutError::UnderWay { service } => {
            format!("wait for it, or end it first: invar abort {service}")
        }
        RolloutError::NotUnderWay { .. } => {
            "see where it stands: invar status; go back with: invar rollback".to_owned()
        }
        _ => return error.into(),
    };
    let message = anyhow::Error::from(error);
    exit::Advise::<()>::hint(Err::<(), _>(message), next_step).expect_err("an error stays one")
}
