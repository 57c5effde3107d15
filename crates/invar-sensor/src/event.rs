//! One thing that happened in a container.

use std::sync::Arc;

use invar_drift::{Finding, Kind, Severity, escape};
use jiff::Timestamp;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::actor::Actor;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A path that the image does not have.
    Create,
    /// The content of a file.
    Write,
    /// A path is gone.
    Delete,
    /// A path got another name.
    Rename,
    /// Mode, owner, times or extended attributes.
    Attributes,
    /// A file of the image was opened for writing, and has its own copy since.
    CopyUp,
    /// A program that is not of the image was executed.
    Exec,
    /// A program that is not of the image was not let run.
    ExecBlocked,
    /// A library, script or program that is not of the image was not let be opened by what would
    /// run it.
    OpenBlocked,
    /// A file that is not of the image was not let be mapped as code.
    MapBlocked,
    /// A walk found a change that nothing was told of.
    Missed,
}

impl What {
    /// Its name as listings show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Rename => "rename",
            Self::Attributes => "attributes",
            Self::CopyUp => "copy-up",
            Self::Exec => "exec",
            Self::ExecBlocked => "exec-blocked",
            Self::OpenBlocked => "open-blocked",
            Self::MapBlocked => "map-blocked",
            Self::Missed => "missed",
        }
    }

    /// Whether something was refused.
    pub fn is_blocked(self) -> bool {
        matches!(
            self,
            Self::ExecBlocked | Self::OpenBlocked | Self::MapBlocked
        )
    }

    pub(crate) fn is_execution(self) -> bool {
        self.is_blocked() || self == Self::Exec
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Create
            | Self::Exec
            | Self::ExecBlocked
            | Self::OpenBlocked
            | Self::MapBlocked => Kind::Added,
            Self::Delete => Kind::Deleted,
            _ => Kind::Changed,
        }
    }
}

/// The container in which something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// As the engine names it for ever.
    pub id: String,
    /// As people name it.
    pub name: String,
    /// Who runs it.
    pub engine: String,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// When the sensor saw it.
    pub time: Timestamp,
    /// What.
    pub what: What,
    /// Where, as the container names it.
    pub path: Vec<u8>,
    /// Where it was before, of a rename.
    pub from: Option<Vec<u8>>,
    /// The container.
    pub container: Arc<Place>,
    /// Who did it; `None` when the process ended before it could be looked at, or after a walk.
    pub actor: Option<Actor>,
    /// The number of the process, also of one that has ended; 0 after a walk.
    pub pid: u32,
    /// How bad it looks.
    pub severity: Severity,
    /// Which rule says so.
    pub finding: Option<Arc<Finding>>,
    /// Why it was refused, or is told of.
    pub reason: Option<String>,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("time", &self.time)?;
        fields.serialize_entry("what", &self.what)?;
        fields.serialize_entry("path", &escape(&self.path))?;
        if matches!(escape(&self.path), std::borrow::Cow::Owned(_)) {
            fields.serialize_entry("path_hex", &hex(&self.path))?;
        }
        if let Some(from) = &self.from {
            fields.serialize_entry("from", &escape(from))?;
        }
        fields.serialize_entry("container", &*self.container)?;
        fields.serialize_entry("severity", &self.severity)?;
        if let Some(finding) = &self.finding {
            fields.serialize_entry("finding", &**finding)?;
        }
        if let Some(reason) = &self.reason {
            fields.serialize_entry("reason", reason)?;
        }
        fields.serialize_entry("pid", &self.pid)?;
        fields.serialize_entry("actor", &self.actor)?;
        fields.end()
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}
