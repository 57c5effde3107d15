//! Asks a running gateway. Blocking, for the rollout's driver and the command line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::protocol::{
    Answer, Applied, Changed, DrainStatus, MOST_LINE, Request, Status, Switched,
};
use crate::config::{CanaryConfig, Config};
use crate::error::{GatewayError, Result};

/// A connection to a gateway's control socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the control socket at `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .map_err(GatewayError::path("connect to the gateway at", path))?;
        let limit = Some(Duration::from_mins(1));
        stream
            .set_read_timeout(limit)
            .and_then(|()| stream.set_write_timeout(limit))
            .map_err(GatewayError::path("set a time limit on", path))?;
        Ok(Self {
            path: path.to_owned(),
            stream: BufReader::new(stream),
        })
    }

    /// How long an answer may take; needed beyond a minute for long drains.
    pub fn set_limit(&self, limit: Duration) -> Result<()> {
        self.stream
            .get_ref()
            .set_read_timeout(Some(limit))
            .map_err(GatewayError::path("set a time limit on", &self.path))
    }

    /// Sends a request and reads its result.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        let mut line = serde_json::to_vec(request)
            .map_err(|error| GatewayError::Protocol(error.to_string()))?;
        line.push(b'\n');
        self.stream
            .get_mut()
            .write_all(&line)
            .map_err(GatewayError::path("write to", &self.path))?;
        let mut answer = Vec::new();
        let most = u64::try_from(MOST_LINE).unwrap_or(u64::MAX);
        self.stream
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut answer)
            .map_err(GatewayError::path("read from", &self.path))?;
        if !answer.ends_with(b"\n") {
            return Err(GatewayError::Protocol(
                "the gateway closed the connection without an answer".to_owned(),
            ));
        }
        let answer: Answer<T> = serde_json::from_slice(&answer)
            .map_err(|error| GatewayError::Protocol(error.to_string()))?;
        match answer {
            Answer {
                ok: true,
                result: Some(result),
                ..
            } => Ok(result),
            Answer { error, .. } => Err(GatewayError::refused(
                "the gateway refused",
                error.unwrap_or_else(|| "it gave no reason".to_owned()),
            )),
        }
    }

    /// Serves this configuration and nothing else.
    pub fn apply(&mut self, config: Config) -> Result<Applied> {
        let config = Box::new(config);
        self.ask(&Request::Apply { config })
    }

    /// Switches all traffic of a service, forward or back.
    pub fn switch(&mut self, service: &str, to: &str, drain: Duration) -> Result<Switched> {
        self.ask(&Request::Switch {
            service: service.to_owned(),
            to: to.to_owned(),
            drain_ms: milliseconds(drain),
            exclusive_ms: None,
            force: false,
        })
    }

    /// Splits the traffic of a service.
    pub fn canary(
        &mut self,
        service: &str,
        canary: CanaryConfig,
        drain: Duration,
    ) -> Result<Changed> {
        self.ask(&Request::Canary {
            service: service.to_owned(),
            canary,
            drain_ms: milliseconds(drain),
        })
    }

    /// Keeps a canary alive.
    pub fn renew(&mut self, service: &str) -> Result<Changed> {
        let service = service.to_owned();
        self.ask(&Request::Renew { service })
    }

    /// Waits at most `wait` for a revision to be drained.
    pub fn drain(&mut self, service: &str, revision: &str, wait: Duration) -> Result<DrainStatus> {
        self.set_limit(wait + Duration::from_mins(1))?;
        self.ask(&Request::Drain {
            service: service.to_owned(),
            revision: revision.to_owned(),
            wait_ms: milliseconds(wait),
        })
    }

    /// What is in force.
    pub fn config(&mut self) -> Result<Config> {
        self.ask(&Request::Config)
    }

    /// Adds a revision without traffic, or gives one other endpoints.
    pub fn revision(
        &mut self,
        service: &str,
        revision: &str,
        endpoints: Vec<SocketAddr>,
    ) -> Result<Changed> {
        self.ask(&Request::Revision {
            service: service.to_owned(),
            revision: revision.to_owned(),
            endpoints,
        })
    }

    /// Removes a revision that has no traffic.
    pub fn forget(&mut self, service: &str, revision: &str) -> Result<Changed> {
        self.ask(&Request::Forget {
            service: service.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// See [`Request::Pause`].
    pub fn pause(&mut self, service: &str, limit: Duration) -> Result<Changed> {
        self.ask(&Request::Pause {
            service: service.to_owned(),
            limit_ms: milliseconds(limit),
        })
    }

    /// See [`Request::Resume`].
    pub fn resume(&mut self, service: &str) -> Result<Changed> {
        self.ask(&Request::Resume {
            service: service.to_owned(),
        })
    }

    /// Everything there is to see.
    pub fn status(&mut self) -> Result<Status> {
        self.ask(&Request::Status)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
