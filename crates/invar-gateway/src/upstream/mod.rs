//! Connections to containers: dialled by address, kept, and used again only when surely alive.

pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod pool;

use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{Response, StatusCode};
use tokio::net::TcpStream;

use crate::config::{PolicyConfig, ServiceProtocol};
use crate::http::body::Body;
use crate::http1::head::ResponseHead;
use crate::traffic::endpoint::Endpoint;
use crate::worker::Worker;

/// What a container answered.
#[derive(Debug)]
pub(crate) enum Sent {
    Response(Box<Response<Body>>),
    /// 101: the connection is something else from here on.
    Switched(Box<ResponseHead>, Box<http1::Wire>),
}

/// How far a request came that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not one byte was sent: trying again cannot do anything twice.
    Unsent,
    /// The connection broke before a byte of the answer.
    Unanswered,
    /// The answer did not come in time or is malformed.
    Failed,
    /// The client's body broke off; the container is not to blame.
    ClientFailed,
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    /// The whole body, when the stage is [`Stage::Unsent`].
    pub(crate) body: Option<Body>,
}

impl Failure {
    fn unsent(reason: &'static str, body: Option<Body>) -> Self {
        Self {
            stage: Stage::Unsent,
            status: StatusCode::BAD_GATEWAY,
            reason,
            body,
        }
    }

    fn late(stage: Stage, status: StatusCode, reason: &'static str) -> Self {
        Self {
            stage,
            status,
            reason,
            body: None,
        }
    }

    fn timed_out() -> Self {
        Self::late(
            Stage::Failed,
            StatusCode::GATEWAY_TIMEOUT,
            "the container did not answer in time",
        )
    }
}

/// Sends a request to an endpoint and waits for the head of the answer.
pub(crate) async fn send(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    protocol: ServiceProtocol,
    policy: &PolicyConfig,
    parts: &Parts,
    body: Body,
) -> Result<Sent, Failure> {
    match protocol {
        ServiceProtocol::H2c => http2::send(worker, endpoint, policy, parts, body).await,
        ServiceProtocol::Http1 | ServiceProtocol::Tcp => {
            http1::send(worker, endpoint, policy, parts, body).await
        }
    }
}

/// Connects to an endpoint.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    limit: Duration,
) -> Result<TcpStream, &'static str> {
    let stream = match tokio::time::timeout(limit, TcpStream::connect(endpoint.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return Err("the container takes no connections"),
        Err(_) => return Err("connecting to the container took too long"),
    };
    // Without it small answers wait for acknowledgements; failing to set it costs only time.
    drop(stream.set_nodelay(true));
    Ok(stream)
}
