//! A container's log: what it wrote, line by line, in the form of Kubernetes' CRI:
//! `TIME stdout|stderr F|P CONTENT`, where P says that the line goes on in the next one.

use std::io::Write as _;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use jiff::Timestamp;

use crate::embedded::layout::Directory;
use crate::engine::LogStream;

/// Longest content of one line; the CRI's number.
const LONGEST: usize = 16 << 10;

/// Bytes of a log after which a new one is begun; the one before it is kept. A program that
/// writes without end fills twice this much of the disk and no more.
const LIMIT: u64 = 16 << 20;

/// Writes the log of one container.
pub(super) struct Log {
    directory: Directory,
    /// `None` once writing failed: a full disk must not stop the container.
    file: Option<fs::File>,
    size: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Log {
    pub(super) fn open(directory: &Directory) -> Self {
        let file = open(directory);
        Self {
            directory: directory.clone(),
            size: file
                .as_ref()
                .and_then(|file| file.metadata().ok())
                .map_or(0, |metadata| metadata.len()),
            file,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Takes a piece of output; whole lines are written at once.
    pub(super) fn write(&mut self, stream: LogStream, mut bytes: &[u8]) {
        let now = Timestamp::now();
        let mut text = Vec::with_capacity(bytes.len() + 64);
        let rest = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            rest.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            append(&mut text, now, stream, rest, true);
        }
        rest.extend_from_slice(bytes);
        if rest.len() >= LONGEST {
            append(&mut text, now, stream, rest, false);
        }
        self.flush(&text);
    }

    /// Writes what has no end of line.
    pub(super) fn finish(&mut self) {
        let now = Timestamp::now();
        let mut text = Vec::new();
        for (stream, rest) in [
            (LogStream::Stdout, &mut self.stdout),
            (LogStream::Stderr, &mut self.stderr),
        ] {
            if !rest.is_empty() {
                append(&mut text, now, stream, rest, false);
            }
        }
        self.flush(&text);
    }

    fn flush(&mut self, text: &[u8]) {
        if self.size > LIMIT && fs::rename(self.directory.log(), self.directory.old_log()).is_ok() {
            self.file = open(&self.directory);
            self.size = 0;
        }
        if let Some(file) = &mut self.file
            && file.write_all(text).is_err()
        {
            self.file = None;
        }
        self.size += text.len() as u64;
    }
}

fn open(directory: &Directory) -> Option<fs::File> {
    let options = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(directory.log());
    options.ok()
}

/// Adds the lines for a content, which may be longer than one line can be, and empties it.
fn append(
    text: &mut Vec<u8>,
    now: Timestamp,
    stream: LogStream,
    content: &mut Vec<u8>,
    whole: bool,
) {
    let name = match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    let mut pieces = content.chunks(LONGEST).peekable();
    if pieces.peek().is_none() {
        pieces = [].chunks(1).peekable();
        text.extend_from_slice(format!("{now:.9} {name} F \n").as_bytes());
    }
    while let Some(piece) = pieces.next() {
        let tag = if whole && pieces.peek().is_none() {
            'F'
        } else {
            'P'
        };
        text.extend_from_slice(format!("{now:.9} {name} {tag} ").as_bytes());
        text.extend_from_slice(piece);
        text.push(b'\n');
    }
    content.clear();
}
