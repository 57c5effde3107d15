//! The side that asks.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Answer, Ask, Request, VERSION};
use crate::error::{AgentError, Result};

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer: thousands of containers.
const LONGEST: u64 = 64 << 20;

/// Asks the agent behind a socket.
pub fn ask(control: &Path, ask: Ask) -> Result<serde_json::Value> {
    let failed = |action| AgentError::io(action, control);
    let mut stream = UnixStream::connect(control).map_err(failed("reach the agent at"))?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(failed("ask the agent at"))?;
    let request = Request {
        version: VERSION,
        ask,
    };
    let mut line = serde_json::to_vec(&request).unwrap_or_default();
    line.push(b'\n');
    stream
        .write_all(&line)
        .map_err(failed("ask the agent at"))?;
    let mut text = String::new();
    BufReader::new(stream.take(LONGEST))
        .read_line(&mut text)
        .map_err(failed("hear the agent at"))?;
    match serde_json::from_str(&text) {
        Ok(Answer::Done(value)) => Ok(value),
        Ok(Answer::Refused(reason)) => Err(AgentError::Answer(reason)),
        Err(error) => Err(AgentError::Answer(format!(
            "what the agent answered cannot be read: {error}"
        ))),
    }
}
