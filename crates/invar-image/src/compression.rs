//! Compressed archives, recognised by their first bytes.

use std::io::{self, BufReader, Read, Seek};

use flate2::read::MultiGzDecoder;

use crate::error::{ImageError, Result};

/// `gzip` (RFC 1952), `zstd` (RFC 8878), or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// That of a file, which is at its start afterwards.
    pub(crate) fn of_file(file: &mut fs_err::File) -> Result<Self> {
        let failed = |error| ImageError::malformed("archive", error);
        let mut start = Vec::with_capacity(4);
        let read = file.take(4).read_to_end(&mut start);
        read.and_then(|_| file.rewind()).map_err(failed)?;
        Ok(Self::of(&start))
    }

    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Largest window a zstd frame may ask for (2^27 bytes, `zstd`'s own default limit): a frame
/// could otherwise ask for gigabytes of memory.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Reads what `reader` holds, decompressed. Truncated and corrupt streams are errors.
pub(crate) fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let whole = io::Cursor::new(start).chain(reader);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(
            1 << 16,
            whole,
        ))),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}
