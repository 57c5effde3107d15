//! The WebSocket protocol (RFC 6455): a tunnel of bytes that the gateway can end politely.
//!
//! The gateway follows the frames only to know where one ends. When the lease of a connection is
//! over, each direction is brought to such a place, both sides get a Close frame (1012, "service
//! restart", the client's cue to come back), and the client a moment to answer it.

pub(crate) mod frames;

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http::flight::Flight;
use crate::lease;
use crate::limits::{Limits, ms};
use crate::random;
use crate::tunnel::{End, Side, Tunnel};
use crate::upstream::http1::Wire;
use frames::Frames;

const SERVICE_RESTART: u16 = 1012;
const MESSAGE_TOO_BIG: u16 = 1009;
/// Payload of one frame.
const FRAME: u64 = 64 * 1024 * 1024;
/// For bringing frames to their end, and for the client's Close.
const GRACE: Duration = Duration::from_secs(5);

/// A WebSocket that a container accepted.
#[derive(Debug)]
pub(crate) struct Opened {
    wire: Box<Wire>,
    flight: Box<Flight>,
    write_idle: Duration,
}

impl Opened {
    pub(crate) fn new(wire: Box<Wire>, flight: Box<Flight>, limits: &Limits) -> Self {
        Self {
            wire,
            flight,
            write_idle: ms(limits.write_idle_ms),
        }
    }
}

/// Serves a WebSocket until one side ends it or its lease is over.
pub(crate) async fn run(client: Side, opened: Opened) {
    let Opened {
        wire,
        mut flight,
        write_idle,
    } = opened;
    let upstream = Side::new(wire.stream, wire.input);
    let mut tunnel = Tunnel::new(
        client,
        upstream,
        Some((Frames::new(FRAME), Frames::new(FRAME))),
    );
    let idle = ms(flight.traffic.config.policy.tunnel_idle_ms);
    let end = tokio::select! {
        end = tunnel.run(idle) => Some(end),
        () = lease::over(flight.worker(), flight.revision()) => None,
    };
    match end {
        None => close(&mut tunnel, SERVICE_RESTART, write_idle).await,
        Some(End::FrameTooLarge) => say_close(&mut tunnel, MESSAGE_TOO_BIG, write_idle).await,
        Some(End::Finished | End::Idle | End::Broken) => {}
    }
    flight.sent = tunnel.to_client.moved;
    flight.completed();
}

async fn close(tunnel: &mut Tunnel, code: u16, limit: Duration) {
    let reached = tokio::time::timeout(GRACE, tunnel.reach_boundaries()).await;
    let is_between = |frames: &Option<Frames>| frames.as_ref().is_some_and(Frames::at_boundary);
    if !matches!(reached, Ok(End::Finished)) || !is_between(&tunnel.to_client.frames) {
        return;
    }
    say_close(tunnel, code, limit).await;
    let client_closed = tunnel
        .to_upstream
        .frames
        .as_ref()
        .is_some_and(Frames::saw_close);
    if !client_closed {
        drop(tokio::time::timeout(GRACE, wait_for_close(tunnel)).await);
    }
}

async fn say_close(tunnel: &mut Tunnel, code: u16, limit: Duration) {
    let mask = u32::try_from(random::below(1 << 32))
        .unwrap_or(0)
        .to_be_bytes();
    let to_upstream = frames::close(code, Some(mask));
    let to_client = frames::close(code, None);
    let said = async {
        // Either side may be gone already; the other is told all the same.
        drop(tunnel.client.write_all(&to_client).await);
        drop(tunnel.client.flush().await);
        if tunnel
            .to_upstream
            .frames
            .as_ref()
            .is_some_and(Frames::at_boundary)
        {
            drop(tunnel.upstream.write_all(&to_upstream).await);
        }
    };
    drop(tokio::time::timeout(limit, said).await);
}

/// Reads what the client still sends until its Close frame or its end.
async fn wait_for_close(tunnel: &mut Tunnel) {
    let mut frames = Frames::new(FRAME);
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = tunnel.client.read(&mut buffer).await {
        frames.pass(&buffer[..length], false);
        if frames.saw_close() {
            break;
        }
    }
    drop(tunnel.client.shutdown().await);
}
