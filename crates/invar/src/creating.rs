//! Makes a container of an image: what `run`, `create` and the drill have in common.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use fs_err as fs;
use invar_engine::embedded::EmbeddedEngine;
use invar_engine::{ContainerConfig, ContainerId, ContainerName, Engine, EngineError, Network};
use invar_image::{Config, Image, ImageError, ImageStore, Reference};

use crate::commands::pull::pull;
use crate::container_config::{self, Host, ImageHealth, ImageSettings, Options, PullPolicy};
use crate::exit::Advise as _;
use crate::registries::{RegistryFlags, Show};
use crate::{names, printer};

/// Random names to try before one with digits, which is as good as unique.
const ATTEMPTS: usize = 8;

/// What comes after the flags. One list, so that everything after the image belongs to the program
/// even when it looks like a flag.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageAndProgram {
    /// Image by name or id; then the program and its arguments, instead of the image's own
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    words: Vec<String>,
}

impl ImageAndProgram {
    fn split(&self) -> (&str, &[String]) {
        self.words
            .split_first()
            .map_or(("", &[]), |(image, program)| (image, program))
    }
}

/// What an image says and what the flags ask for, as one configuration.
pub(crate) fn configure(
    images: &ImageStore,
    program: &ImageAndProgram,
    options: &Options,
) -> anyhow::Result<ContainerConfig> {
    let (image, command) = program.split();
    let found = find(images, image, options.pull)?;
    let none = Config::default();
    let settings = ImageSettings {
        id: found.id.as_str(),
        name: image,
        config: found.config.config().as_ref().unwrap_or(&none),
        health: ImageHealth::of(&images.raw_config(&found.id)?),
    };
    let resolved = container_config::resolve(options, command, &settings, &Host::here()?)?;
    tell_of_network(options, &resolved);
    Ok(resolved)
}

/// Says what is different from what a user of Docker expects.
fn tell_of_network(options: &Options, config: &ContainerConfig) {
    if options.network.is_none() && config.network == Network::None {
        printer::note(
            "the container has no network, for this host lacks the program nft; install the \
             package nftables, or say --network none",
        );
    }
    let publishes = options.publish_all || !options.publish.is_empty();
    if publishes && config.network == Network::Host {
        printer::note("--publish does nothing with --network host: its ports are the host's");
    }
}

/// Names the chain of somebody's firewall that keeps published ports closed. Asking takes some
/// milliseconds, so only who publishes is told.
pub(crate) fn tell_of_firewall(engine: &EmbeddedEngine) {
    // What cannot be asked is no reason not to start.
    let Ok(facts) = engine.network_facts() else {
        return;
    };
    if let Some(chain) = facts.others.iter().find(|chain| chain.is_in_the_way()) {
        let place = format!("{} {} {}", chain.family, chain.table, chain.chain);
        let place = printer::escape(place.as_bytes()).into_owned();
        printer::note(format!(
            "other machines and networks may not be reached, nor reach published ports: the \
             chain {place} of this host's firewall drops what it does not know"
        ));
        printer::hint(&format!(
            "let the bridges pass: nft insert rule {place} 'iifname \"invar*\" accept'; \
             nft insert rule {place} 'oifname \"invar*\" accept'"
        ));
    }
}

/// The image, from its registry when that is asked for or needed.
fn find(images: &ImageStore, name: &str, policy: PullPolicy) -> anyhow::Result<Image> {
    let here = images.resolve(name);
    match (policy, here) {
        (PullPolicy::Always, _) | (PullPolicy::Missing, Err(ImageError::NotFound { .. })) => {
            let reference = Reference::parse(name)?;
            let flags = RegistryFlags::default();
            Ok(pull(images, &reference, None, &flags, Show::Progress)?.image)
        }
        (_, here) => Ok(here?),
    }
}

/// Makes the container under the name asked for, or under a free random one.
pub(crate) fn create(
    engine: &dyn Engine,
    options: &Options,
    config: &ContainerConfig,
) -> anyhow::Result<ContainerId> {
    let id_file = options.cidfile.as_deref().map(IdFile::new).transpose()?;
    let id = match &options.name {
        Some(name) => engine.create(&ContainerName::parse(name)?, config)?,
        None => create_with_any_name(engine, config)?,
    };
    if let Some(file) = id_file {
        file.write(&id)?;
    }
    Ok(id)
}

fn create_with_any_name(
    engine: &dyn Engine,
    config: &ContainerConfig,
) -> Result<ContainerId, EngineError> {
    for _ in 0..ATTEMPTS {
        match engine.create(&ContainerName::parse(&names::random())?, config) {
            Err(EngineError::NameTaken { .. }) => {}
            outcome => return outcome,
        }
    }
    let name = format!("{}_{:08x}", names::random(), rand::random::<u32>());
    engine.create(&ContainerName::parse(&name)?, config)
}

/// The file of `--cidfile`: reserved before there is a container, gone when there is none.
struct IdFile<'a> {
    path: &'a Path,
    file: fs::File,
    is_written: bool,
}

impl<'a> IdFile<'a> {
    fn new(path: &'a Path) -> anyhow::Result<Self> {
        let created = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path);
        let file = match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error)
                .context("--cidfile")
                .hint("it may belong to a running container; name another file, or remove it"),
            other => other.context("--cidfile"),
        }?;
        Ok(Self {
            path,
            file,
            is_written: false,
        })
    }

    /// Without a newline, as scripts of Docker expect it.
    fn write(mut self, id: &ContainerId) -> anyhow::Result<()> {
        self.file.write_all(id.as_str().as_bytes())?;
        self.is_written = true;
        Ok(())
    }
}

impl Drop for IdFile<'_> {
    fn drop(&mut self) {
        if !self.is_written {
            // It holds nothing, and there is no better place to tell of it than the error itself.
            fs::remove_file(self.path).ok();
        }
    }
}
