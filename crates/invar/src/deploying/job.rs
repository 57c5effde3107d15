//! A service that others wait for to *complete*: it runs to its end before they begin.

use anyhow::{Context as _, bail};
use invar_engine::{ContainerName, Engine, EngineError, Stdio};
use invar_rollout::Definition;

/// Runs a fresh container of the service; it must end with code 0.
pub(crate) fn run_to_its_end(
    engine: &dyn Engine,
    service: &str,
    definition: &Definition,
) -> anyhow::Result<()> {
    let name = ContainerName::parse(&format!("{}-job", service.replacen('.', "-", 1)))?;
    match engine.inspect(name.as_str()) {
        Ok(before) => engine.remove(&before.id, true)?,
        Err(EngineError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut config = definition.config.clone();
    config
        .labels
        .insert("invar.service".to_owned(), service.to_owned());
    let id = engine.create(&name, &config)?;
    engine
        .start(&id, Stdio::Detached)
        .with_context(|| format!("could not run {service}"))?;
    let ended = engine.wait(&id)?;
    if ended.code != 0 {
        bail!(
            "{service} ended with code {}; what depends on it was not deployed (see: invar logs {name})",
            ended.code
        );
    }
    Ok(())
}
