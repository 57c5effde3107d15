//! Messages of `netlink(7)`: a header, a fixed part, and attributes that may hold attributes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// Bytes of a header (`struct nlmsghdr`).
const HEADER: usize = 16;
/// Bytes fetched by one call; the kernel never puts more into one answer.
const ANSWER: usize = 64 << 10;

/// A flag of a header.
pub(super) fn flag(value: libc::c_int) -> u16 {
    u16::try_from(value).expect("flags of a header have sixteen bits")
}

/// A request being written.
#[derive(Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = flags | flag(libc::NLM_F_REQUEST);
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    /// The fixed part that belongs to the kind of message.
    pub(super) fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub(super) fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.nested(kind, |message| message.fixed_unpadded(value))
    }

    /// A name with the zero that ends it.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute that holds what `inner` adds.
    pub(super) fn nested(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        let mut done = inner(self);
        let length = u16::try_from(done.0.len() - start).expect("requests are small");
        done.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        done.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        done.pad();
        done
    }

    fn fixed_unpadded(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("requests are small");
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// One message of an answer, without its header.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

/// The attributes that follow a fixed part of `fixed` bytes.
pub(super) fn attributes(body: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(fixed..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say how the value is written (`NLA_F_NESTED`).
        Some((kind & 0x3fff, value))
    })
}

/// A connection to one part of the kernel in one network namespace.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        Ok(Self(socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?))
    }

    /// Has a request carried out.
    pub(super) fn tell(&self, message: Message) -> io::Result<()> {
        self.ask(message).map(drop)
    }

    /// What the kernel answers, all of it.
    pub(super) fn ask(&self, mut message: Message) -> io::Result<Vec<Answer>> {
        let flags = u16::from_ne_bytes([message.0[6], message.0[7]]) | flag(libc::NLM_F_ACK);
        message.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        let bytes = message.finish();
        // Not a stream: a message goes whole or not at all.
        send(&self.0, &bytes, SendFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; ANSWER];
        loop {
            let (_, length) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            if take(&buffer[..length], &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Takes the messages of one datagram; whether the last one was among them.
fn take(mut bytes: &[u8], answers: &mut Vec<Answer>) -> io::Result<bool> {
    while let Some(header) = bytes.get(..HEADER) {
        let length = u32::from_ne_bytes(header[..4].try_into().expect("four bytes")) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = bytes
            .get(HEADER..length)
            .ok_or_else(|| io::Error::other("the kernel's answer was cut short"))?;
        match i32::from(kind) {
            libc::NLMSG_ERROR => return error(body).map(|()| true),
            libc::NLMSG_DONE => return Ok(true),
            _ => answers.push(Answer {
                kind,
                body: body.to_vec(),
            }),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// An error message is also how success is told: with number 0.
fn error(body: &[u8]) -> io::Result<()> {
    let number = body.get(..4).map_or(-libc::EPROTO, |n| {
        i32::from_ne_bytes(n.try_into().expect("four bytes"))
    });
    match number {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(-number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_out_as_they_went_in() {
        let message = Message::new(16, 0)
            .fixed(&[7; 8])
            .text(3, "eth0")
            .nested(18, |inner| inner.number(1, 5).attribute(2, &[9]));
        let bytes = message.finish();
        assert_eq!(bytes.len() % 4, 0);
        let all: Vec<_> = attributes(&bytes[HEADER..], 8).collect();
        assert_eq!(all[0], (3, b"eth0\0".as_slice()));
        let inner: Vec<_> = attributes(all[1].1, 0).collect();
        assert_eq!(inner, [(1, 5_u32.to_ne_bytes().as_slice()), (2, &[9])]);
    }

    #[test]
    fn an_answer_that_is_cut_short_is_an_error_and_no_panic() {
        let bytes = Message::new(16, 0).fixed(&[0; 16]).text(3, "lo").finish();
        for length in HEADER..bytes.len() {
            assert!(take(&bytes[..length], &mut Vec::new()).is_err(), "{length}");
        }
        let mut answers = Vec::new();
        assert!(!take(&bytes, &mut answers).unwrap());
        for length in 0..answers[0].body.len() {
            assert!(attributes(&answers[0].body[..length], 16).count() <= 1);
        }
    }
}
