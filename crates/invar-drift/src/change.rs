//! One changed path: two verdicts, why, and how bad it looks.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::ser::{SerializeSeq as _, SerializeStruct as _};
use serde::{Deserialize, Serialize, Serializer};

use crate::detail::Detail;
use crate::patch::Patch;
use crate::rules::Finding;
use crate::text::{escape, hex};

/// What happened to a path. The letters are Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// In the image and different now.
    #[serde(rename = "C")]
    Changed,
    /// Not in the image.
    #[serde(rename = "A")]
    Added,
    /// In the image only.
    #[serde(rename = "D")]
    Deleted,
}

impl Kind {
    /// The kind a letter of `docker diff` stands for.
    pub fn from_letter(letter: char) -> Option<Self> {
        [Self::Changed, Self::Added, Self::Deleted]
            .into_iter()
            .find(|kind| kind.letter() == letter)
    }

    /// `C`, `A` or `D`, as `docker diff` prints it.
    pub fn letter(self) -> char {
        match self {
            Self::Changed => 'C',
            Self::Added => 'A',
            Self::Deleted => 'D',
        }
    }
}

/// How much a change deserves a look.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Says nothing by itself.
    #[default]
    Info,
    /// Unusual.
    Low,
    /// Worth a look.
    Medium,
    /// Rarely innocent.
    High,
    /// How an attacker stays or becomes root.
    Critical,
}

impl Severity {
    /// All of them, mildest first.
    pub const ALL: [Self; 5] = [
        Self::Info,
        Self::Low,
        Self::Medium,
        Self::High,
        Self::Critical,
    ];

    /// Its name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One way in which a path differs from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Reason {
    /// Another file type.
    Type = 1 << 0,
    /// Permission bits.
    Mode = 1 << 1,
    /// User or group.
    Owner = 1 << 2,
    /// Device number.
    Device = 1 << 3,
    /// Length of the content.
    Size = 1 << 4,
    /// The content, compared byte by byte.
    Content = 1 << 5,
    /// Modification time.
    Mtime = 1 << 6,
    /// Where a symbolic link leads.
    Target = 1 << 7,
    /// File capabilities.
    Capability = 1 << 8,
    /// Any other extended attribute.
    Xattr = 1 << 9,
}

impl Reason {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Type, "type"),
        (Self::Mode, "mode"),
        (Self::Owner, "owner"),
        (Self::Device, "device"),
        (Self::Size, "size"),
        (Self::Content, "content"),
        (Self::Mtime, "mtime"),
        (Self::Target, "target"),
        (Self::Capability, "capability"),
        (Self::Xattr, "xattr"),
    ];
}

/// A set of reasons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reasons(u16);

impl Reasons {
    /// Adds a reason when it holds.
    pub(crate) fn add(&mut self, reason: Reason, holds: bool) {
        if holds {
            self.0 |= reason as u16;
        }
    }

    /// Whether the reason is among them.
    pub fn contains(self, reason: Reason) -> bool {
        self.0 & reason as u16 != 0
    }

    /// As one number, to be put aside.
    pub(crate) fn bits(self) -> u16 {
        self.0
    }

    pub(crate) fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their names, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Reason::ALL
            .into_iter()
            .filter(move |(reason, _)| self.contains(*reason))
            .map(|(_, name)| name)
    }
}

impl Serialize for Reasons {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for name in self.names() {
            list.serialize_element(name)?;
        }
        list.end()
    }
}

/// A path whose state in the container differs from the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path inside the container, as bytes.
    pub path: Vec<u8>,
    /// What `docker diff` says; `None` where it says nothing.
    pub compatible: Option<Kind>,
    /// What is true by content, metadata and extended attributes; `None` for a directory that is
    /// only on the way to a change.
    pub actual: Option<Kind>,
    /// In what a changed path differs.
    pub reasons: Reasons,
    /// How bad it looks.
    pub severity: Severity,
    /// Which rule says so.
    pub finding: Option<Arc<Finding>>,
    /// Both states in full, when asked for.
    pub detail: Option<Box<Detail>>,
    /// How the text changed, when asked for.
    pub patch: Option<Box<Patch>>,
}

impl Change {
    /// The path as text, with everything escaped that could deceive a reader; the exact bytes in
    /// hexadecimal too when that was needed.
    pub fn path_text(&self) -> (String, Option<String>) {
        match escape(&self.path) {
            Cow::Borrowed(text) => (text.to_owned(), None),
            Cow::Owned(text) => (text, Some(hex(&self.path))),
        }
    }

    /// Whether it is only on the way to a change.
    pub fn is_ancestor(&self) -> bool {
        self.compatible == Some(Kind::Changed) && self.actual.is_none() && self.finding.is_none()
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (path, exact) = self.path_text();
        let mut fields = serializer.serialize_struct("Change", 9)?;
        fields.serialize_field("path", &path)?;
        if let Some(exact) = exact {
            fields.serialize_field("path_hex", &exact)?;
        }
        fields.serialize_field("compatible", &self.compatible)?;
        fields.serialize_field("actual", &self.actual)?;
        fields.serialize_field("reasons", &self.reasons)?;
        fields.serialize_field("severity", &self.severity)?;
        if let Some(finding) = &self.finding {
            fields.serialize_field("finding", &**finding)?;
        }
        if let Some(detail) = &self.detail {
            fields.serialize_field("detail", &**detail)?;
        }
        if let Some(patch) = &self.patch {
            fields.serialize_field("patch", &**patch)?;
        }
        fields.end()
    }
}
