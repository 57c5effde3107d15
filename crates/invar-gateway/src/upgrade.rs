//! A new process takes the listening sockets of the running one (`SCM_RIGHTS`); no connection is
//! refused and none that waits in a kernel queue is lost.
//!
//! ```text
//! new                                   old
//!  │ connect, {"op":"handover"}  ─────▶  │  accepts no changes from here on
//!  │ ◀─────  lock, control socket, listening sockets, their addresses
//!  │ reads the state file, listens       │  still serves
//!  │ {"op":"taken"}  ─────────────────▶  │  stops accepting, drains, ends
//! ```
//! If the new process dies before `taken`, the old one goes on as if nothing had been.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;

use crate::control::protocol::{Answer, Request};
use crate::error::{GatewayError, Result};
use crate::gateway::handover::Handover;

/// Descriptors in one message; the kernel allows 253.
const BATCH: usize = 128;
/// Descriptors in all.
const MOST_DESCRIPTORS: usize = 64 * 1024;

/// What the new process gets.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) lock: OwnedFd,
    pub(crate) control: UnixListener,
    pub(crate) sockets: Vec<(SocketAddr, TcpListener)>,
    pub(crate) predecessor: Predecessor,
}

/// The old process, which waits to hear that it can go.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    pub(crate) fn taken(mut self) -> Result<()> {
        let line = line_of(&Request::Taken);
        self.0
            .write_all(&line)
            .and_then(|()| self.0.read_exact(&mut [0]))
            .map_err(GatewayError::io("tell the old gateway that it can go"))
    }
}

fn line_of(request: &Request) -> Vec<u8> {
    let mut line = serde_json::to_vec(request).unwrap_or_default();
    line.push(b'\n');
    line
}

/// What goes with the descriptors: the address of each after the first two.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    addresses: Vec<SocketAddr>,
}

/// Takes over from the gateway at this control socket; `None` when there is none.
pub(crate) fn take_over(control: &Path, drain: Duration) -> Result<Option<Inherited>> {
    let mut stream = match UnixStream::connect(control) {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            _ => return Err(GatewayError::path("connect to", control)(error)),
        },
    };
    let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
    let (line, descriptors) = stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .and_then(|()| stream.write_all(&line_of(&Request::Handover { drain_ms })))
        .and_then(|()| receive(&stream))
        .map_err(GatewayError::path("take over from the gateway at", control))?;
    let answer: Answer<Manifest> =
        serde_json::from_slice(&line).map_err(|error| GatewayError::Protocol(error.to_string()))?;
    let Some(manifest) = answer.result else {
        let reason = answer
            .error
            .unwrap_or_else(|| "it gave no reason".to_owned());
        return Err(GatewayError::refused("take over", reason));
    };
    let mut descriptors = descriptors.into_iter();
    let (Some(lock), Some(listener)) = (descriptors.next(), descriptors.next()) else {
        let reason = "the old gateway sent no sockets".to_owned();
        return Err(GatewayError::Protocol(reason));
    };
    let sockets = descriptors.map(TcpListener::from);
    Ok(Some(Inherited {
        lock,
        control: UnixListener::from(listener),
        sockets: manifest.addresses.into_iter().zip(sockets).collect(),
        predecessor: Predecessor(stream),
    }))
}

/// Reads one line and all descriptors that come with it.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut bytes = [0; 4096];
    while !line.ends_with(b"\n") {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptors.extend(fds);
            }
        }
        if received.bytes == 0 || descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&bytes[..received.bytes]);
    }
    Ok((line, descriptors))
}

/// Copies of all descriptors that go over.
#[derive(Debug)]
pub(crate) struct Package {
    /// The lock, the control socket, then the listeners.
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Sends everything a successor needs.
pub(crate) async fn hand_over(
    handover: &Handover,
    stream: &tokio::net::UnixStream,
) -> io::Result<()> {
    let package = handover.package()?;
    let mut line = serde_json::to_vec(&Answer {
        ok: true,
        result: Some(Manifest {
            addresses: package.addresses,
        }),
        error: None,
    })?;
    line.push(b'\n');
    for batch in package.descriptors.chunks(BATCH) {
        let fds: Vec<BorrowedFd<'_>> = batch.iter().map(OwnedFd::as_fd).collect();
        // White space in front of the line, so that every batch has a byte to travel with.
        send(stream, b" ", &fds).await?;
    }
    let mut rest = &line[..];
    while !rest.is_empty() {
        let sent = send(stream, rest, &[]).await?;
        rest = &rest[sent..];
    }
    Ok(())
}

async fn send(
    stream: &tokio::net::UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let parts = [IoSlice::new(bytes)];
            Ok(sendmsg(
                stream,
                &parts,
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )?)
        })
        .await
}
