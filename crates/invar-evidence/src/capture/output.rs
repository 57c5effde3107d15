//! What the container printed, with the times the engine recorded.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use invar_engine::{ContainerId, Engine, LogOptions, LogStream};

use super::log::{Log, Step};
use crate::error::{EvidenceError, Result};
use crate::files;

/// Keeps standard output and standard error in a file each, up to `limit` bytes together.
pub(crate) fn keep(
    engine: &dyn Engine,
    id: &ContainerId,
    dir: &Path,
    limit: u64,
    log: &mut Log,
) -> Result<()> {
    let place = dir.join("logs");
    files::private_dir(&place)?;
    let mut stdout = BufWriter::new(files::create(&place.join("stdout.log"))?);
    let mut stderr = BufWriter::new(files::create(&place.join("stderr.log"))?);
    let mut bytes = 0;
    let mut failure = None;
    let options = LogOptions {
        timestamps: true,
        ..LogOptions::default()
    };
    let read = engine.logs(id, &options, &mut |stream, line| {
        bytes += line.len() as u64;
        if bytes > limit {
            return false;
        }
        let out = match stream {
            LogStream::Stdout => &mut stdout,
            LogStream::Stderr => &mut stderr,
        };
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let written = out.write_all(line).and_then(|()| out.write_all(b"\n"));
        failure = written.err();
        failure.is_none()
    });
    let flushed = stdout.flush().and_then(|()| stderr.flush());
    if let Some(error) = failure.or(flushed.err()) {
        return Err(EvidenceError::io("write", &place)(error));
    }
    if let Err(error) = read {
        log.not_captured(
            b"logs",
            EvidenceError::engine("read the logs")(error).chain(),
        )?;
    }
    if bytes > limit {
        log.not_captured(b"logs", format_args!("only the first {limit} bytes"))?;
    }
    log.step(Step::Logs {
        bytes: bytes.min(limit),
    })
}
