//! One header block of 512 bytes.

use super::pax::Records;
use super::sparse::SparseForm;
use super::{Kind, Member};

/// Size of a block.
pub(super) const BLOCK: u64 = 512;
/// The bytes of one.
pub(super) type Block = [u8; 512];

/// A header block whose checksum is right.
pub(super) struct Header(Block);

/// Why a header cannot be read.
type Reason = String;

impl Header {
    pub(super) fn new(block: &Block) -> Result<Self, Reason> {
        let (before, after) = (&block[..148], &block[156..]);
        // The checksum counts itself as eight spaces.
        let sum: u64 = before
            .iter()
            .chain(after)
            .map(|byte| u64::from(*byte))
            .sum();
        let expected = number(&block[148..156]).ok();
        if expected != Some(i128::from(sum + 8 * 32)) {
            return Err("this is not a tar header: its checksum is wrong".to_owned());
        }
        Ok(Self(*block))
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    fn is_gnu(&self) -> bool {
        self.0[257..265] == *b"ustar  \0"
    }

    fn is_ustar(&self) -> bool {
        self.0[257..263] == *b"ustar\0"
    }

    pub(super) fn is_gnu_sparse(&self) -> bool {
        self.type_flag() == b'S'
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        if self.is_ustar() && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_owned()
    }

    pub(super) fn size(&self) -> Result<u64, Reason> {
        size(&self.0[124..136])
    }

    /// Size of a sparse file with its holes.
    pub(super) fn real_size(&self) -> Result<u64, Reason> {
        size(&self.0[483..495])
    }

    /// Adds the segments of the header itself; whether more follow in blocks of their own.
    pub(super) fn sparse_segments(&self, all: &mut Vec<(u64, u64)>) -> Result<bool, Reason> {
        if !self.is_gnu() {
            return Err("a sparse file in a header that is not GNU's".to_owned());
        }
        segments(&self.0[386..482], all)?;
        Ok(self.0[482] != 0)
    }

    /// The member this header describes, with what extended records say instead.
    pub(super) fn member(&self, records: Records) -> Result<Member, Reason> {
        let kind = match self.type_flag() {
            0 | b'0' | b'7' | b'S' => Kind::Regular,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharacterDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
        let device = if is_device {
            (size(&self.0[329..337])?, size(&self.0[337..345])?)
        } else {
            (0, 0)
        };
        let own = |given: Option<u64>, field: &[u8]| given.map_or_else(|| size(field), Ok);
        let seconds = |value: i128| i64::try_from(value).map_err(|_e| "its time is too large");
        let mode = number(&self.0[100..108])?;
        Ok(Member {
            path: records.path.unwrap_or_else(|| self.path()),
            link: records
                .link
                .unwrap_or_else(|| text(&self.0[157..257]).to_owned()),
            kind,
            mode: u32::try_from(mode & 0o7777).expect("twelve bits"),
            uid: own(records.uid, &self.0[108..116])?,
            gid: own(records.gid, &self.0[116..124])?,
            mtime: match records.mtime {
                Some(time) => time,
                None => (seconds(number(&self.0[136..148])?)?, 0),
            },
            device,
            size: own(records.size, &self.0[124..136])?,
            sparse: records.sparse,
            attributes: records.attributes,
        })
    }
}

/// Adds the segments of an extension block of GNU's old sparse form; whether more blocks follow.
pub(super) fn more_sparse_segments(
    block: &Block,
    all: &mut Vec<(u64, u64)>,
) -> Result<bool, Reason> {
    segments(&block[..504], all)?;
    Ok(block[504] != 0)
}

fn segments(table: &[u8], all: &mut Vec<(u64, u64)>) -> Result<(), Reason> {
    for entry in table.chunks_exact(24) {
        // An unused entry is empty.
        if entry[0] != 0 || entry[12] != 0 {
            all.push((size(&entry[..12])?, size(&entry[12..])?));
        }
    }
    Ok(())
}

/// Up to the first NUL byte.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

fn size(field: &[u8]) -> Result<u64, Reason> {
    u64::try_from(number(field)?).map_err(|_e| "a number is negative or too large".to_owned())
}

/// Octal digits between spaces and NUL bytes, or GNU's base 256: the first bit set, the rest a
/// two's complement number. An empty field is 0.
fn number(field: &[u8]) -> Result<i128, Reason> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first().expect("no field is empty");
        let negative = first & 0x40 != 0;
        let start = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
        // Twelve bytes at most: 96 bits.
        return Ok(rest
            .iter()
            .fold(start, |n, byte| (n << 8) | i128::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0, |value: i128, digit| match digit {
        b'0'..=b'7' => Ok(value * 8 + i128::from(digit - b'0')),
        _ => Err(format!(
            "{:?} is not an octal number",
            digits.escape_ascii().to_string()
        )),
    })
}

impl Records {
    /// Records that hold for every later member: some programs obey them, others do not, so only
    /// remarks are accepted.
    pub(super) fn refuse_global(&self, archive: &str) -> crate::error::Result<()> {
        if *self == Self::default() {
            return Ok(());
        }
        Err(crate::ImageError::Unsupported {
            what: format!("{archive}: a global extended header that sets names, owners or sizes"),
            reason: "programs disagree on them; write the archive without".to_owned(),
        })
    }
}

/// What a sparse file's records come to.
pub(super) fn sparse_from_records(
    version: (u64, u64),
    segments: Vec<(u64, u64)>,
    size: Option<u64>,
) -> Result<SparseForm, Reason> {
    let size = size.ok_or("a sparse file without its size")?;
    match version {
        (0, _) => Ok(SparseForm::Map { segments, size }),
        (1, 0) if segments.is_empty() => Ok(SparseForm::MapInContent { size }),
        (major, minor) => Err(format!(
            "sparse files of version {major}.{minor} are not known"
        )),
    }
}
