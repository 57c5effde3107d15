//! A layer's tar stream on its way to the parser: hashed for its `DiffID`, and recorded so that
//! it can be given back byte by byte.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::digest::{Digest, HashingReader};
use crate::error::Result;
use crate::limits::Limits;

/// What happens to the bytes the parser reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Headers and padding: recorded, and bounded between two entries, for the parser keeps them
    /// in memory.
    Headers,
    /// Content that belongs to the record.
    Inline,
    /// Content that is stored as an object of its own.
    External,
}

struct State<R> {
    reader: HashingReader<R>,
    mode: Mode,
    recorded: Vec<u8>,
    headers: u64,
    most_headers: u64,
}

/// A handle that the tar parser reads from while its owner switches the mode.
pub(super) struct Recorder<R>(Rc<RefCell<State<R>>>);

impl<R> Clone for Recorder<R> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<R: Read> Recorder<R> {
    pub(super) fn new(reader: R, limits: &Limits) -> Self {
        Self(Rc::new(RefCell::new(State {
            reader: HashingReader::new(reader),
            mode: Mode::Headers,
            recorded: Vec::new(),
            headers: 0,
            most_headers: limits.entry_headers,
        })))
    }

    /// From here on the bytes are of this kind.
    pub(super) fn switch(&self, mode: Mode) {
        let mut state = self.0.borrow_mut();
        state.mode = mode;
        state.headers = 0;
    }

    /// Takes what was recorded since the last call.
    pub(super) fn taken(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().recorded)
    }

    /// How much is recorded and not yet taken.
    pub(super) fn recorded(&self) -> usize {
        self.0.borrow().recorded.len()
    }

    /// Bytes of the layer read so far.
    pub(super) fn position(&self) -> u64 {
        self.0.borrow().reader.count()
    }

    /// The `DiffID`, once the parser is gone and everything was read.
    pub(super) fn finish(self) -> Result<Digest> {
        let state = Rc::into_inner(self.0).expect("the parser was dropped before");
        state
            .into_inner()
            .reader
            .finish()
            .map_err(|error| crate::ImageError::malformed("layer", error))
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.borrow_mut();
        let length = state.reader.read(buffer)?;
        match state.mode {
            Mode::External => {}
            Mode::Inline => state.recorded.extend_from_slice(&buffer[..length]),
            Mode::Headers => {
                state.headers += length as u64;
                if state.headers > state.most_headers {
                    return Err(io::Error::other(format!(
                        "the headers of one entry are larger than the limit of {} bytes",
                        state.most_headers
                    )));
                }
                state.recorded.extend_from_slice(&buffer[..length]);
            }
        }
        Ok(length)
    }
}
