//! `evidence.json`: what the evidence is, readable without reading the rest of it.

use std::path::Path;

use invar_drift::Namespace;
use invar_engine::{Container, ContainerId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{EvidenceError, Result};
use crate::id::EvidenceId;
use crate::tree::take::Taken;

/// The header's name in the evidence.
pub(crate) const NAME: &str = "evidence.json";
/// The only value of `format`.
const FORMAT: &str = "invar-evidence";
/// The version this code writes; it reads this one only.
const VERSION: u32 = 1;
/// Longest header.
pub(crate) const LONGEST: u64 = 16 << 20;

/// What every reader looks at first; docs/formats/evidence.md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    version: u32,
    /// What a reader may or must know beyond the version.
    #[serde(default)]
    pub features: Features,
    /// Its id.
    pub id: EvidenceId,
    /// Whose evidence.
    pub container: Subject,
    /// What was to be done.
    pub plan: Plan,
    /// When the capture began.
    pub begun_at: Timestamp,
    /// When the host was started: processes tell their start from it.
    pub booted_at: Option<Timestamp>,
    /// The host's name.
    pub host: String,
    /// The host's kernel.
    pub kernel: String,
    /// Which Invar took it.
    pub tool: String,
    /// Where the overlay of the container keeps its marks.
    #[serde(default)]
    pub marks: Marks,
    /// What was found; only once it is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// Named features beyond the version. A name that a reader does not know is ignored, forbids
/// changing, or forbids reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Ignored when unknown.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// May be read but not added to when unknown.
    #[serde(default)]
    pub read_only_compatible: Vec<String>,
    /// Must not be read when unknown.
    #[serde(default)]
    pub incompatible: Vec<String>,
}

/// Which extended attributes of the upper directory are overlayfs's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Marks {
    /// `trusted.overlay.`: mounted by root.
    #[default]
    Trusted,
    /// `user.overlay.`: mounted in a user namespace.
    User,
}

impl Marks {
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }

    pub(crate) fn namespace(self) -> Namespace {
        match self {
            Self::Trusted => Namespace::Trusted,
            Self::User => Namespace::User,
        }
    }
}

/// The container as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its id.
    pub id: ContainerId,
    /// Its name then.
    pub name: String,
    /// The engine that ran it.
    pub engine: String,
    /// Digest of its image's configuration.
    pub image: String,
    /// The image as the user named it.
    pub image_name: String,
    /// Its revision.
    pub revision: String,
    /// What it was doing.
    pub state: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last started.
    pub started_at: Option<Timestamp>,
}

impl Subject {
    pub(crate) fn of(container: &Container) -> Self {
        Self {
            id: container.id.clone(),
            name: container.name.as_str().to_owned(),
            engine: container.engine.to_owned(),
            image: container.config.image.clone(),
            image_name: container.config.image_name.clone(),
            revision: container.revision.as_str().to_owned(),
            state: crate::capture::state_name(&container.state).to_owned(),
            created_at: container.created_at,
            started_at: container.started_at,
        }
    }
}

/// What a capture was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The container is killed while it is frozen.
    pub stop: bool,
    /// The container is removed once the evidence is sealed.
    pub remove: bool,
    /// What is taken.
    #[serde(flatten)]
    pub wanted: Wanted,
}

/// What is taken beside processes, upper directory, output and settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Temporary file systems: memory that is gone with the container.
    pub tmpfs: bool,
    /// Volumes.
    #[serde(default)]
    pub volumes: Volumes,
    /// Any other mounts, by their place in the container.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// The memory of the processes.
    #[serde(default)]
    pub memory: bool,
    /// The container stays frozen until everything is copied, however long that takes.
    #[serde(default)]
    pub exact: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            tmpfs: true,
            volumes: Volumes::None,
            mounts: Vec::new(),
            memory: false,
            exact: false,
        }
    }
}

/// Which files of volumes are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Volumes {
    /// None: they outlive the container.
    #[default]
    None,
    /// Those that were written, or whose metadata was changed, since the container was created.
    Changed,
    /// All.
    All,
}

/// What was found, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// When it was sealed.
    pub sealed_at: Timestamp,
    /// Whether every step was carried out; otherwise the log says where it broke off.
    pub is_complete: bool,
    /// How long the container was frozen, in milliseconds.
    pub frozen_ms: Option<u64>,
    /// Processes recorded.
    pub processes: u64,
    /// How the upper directory was taken; `None` for a read-only root.
    pub upper: Option<Taken>,
    /// Changed paths by severity.
    pub changes: std::collections::BTreeMap<String, u64>,
    /// How many things were not captured.
    pub gaps: u64,
    /// The first thousand of them, each with its reason; all are in the log.
    pub not_captured: Vec<Gap>,
}

/// Something that was not captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// A path in the container, escaped, or a kind of thing.
    pub what: String,
    /// Why.
    pub reason: String,
}

impl Header {
    pub(crate) fn new(container: &Container, plan: Plan) -> Self {
        let begun_at = Timestamp::now();
        let system = rustix::system::uname();
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            features: Features::default(),
            id: EvidenceId::at(begun_at),
            container: Subject::of(container),
            plan,
            begun_at,
            booted_at: crate::capture::boot_time(),
            host: system.nodename().to_string_lossy().into_owned(),
            kernel: system.release().to_string_lossy().into_owned(),
            tool: format!("invar {}", env!("CARGO_PKG_VERSION")),
            marks: Marks::default(),
            summary: None,
        }
    }

    /// Reads the header of the evidence in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        Self::parse(&crate::files::read(&dir.join(NAME), LONGEST)?)
    }

    /// Reads a header, version and features first.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Start {
            format: String,
            version: u32,
            #[serde(default)]
            features: Features,
        }
        let malformed = |error| EvidenceError::malformed(NAME, error);
        let start: Start = serde_json::from_slice(bytes).map_err(malformed)?;
        if start.format != FORMAT {
            return Err(EvidenceError::malformed(
                NAME,
                format!("its format is {:?} and not {FORMAT:?}", start.format),
            ));
        }
        if start.version != VERSION {
            return Err(EvidenceError::TooNew {
                what: NAME.to_owned(),
                reason: format!("its version is {}, known is {VERSION}", start.version),
            });
        }
        if let Some(feature) = start.features.incompatible.first() {
            return Err(EvidenceError::TooNew {
                what: NAME.to_owned(),
                reason: format!("it uses the feature {feature:?}"),
            });
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a header is plain data");
        bytes.push(b'\n');
        crate::files::replace(&dir.join(NAME), &bytes)
    }
}
