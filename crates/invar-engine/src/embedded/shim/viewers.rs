//! Commands that look at a running container (`attach`): each gets the output from then on, may
//! type, and says how large its terminal is. They come by a socket in the container's directory.
//!
//! ```text
//!  frame: kind (1 byte) · length (4 bytes, big endian) · content
//!  to the viewer:   1 standard output or terminal · 2 standard error
//!  from the viewer: 0 typed · 3 rows and columns (2 bytes each) · 4 no more will be typed
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::embedded::layout::Directory;
use crate::engine::LogStream;

/// Bytes a viewer may lag behind; one that does not read is let go, and holds up nobody.
const LAG: usize = 4 << 20;
/// Bytes typed ahead of a program that does not read.
const TYPED: usize = 64 << 10;
/// Most viewers of one container.
const MOST: usize = 32;
/// Longest frame a viewer sends.
const LONGEST: usize = 64 << 10;
/// Bytes of a frame before its content.
pub(in crate::embedded) const HEADER: usize = 5;

/// Kinds of frames.
pub(in crate::embedded) mod kind {
    pub(in crate::embedded) const TYPED: u8 = 0;
    pub(in crate::embedded) const STDOUT: u8 = 1;
    pub(in crate::embedded) const STDERR: u8 = 2;
    pub(in crate::embedded) const SIZE: u8 = 3;
    pub(in crate::embedded) const END: u8 = 4;
}

/// A frame as it is sent.
pub(in crate::embedded) fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap_or(0);
    let mut frame = Vec::with_capacity(HEADER + content.len());
    frame.push(kind);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(content);
    frame
}

/// Kind and length of the frame that begins here; `None` when more must be read.
pub(in crate::embedded) fn header(bytes: &[u8]) -> Option<(u8, usize)> {
    let header: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
    let [kind, length @ ..] = *header;
    Some((kind, usize::try_from(u32::from_be_bytes(length)).ok()?))
}

/// Everybody who looks.
pub(super) struct Viewers {
    listener: Option<UnixListener>,
    present: Vec<Viewer>,
    /// Where what is typed goes; `None` when the program reads nothing, or another has it.
    input: Option<OwnedFd>,
    typed: VecDeque<u8>,
    /// Whether the program sees an end once it has read what was typed.
    ends: bool,
    is_terminal: bool,
}

struct Viewer {
    socket: UnixStream,
    unsent: VecDeque<u8>,
    received: Vec<u8>,
    is_gone: bool,
}

impl Viewers {
    /// Listens in the container's directory. A container without it runs all the same.
    pub(super) fn listen(directory: &Directory, input: Option<OwnedFd>, is_terminal: bool) -> Self {
        if let Some(input) = &input {
            rustix::io::ioctl_fionbio(input, true).ok();
        }
        Self {
            listener: super::terminal::listen_at(&directory.runtime(), "attach").ok(),
            present: Vec::new(),
            input,
            typed: VecDeque::new(),
            ends: false,
            is_terminal,
        }
    }

    /// What is waited for: newcomers, the program's input, then each viewer.
    pub(super) fn watched(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let listener = self.listener.as_ref().map(|fd| (fd.as_fd(), PollFlags::IN));
        let input = self.input.as_ref().filter(|_| !self.typed.is_empty());
        let input = input.map(|fd| (fd.as_fd(), PollFlags::OUT));
        let has_room = self.typed.len() < TYPED;
        let viewers = self.present.iter().map(|viewer| {
            let mut events = PollFlags::empty();
            events.set(PollFlags::IN, has_room);
            events.set(PollFlags::OUT, !viewer.unsent.is_empty());
            (viewer.socket.as_fd(), events)
        });
        listener.into_iter().chain(input).chain(viewers).collect()
    }

    /// Goes on with what is ready, in the order of [`Viewers::watched`].
    pub(super) fn advance(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        let mut next = || ready.next().unwrap_or(false);
        let newcomer = self.listener.is_some() && next();
        let can_type = self.input.is_some() && !self.typed.is_empty() && next();
        let is_ready: Vec<bool> = self.present.iter().map(|_| next()).collect();
        for (index, _) in is_ready.iter().enumerate().filter(|(_, ready)| **ready) {
            self.present[index].send();
            self.receive(index);
        }
        if can_type {
            self.type_in();
        }
        self.present.retain(|viewer| !viewer.is_gone);
        if newcomer {
            self.accept();
        }
    }

    fn accept(&mut self) {
        let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) else {
            return;
        };
        if self.present.len() < MOST && socket.set_nonblocking(true).is_ok() {
            self.present.push(Viewer {
                socket,
                unsent: VecDeque::new(),
                received: Vec::new(),
                is_gone: false,
            });
        }
    }

    /// Shows everybody a piece of output.
    pub(super) fn show(&mut self, stream: LogStream, piece: &[u8]) {
        if self.present.is_empty() {
            return;
        }
        let kind = match stream {
            LogStream::Stdout => kind::STDOUT,
            LogStream::Stderr => kind::STDERR,
        };
        let frame = frame(kind, piece);
        for viewer in &mut self.present {
            if viewer.unsent.len() + frame.len() > LAG {
                viewer.is_gone = true;
            } else {
                viewer.unsent.extend(&frame);
                viewer.send();
            }
        }
        self.present.retain(|viewer| !viewer.is_gone);
    }

    /// Sends what is left when the container has ended, as far as it is read at once.
    pub(super) fn finish(&mut self) {
        for viewer in &mut self.present {
            viewer.send();
        }
    }

    fn receive(&mut self, index: usize) {
        let viewer = &mut self.present[index];
        let mut piece = [0_u8; 4096];
        match rustix::io::read(&viewer.socket, &mut piece) {
            Err(Errno::INTR | Errno::AGAIN) => return,
            Ok(0) | Err(_) => viewer.is_gone = true,
            Ok(length) => viewer.received.extend_from_slice(&piece[..length]),
        }
        let mut received = std::mem::take(&mut viewer.received);
        while let Some((kind, length)) = header(&received) {
            if length > LONGEST {
                self.present[index].is_gone = true;
                return;
            }
            let end = HEADER + length;
            if received.len() < end {
                break;
            }
            self.take(kind, &received[HEADER..end]);
            received.drain(..end);
        }
        self.present[index].received = received;
    }

    fn take(&mut self, kind: u8, content: &[u8]) {
        match (kind, content) {
            (kind::TYPED, typed) if self.input.is_some() => {
                self.typed.extend(typed);
                self.type_in();
            }
            (kind::SIZE, &[rows, more_rows, columns, more_columns]) if self.is_terminal => {
                let size = Winsize {
                    ws_row: u16::from_be_bytes([rows, more_rows]),
                    ws_col: u16::from_be_bytes([columns, more_columns]),
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                if let Some(terminal) = &self.input {
                    tcsetwinsize(terminal, size).ok();
                }
            }
            // A pipe ends when its last writer goes; a terminal stays.
            (kind::END, _) if !self.is_terminal => {
                self.ends = true;
                self.type_in();
            }
            _ => {}
        }
    }

    fn type_in(&mut self) {
        while let Some(input) = &self.input {
            let (bytes, _) = self.typed.as_slices();
            if bytes.is_empty() {
                if self.ends {
                    self.input = None;
                }
                return;
            }
            match rustix::io::write(input, bytes) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The program has closed it.
                Err(_) => {
                    self.input = None;
                    self.typed.clear();
                }
            }
        }
    }
}

impl Viewer {
    fn send(&mut self) {
        loop {
            let (bytes, _) = self.unsent.as_slices();
            if bytes.is_empty() {
                return;
            }
            match rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.is_gone = true;
                    self.unsent.clear();
                }
            }
        }
    }
}

/// Reads frames from a stream, whole ones only.
#[derive(Debug, Default)]
pub(in crate::embedded) struct Frames(Vec<u8>);

impl Frames {
    /// Reads once and hands on every whole frame; `false` at the end.
    pub(in crate::embedded) fn read(
        &mut self,
        socket: BorrowedFd<'_>,
        mut each: impl FnMut(u8, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut piece = [0_u8; 16 << 10];
        let length = match rustix::io::read(socket, &mut piece) {
            Ok(0) | Err(Errno::CONNRESET) => return Ok(false),
            Err(Errno::INTR | Errno::AGAIN) => return Ok(true),
            Err(error) => return Err(error.into()),
            Ok(length) => length,
        };
        self.0.extend_from_slice(&piece[..length]);
        while let Some((kind, length)) = header(&self.0) {
            let end = HEADER + length;
            if self.0.len() < end {
                break;
            }
            each(kind, &self.0[HEADER..end])?;
            self.0.drain(..end);
        }
        Ok(true)
    }
}
