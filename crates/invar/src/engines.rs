//! Which engine a name belongs to: `docker:web`, `podman:web`, `embedded:web`; a bare name is
//! looked up in every engine there is and refused when several have it.

use std::path::Path;

use invar_engine::docker::DockerEngine;
use invar_engine::embedded::{self, EmbeddedEngine};
use invar_engine::{Container, Engine, EngineError};

use crate::{exit, printer};

/// An engine by the name users give it.
type Opener = (
    &'static str,
    fn(&Path) -> Result<Option<Box<dyn Engine>>, EngineError>,
);

const ENGINES: &[Opener] = &[
    (embedded::KIND, |root| {
        EmbeddedEngine::open(root).map(|engine| Some(boxed(engine)))
    }),
    ("docker", |_| Ok(DockerEngine::docker()?.map(boxed))),
    ("podman", |_| Ok(DockerEngine::podman()?.map(boxed))),
];

fn boxed(engine: impl Engine + 'static) -> Box<dyn Engine> {
    Box::new(engine)
}

/// A container and the engine that has it.
pub(crate) struct Found {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) container: Container,
}

/// Finds a container by name, id or id prefix, with or without its engine's name before a colon.
pub(crate) fn find(root: &Path, asked: &str) -> anyhow::Result<Found> {
    if let Some((kind, name)) = asked.split_once(':') {
        let engine = open(root, kind)?;
        let container = engine.inspect(name)?;
        return Ok(Found { engine, container });
    }
    let mut found = Vec::new();
    let mut unreachable = None;
    for (_, open) in ENGINES {
        let engine = match open(root) {
            Ok(Some(engine)) => engine,
            Ok(None) => continue,
            Err(error) => {
                unreachable.get_or_insert(error);
                continue;
            }
        };
        match engine.inspect(asked) {
            Ok(container) => found.push(Found { engine, container }),
            Err(EngineError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if found.len() > 1 {
        let names: Vec<String> = found
            .iter()
            .map(|found| format!("{}:{asked}", found.engine.kind()))
            .collect();
        return Err(exit::failure(
            format!("several engines have a container {asked:?}"),
            format!("say which one: {}", names.join(" or ")),
        ));
    }
    match (found.pop(), unreachable) {
        (Some(found), _) => Ok(found),
        // It may be in the engine that did not answer.
        (None, Some(error)) => Err(error.into()),
        (None, None) => Err(EngineError::NotFound {
            name: asked.to_owned(),
        }
        .into()),
    }
}

/// Every container of every engine that answers, each engine's newest first.
pub(crate) fn list(root: &Path) -> Vec<Container> {
    let mut containers = Vec::new();
    for (name, open) in ENGINES {
        let listed = open(root).and_then(|engine| match engine {
            Some(engine) => engine.list(),
            None => Ok(Vec::new()),
        });
        match listed {
            Ok(listed) => containers.extend(listed),
            Err(error) => printer::note(format!("the containers of {name} are missing: {error}")),
        }
    }
    containers
}

/// Every engine that answers, with its containers. Those that do not are told of only when asked.
pub(crate) fn all(root: &Path, tell: bool) -> Vec<(Box<dyn Engine>, Vec<Container>)> {
    let mut engines = Vec::new();
    for (name, open) in ENGINES {
        let listed = open(root).and_then(|engine| match engine {
            Some(engine) => engine.list().map(|containers| Some((engine, containers))),
            None => Ok(None),
        });
        match listed {
            Ok(listed) => engines.extend(listed),
            Err(error) if tell => {
                printer::note(format!("the containers of {name} are missing: {error}"));
            }
            Err(_) => {}
        }
    }
    engines
}

/// The names of the engines there can be.
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    ENGINES.iter().map(|(name, _)| *name)
}

/// The engine of this name; `None` when it is not on this machine.
pub(crate) fn try_open(root: &Path, kind: &str) -> Result<Option<Box<dyn Engine>>, EngineError> {
    let known = ENGINES.iter().find(|(name, _)| *name == kind);
    known.map_or(Ok(None), |(_, open)| open(root))
}

/// The engine of this name.
pub(crate) fn open(root: &Path, kind: &str) -> anyhow::Result<Box<dyn Engine>> {
    let Some((_, open)) = ENGINES.iter().find(|(name, _)| *name == kind) else {
        let known: Vec<&str> = ENGINES.iter().map(|(name, _)| *name).collect();
        return Err(exit::failure(
            format!("there is no engine {kind:?}"),
            format!("the engines are: {}", known.join(", ")),
        ));
    };
    open(root)?.ok_or_else(|| {
        exit::failure(
            format!("{kind} was not found on this machine"),
            format!(
                "start it, or name its address in the environment ({})",
                address(kind)
            ),
        )
    })
}

fn address(kind: &str) -> &'static str {
    match kind {
        "podman" => "CONTAINER_HOST",
        _ => "DOCKER_HOST",
    }
}
