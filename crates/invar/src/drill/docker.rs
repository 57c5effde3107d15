//! The live part of the drill once more, on the Docker engine of this machine when there is one that
//! Invar can protect.
//!
//! The user's containers are on that engine too: the agent of the drill observes all, and responds
//! only for the container that has the drill's name.

use anyhow::Context as _;
use fs_err as fs;
use invar_engine::docker::DockerEngine;
use invar_engine::{ContainerName, Engine, EngineError};

use super::report::Step;
use super::response::{self, Agency};
use super::site::Site;
use super::stage::Stage;
use super::target::Target;

/// Attacks a container of Docker, and has an agent respond; or says why not.
pub(super) fn check(stage: &Stage, target: &Target, step: &mut Step) -> anyhow::Result<()> {
    stage.go_on()?;
    let found = DockerEngine::docker().and_then(|engine| match engine {
        // A socket that nobody answers on is as good as none.
        Some(engine) => engine.list().map(|_| Some(engine)),
        None => Ok(None),
    });
    let engine = match found {
        Ok(Some(engine)) => engine,
        Ok(None) => {
            skip(step, "there is no Docker on this machine");
            return Ok(());
        }
        Err(error) => {
            skip(step, &error.to_string());
            return Ok(());
        }
    };
    let name = stage.name();
    let guests = Guests {
        engine: &engine,
        name: &name,
    };
    let played = play(stage, target, &guests, step);
    let left = guests.clear();
    played?;
    left.context("could not clear away what the drill has put on Docker")?;
    step.claim(
        guests.containers()?.is_empty() && engine.image(&name).is_err(),
        "no container and no image stays on Docker",
    );
    Ok(())
}

fn skip(step: &mut Step, why: &str) {
    step.show(&format!("not drilled: {why}"));
}

fn play(
    stage: &Stage,
    target: &Target,
    guests: &Guests<'_>,
    step: &mut Step,
) -> anyhow::Result<()> {
    let (engine, name) = (guests.engine, guests.name);
    load(stage, engine, name)?;
    let mut config = target.config(stage.images(), true)?;
    name.clone_into(&mut config.image);
    let id = engine.create(&ContainerName::parse(name)?, &config)?;
    if let Err(error @ EngineError::Unsupported { .. }) = engine.open_root(&id) {
        skip(step, &error.to_string());
        return Ok(());
    }
    let site = Site::start(engine, id, target)?;
    step.claim(
        site.serves(target.page_content()),
        format!("{name} serves the page as built"),
    );
    let policy = format!(
        "version = 1\n[alerts]\nstdout = false\n\
         [[container]]\nengine = \"docker\"\nname = \"{name}\"\n\
         mode = \"block\"\nrespond = \"replace\"\n"
    );
    let agency = Agency {
        kind: "docker",
        policy: &policy,
    };
    response::check(stage, target, &site, &agency, step)
}

/// Gives Docker the image under a name of its own: `target` may be one of the user's.
fn load(stage: &Stage, engine: &DockerEngine, name: &str) -> anyhow::Result<()> {
    let archive = stage.root().join("docker.tar");
    let mut image = Target::image(stage.images())?;
    image.names = vec![format!("{name}:latest")];
    stage.images().save(&image, fs::File::create(&archive)?)?;
    engine.load_image(fs::File::open(&archive)?.into_parts().0)?;
    fs::remove_file(&archive)?;
    Ok(())
}

/// What the drill has put on the user's engine; gone when this is dropped.
struct Guests<'e> {
    engine: &'e DockerEngine,
    name: &'e str,
}

impl Guests<'_> {
    /// Also one that is about to take the place of another, and has not its name yet.
    fn containers(&self) -> Result<Vec<invar_engine::ContainerId>, EngineError> {
        let all = self.engine.list()?.into_iter();
        let own = all.filter(|one| one.config.image_name.starts_with(self.name));
        Ok(own.map(|one| one.id).collect())
    }

    fn clear(&self) -> Result<(), EngineError> {
        for id in self.containers()? {
            self.engine.remove(&id, true)?;
        }
        match self.engine.remove_image(self.name) {
            Err(EngineError::NotFound { .. }) => Ok(()),
            removed => removed,
        }
    }
}

impl Drop for Guests<'_> {
    fn drop(&mut self) {
        // After an orderly end there is nothing left.
        self.clear().ok();
    }
}
