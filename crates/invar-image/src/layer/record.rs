//! A layer's tar stream on its way to the parser: hashed for its `DiffID`, and recorded so that
//! it can be given back byte by byte.

use std::io::{self, BufReader, Read};

use crate::digest::{Digest, HashingReader};
use crate::tar::Source;

/// Reads a layer's bytes and keeps those that are not stored as objects of their own.
pub(super) struct Recorder<R> {
    reader: HashingReader<BufReader<R>>,
    is_recording: bool,
    recorded: Vec<u8>,
}

impl<R: Read> Recorder<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            // Headers are read in blocks of 512 bytes.
            reader: HashingReader::new(BufReader::with_capacity(1 << 17, reader)),
            is_recording: true,
            recorded: Vec::new(),
        }
    }

    /// Whether to keep the bytes read from here on.
    pub(super) fn record(&mut self, record: bool) {
        self.is_recording = record;
    }

    /// Takes what was recorded since the last call.
    pub(super) fn taken(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.recorded)
    }

    /// How much is recorded and not yet taken.
    pub(super) fn recorded(&self) -> usize {
        self.recorded.len()
    }

    /// Bytes of the layer read so far.
    pub(super) fn position(&self) -> u64 {
        self.reader.count()
    }

    /// The `DiffID`, once everything was read.
    pub(super) fn finish(self) -> io::Result<Digest> {
        self.reader.finish()
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        if self.is_recording {
            self.recorded.extend_from_slice(&buffer[..length]);
        }
        Ok(length)
    }
}

impl<R: Read> Source for Recorder<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.take(count), &mut io::sink())?;
        if skipped == count {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it ends inside a file",
            ))
        }
    }
}
