//! What a path is and was, in full: given on request.

use rustix::fs::{FileType, StatxTimestamp};
use rustix::io::Result;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::capability::FileCapability;
use crate::compare::{CAPABILITY, Entry};
use crate::dir::{attributes, birth_time, file_type, link_target};
use crate::overlay::Namespace;
use crate::text::{escape, hex};

/// Bytes of an attribute's value that are kept; evidence keeps all.
const VALUE_KEPT: usize = 256;
/// Attributes of one entry that are kept.
const ATTRIBUTES_KEPT: usize = 64;

/// Both states of a changed path and how it came from one to the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Detail {
    /// How the path got what it has; `None` where nothing tells.
    #[serde(flatten)]
    pub provenance: Option<Provenance>,
    /// In the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<State>,
    /// In the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<State>,
}

/// How a path got what it has, by the marks that overlayfs keeps. The container cannot forge them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// Made in the container.
    New,
    /// The image's own file, changed in place.
    Edited,
    /// Another file was put in the place of the image's.
    Replaced,
    /// Moved here from another place in the image.
    Renamed {
        /// From where, when that is known.
        from: Option<Vec<u8>>,
    },
    /// One more name of a file the image has elsewhere and that is still there.
    Linked {
        /// The other name.
        from: Vec<u8>,
    },
}

impl Provenance {
    /// Its name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Edited => "edited",
            Self::Replaced => "replaced",
            Self::Renamed { .. } => "renamed",
            Self::Linked { .. } => "linked",
        }
    }

    /// The path in the image it came from, where that is another one.
    pub fn from(&self) -> Option<&[u8]> {
        match self {
            Self::Renamed { from } => from.as_deref(),
            Self::Linked { from } => Some(from),
            _ => None,
        }
    }
}

impl Serialize for Provenance {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Provenance", 2)?;
        fields.serialize_field("how", self.as_str())?;
        match self.from() {
            Some(from) => fields.serialize_field("from", &escape(from))?,
            None => fields.skip_field("from")?,
        }
        fields.end()
    }
}

/// Everything the kernel says of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What it is.
    pub file_type: FileType,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of the content of a file or of a link's target.
    pub size: u64,
    /// How many names it has.
    pub links: u32,
    /// Content last modified, as the file says; anybody may set it.
    pub mtime: Time,
    /// Anything last changed. Only the kernel sets it.
    pub ctime: Time,
    /// Made, on the file system it lies on.
    pub btime: Option<Time>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Where a link leads.
    pub target: Option<Vec<u8>>,
    /// File capabilities, decoded; `None` also when the value makes no sense.
    pub capability: Option<FileCapability>,
    /// Extended attributes, those of the overlay itself left out.
    pub xattrs: Vec<Xattr>,
    /// Digest of a regular file's content.
    pub digest: Digest,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Added to the seconds.
    pub nanoseconds: u32,
}

impl From<StatxTimestamp> for Time {
    fn from(time: StatxTimestamp) -> Self {
        Self {
            seconds: time.tv_sec,
            nanoseconds: time.tv_nsec,
        }
    }
}

impl Serialize for Time {
    /// `1600000000.000000001`: a JSON number cannot hold it.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}.{:09}", self.seconds, self.nanoseconds))
    }
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Its name.
    pub name: Vec<u8>,
    /// The first bytes of its value.
    pub value: Vec<u8>,
    /// Length of the whole value.
    pub length: usize,
}

impl Serialize for Xattr {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Xattr", 3)?;
        fields.serialize_field("name", &escape(&self.name))?;
        fields.serialize_field("value_hex", &hex(&self.value))?;
        fields.serialize_field("length", &self.length)?;
        fields.end()
    }
}

/// A digest, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Digest {
    /// Content was not asked for, or there is none.
    #[default]
    None,
    /// SHA-256 of the whole content.
    Sha256([u8; 32]),
    /// The file announces more zeros than are worth hashing.
    TooSparse,
    /// It was gone or changed while it was read.
    Unreadable,
}

impl State {
    /// Reads it; the content is not touched.
    pub(crate) fn read(entry: Entry<'_>, namespace: Namespace) -> Result<Self> {
        let stat = entry.stat;
        let file_type = file_type(stat);
        let found = attributes(entry.dir, entry.name)?;
        let capability = found
            .iter()
            .find(|(name, _)| name.as_c_str() == CAPABILITY)
            .and_then(|(_, value)| FileCapability::decode(value));
        let xattrs = found
            .into_iter()
            .filter(|(name, _)| !namespace.owns(name))
            .take(ATTRIBUTES_KEPT)
            .map(|(name, mut value)| {
                let length = value.len();
                value.truncate(VALUE_KEPT);
                Xattr {
                    name: name.into_bytes(),
                    value,
                    length,
                }
            });
        let target = match file_type {
            FileType::Symlink => Some(link_target(entry.dir, entry.name)?.into_bytes()),
            _ => None,
        };
        Ok(Self {
            file_type,
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            links: stat.stx_nlink,
            mtime: stat.stx_mtime.into(),
            ctime: stat.stx_ctime.into(),
            btime: birth_time(entry.dir, entry.name)?.map(Into::into),
            device: is_device(file_type).then_some((stat.stx_rdev_major, stat.stx_rdev_minor)),
            target,
            capability,
            xattrs: xattrs.collect(),
            digest: Digest::None,
        })
    }
}

fn is_device(file_type: FileType) -> bool {
    matches!(file_type, FileType::BlockDevice | FileType::CharacterDevice)
}

/// A file type in a word.
pub fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "unknown",
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("State", 15)?;
        fields.serialize_field("type", type_name(self.file_type))?;
        fields.serialize_field("mode", &format!("{:04o}", self.mode))?;
        fields.serialize_field("uid", &self.uid)?;
        fields.serialize_field("gid", &self.gid)?;
        if matches!(self.file_type, FileType::RegularFile | FileType::Symlink) {
            fields.serialize_field("size", &self.size)?;
        }
        fields.serialize_field("links", &self.links)?;
        fields.serialize_field("mtime", &self.mtime)?;
        fields.serialize_field("ctime", &self.ctime)?;
        if let Some(btime) = self.btime {
            fields.serialize_field("btime", &btime)?;
        }
        if let Some(device) = self.device {
            fields.serialize_field("device", &device)?;
        }
        if let Some(target) = &self.target {
            fields.serialize_field("target", &escape(target))?;
        }
        if let Some(capability) = &self.capability {
            fields.serialize_field("capability", capability)?;
        }
        fields.serialize_field("xattrs", &self.xattrs)?;
        match self.digest {
            Digest::None => {}
            Digest::Sha256(digest) => fields.serialize_field("sha256", &hex(&digest))?,
            Digest::TooSparse => fields.serialize_field("not_hashed", "too sparse")?,
            Digest::Unreadable => fields.serialize_field("not_hashed", "changed meanwhile")?,
        }
        fields.end()
    }
}
