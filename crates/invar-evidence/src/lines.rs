//! Reading JSON Lines files of evidence, each line bounded: they may come from outside.

use std::io::{BufRead as _, BufReader, Read as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::de::DeserializeOwned;

use crate::error::{EvidenceError, Result};
use crate::tree::list::LONGEST_LINE;

/// The values of a file, one a line. A file that is not there has none.
pub(crate) struct Lines<T> {
    input: Option<BufReader<fs::File>>,
    path: PathBuf,
    line: u64,
    values: PhantomData<T>,
}

impl<T> Lines<T> {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let input = if path.exists() {
            let file = fs::File::open(path).map_err(EvidenceError::io("open", path))?;
            Some(BufReader::with_capacity(1 << 16, file))
        } else {
            None
        };
        Ok(Self {
            input,
            path: path.to_owned(),
            line: 0,
            values: PhantomData,
        })
    }
}

impl<T: DeserializeOwned> Iterator for Lines<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let input = self.input.as_mut()?;
        let mut line = Vec::new();
        // A change has up to three paths and two entries in a line.
        match input.take(4 * LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => self.line += 1,
            Err(error) => return Some(Err(EvidenceError::io("read", &self.path)(error))),
        }
        Some(serde_json::from_slice(&line).map_err(|error| {
            let what = format!("{} line {}", self.path.display(), self.line);
            EvidenceError::malformed(what, error)
        }))
    }
}
