//! What a command and its shim or exec helper say to each other: messages, and open handles
//! (`unix(7)`, `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Sends a value: the length of its JSON in four bytes, then the JSON.
pub(super) fn send(mut socket: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    socket.write_all(&length.to_be_bytes())?;
    socket.write_all(&text)
}

/// Takes a value; an error of kind `UnexpectedEof` when the other side has ended.
pub(super) fn receive<T: DeserializeOwned>(mut socket: &UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut text = Vec::new();
    let length = u64::from(u32::from_be_bytes(length));
    socket.take(length).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Sends a handle, with one byte of no meaning.
pub(super) fn send_handle(socket: &UnixStream, handle: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let handles = [handle];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&handles)) {
        return Err(io::Error::other("no space for a handle"));
    }
    let byte = [IoSlice::new(&[0])];
    sendmsg(socket, &byte, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes a handle and the byte it came with.
pub(super) fn receive_handle(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut handles) = message
            && let Some(handle) = handles.next()
        {
            return Ok(handle);
        }
    }
    Err(io::Error::other("no handle was sent"))
}
