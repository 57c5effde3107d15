//! What is attacked: an image made of this program alone, or the user's own.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use fs_err as fs;
use invar_engine::{ContainerConfig, ContainerName, Engine as _, Network};
use invar_image::{Config, Image, ImageStore, ImportOptions, Reference};
use rustix::fs::OFlags;

use super::Plan;
use super::report::Step;
use super::stage::Stage;
use crate::container_config::{self, Host, ImageSettings, Options};
use crate::exit::failure;

/// The image's name on the stage.
const NAME: &str = "target";
/// Where this program is in an image that does not have it.
const MOUNT_POINT: &str = "/.invar-drill";
/// A page of more is not served.
pub(super) const LARGEST_PAGE: u64 = 1 << 20;
/// Files that an image has, in the order in which they are taken as the page and as the file that
/// is deleted.
const VICTIMS: [&str; 6] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/os-release",
    "/usr/lib/os-release",
    "/etc/nsswitch.conf",
    "/etc/profile",
];
/// When the files of an image made here say they were built; any time in the past.
const BUILT_AT: u64 = 1_700_000_000;
const PAGE: (&str, &str) = ("/srv/index.html", "<h1>as built</h1>\n");
const MESSAGE: (&str, &str) = ("/etc/motd", "Nothing here changes.\n");

/// The image and where it is attacked.
pub(super) struct Target {
    program: String,
    volume: Option<String>,
    page: String,
    page_content: Vec<u8>,
    deleted: String,
}

impl Target {
    /// Puts the image on the stage.
    pub(super) fn prepare(plan: &Plan<'_>, stage: &Stage, step: &mut Step) -> anyhow::Result<Self> {
        let target = match plan.image {
            Some(name) => Self::of_user(plan.root, name, stage)?,
            None => Self::of_this_program(stage)?,
        };
        let image = stage.images().resolve(NAME)?;
        step.show(&format!(
            "image {}, {}",
            image.id,
            crate::printer::size(image.size)
        ));
        step.show(&format!("its page: {}", target.page));
        Ok(target)
    }

    fn of_this_program(stage: &Stage) -> anyhow::Result<Self> {
        let archive = stage.root().join("image.tar");
        write_archive(&archive).context("could not make an image of this program")?;
        let mut config = Config::default();
        config.set_entrypoint(Some(vec!["/invar".to_owned()]));
        let options = ImportOptions {
            config,
            ..ImportOptions::default()
        };
        let name = Reference::parse(NAME)?;
        stage
            .images()
            .import(&name, fs::File::open(&archive)?, &options)?;
        fs::remove_file(&archive)?;
        Ok(Self {
            program: "/invar".to_owned(),
            volume: None,
            page: PAGE.0.to_owned(),
            page_content: PAGE.1.as_bytes().to_vec(),
            deleted: MESSAGE.0.to_owned(),
        })
    }

    /// Copies the image from the user's store; this program comes in by a read-only mount.
    fn of_user(root: &Path, name: &str, stage: &Stage) -> anyhow::Result<Self> {
        let store = ImageStore::open(root)?;
        let image = store.resolve(name)?;
        let (reader, writer) = io::pipe()?;
        let loaded = std::thread::scope(|scope| {
            let saving = scope.spawn(|| store.save(&image, writer));
            let loaded = stage.images().load(reader, None);
            saving
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            loaded
        })?;
        let loaded = loaded.first().context("the image did not arrive")?;
        stage.images().tag(&loaded.id, &Reference::parse(NAME)?)?;
        let this = std::env::current_exe().context("could not find this program")?;
        let mut target = Self {
            program: MOUNT_POINT.to_owned(),
            volume: Some(format!("{}:{MOUNT_POINT}:ro", this.display())),
            page: String::new(),
            page_content: Vec::new(),
            deleted: String::new(),
        };
        let mut victims = target.victims(stage)?.into_iter();
        let (Some(page), Some(deleted)) = (victims.next(), victims.next()) else {
            return Err(failure(
                format!("the image {name:?} has none of the files that the drill attacks"),
                format!("it takes two of: {}", VICTIMS.join(", ")),
            ));
        };
        (target.page, target.page_content) = page;
        target.deleted = deleted.0;
        Ok(target)
    }

    /// Which of the usual files the image has, with their content.
    fn victims(&self, stage: &Stage) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let config = self.config(stage.images(), false)?;
        let engine = stage.engine();
        let id = engine.create(&ContainerName::parse("look")?, &config)?;
        let root = engine.open_root(&id)?;
        let mut found = Vec::new();
        for path in VICTIMS {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let opened = invar_drift::open_beneath(root.lower.as_fd(), path.as_bytes(), flags);
            let Ok(file) = opened.map(std::fs::File::from) else {
                continue;
            };
            if !file.metadata()?.is_file() {
                continue;
            }
            let mut content = Vec::new();
            file.take(LARGEST_PAGE + 1).read_to_end(&mut content)?;
            if (1..=LARGEST_PAGE).contains(&(content.len() as u64)) {
                found.push((path.to_owned(), content));
            }
        }
        engine.remove(&id, true)?;
        Ok(found)
    }

    /// A container of it: as users get one, on the host's network so that the page is seen from
    /// outside.
    pub(super) fn config(
        &self,
        images: &ImageStore,
        writable: bool,
    ) -> anyhow::Result<ContainerConfig> {
        let options = Options {
            writable,
            network: Some(Network::Host),
            user: Some("0".to_owned()),
            entrypoint: Some(self.program.clone()),
            volume: self.volume.iter().cloned().collect(),
            ..Options::default()
        };
        let command = ["drill-app", "serve", &self.page].map(str::to_owned);
        let image = images.resolve(NAME)?;
        let none = Config::default();
        let settings = ImageSettings {
            id: image.id.as_str(),
            name: NAME,
            config: image.config.config().as_ref().unwrap_or(&none),
            health: None,
        };
        container_config::resolve(&options, &command, &settings, &Host::here()?)
    }

    /// The image as it is on the stage.
    pub(super) fn image(images: &ImageStore) -> anyhow::Result<Image> {
        Ok(images.resolve(NAME)?)
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// Where this program comes in, when it is not part of the image.
    pub(super) fn mount_point(&self) -> Option<&str> {
        self.volume.as_ref().map(|_| self.program())
    }

    pub(super) fn page(&self) -> &str {
        &self.page
    }

    pub(super) fn page_content(&self) -> &[u8] {
        &self.page_content
    }

    pub(super) fn deleted(&self) -> &str {
        &self.deleted
    }
}

/// A root file system of this program, a page and a message.
fn write_archive(path: &PathBuf) -> io::Result<()> {
    let mut archive = tar::Builder::new(fs::File::create(path)?);
    for directory in ["etc/", "srv/", "tmp/"] {
        let mut header = header(tar::EntryType::Directory, 0, 0o755);
        archive.append_data(&mut header, directory, io::empty())?;
    }
    let program = fs::File::open("/proc/self/exe")?;
    let mut entry = header(tar::EntryType::Regular, program.metadata()?.len(), 0o755);
    archive.append_data(&mut entry, "invar", program)?;
    for (path, content) in [PAGE, MESSAGE] {
        let mut header = header(tar::EntryType::Regular, content.len() as u64, 0o644);
        archive.append_data(
            &mut header,
            path.trim_start_matches('/'),
            content.as_bytes(),
        )?;
    }
    archive.into_inner()?;
    Ok(())
}

fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(BUILT_AT);
    header
}
