//! Looking at a running container: the command's side of [`super::shim::viewers`].

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::layout::Directory;
use super::shim::terminal;
use super::shim::viewers::{Frames, frame, kind};
use crate::container::Container;
use crate::engine::{Attached, Attachment};
use crate::error::{EngineError, Result};

/// Bytes typed that are sent at once.
const PIECE: usize = 4096;

/// Copies output to this process's standard streams and what is typed to the container.
pub(super) fn attach(
    directory: &Directory,
    container: &Container,
    attachment: &Attachment,
) -> Result<Attached> {
    let failed = |source: io::Error| EngineError::Runtime {
        action: "attach to the container",
        reason: source.to_string(),
    };
    let socket = terminal::connect_to(&directory.runtime(), "attach").map_err(failed)?;
    if attachment.stdin.is_some() && !container.config.interactive && !container.config.tty {
        return Err(EngineError::InvalidConfig {
            what: format!("standard input of {:?}", container.name.as_str()),
            reason: "it was made without -i, so its program reads nothing".to_owned(),
        });
    }
    let mut conversation = Conversation {
        socket,
        keys: Keys::new(&attachment.detach_keys),
        is_typing: attachment.stdin.is_some(),
    };
    if attachment.resized.is_some() {
        conversation.send_size().map_err(failed)?;
    }
    conversation.run(attachment).map_err(failed)
}

struct Conversation {
    socket: UnixStream,
    keys: Keys,
    is_typing: bool,
}

impl Conversation {
    fn run(&mut self, attachment: &Attachment) -> io::Result<Attached> {
        let mut frames = Frames::default();
        loop {
            let stdin = attachment.stdin.as_ref().filter(|_| self.is_typing);
            let mut waiting = vec![PollFd::new(&self.socket, PollFlags::IN)];
            waiting.extend(stdin.map(|fd| PollFd::new(fd, PollFlags::IN)));
            let of_resize = waiting.len();
            let resized = attachment.resized.as_ref();
            waiting.extend(resized.map(|fd| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut waiting, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(waiting);
            if ready[0] && !frames.read(self.socket.as_fd(), show)? {
                return Ok(Attached::Ended);
            }
            if let Some(stdin) = stdin
                && ready[1]
                && !self.type_in(stdin.as_fd())?
            {
                return Ok(Attached::Detached);
            }
            if let Some(resized) = resized
                && ready[of_resize]
            {
                resized.wait()?;
                self.send_size()?;
            }
        }
    }

    /// Passes on what was typed; `false` once the keys to leave were.
    fn type_in(&mut self, stdin: BorrowedFd<'_>) -> io::Result<bool> {
        let mut piece = [0_u8; PIECE];
        let length = match rustix::io::read(stdin, &mut piece) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(true),
            // The terminal is gone.
            Err(Errno::IO) => 0,
            read => read?,
        };
        if length == 0 {
            self.is_typing = false;
            self.send(kind::END, &[])?;
            return Ok(true);
        }
        let (typed, leaves) = self.keys.pass(&piece[..length]);
        if !typed.is_empty() {
            self.send(kind::TYPED, &typed)?;
        }
        Ok(!leaves)
    }

    fn send_size(&self) -> io::Result<()> {
        let Some(size) = terminal::own_size() else {
            return Ok(());
        };
        let [rows, more_rows] = size.ws_row.to_be_bytes();
        let [columns, more_columns] = size.ws_col.to_be_bytes();
        self.send(kind::SIZE, &[rows, more_rows, columns, more_columns])
    }

    fn send(&self, kind: u8, content: &[u8]) -> io::Result<()> {
        match (&self.socket).write_all(&frame(kind, content)) {
            // It has ended; what it said last is still to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }
}

fn show(kind: u8, content: &[u8]) -> io::Result<()> {
    if kind == kind::STDERR {
        return io::stderr().lock().write_all(content);
    }
    let mut out = io::stdout().lock();
    out.write_all(content)?;
    out.flush()
}

/// Finds the keys to leave among what is typed. Those that may begin them are held back until it
/// is known.
struct Keys {
    wanted: Vec<u8>,
    held: usize,
}

impl Keys {
    fn new(wanted: &[u8]) -> Self {
        Self {
            wanted: wanted.to_vec(),
            held: 0,
        }
    }

    /// What is to be passed on, and whether the caller leaves.
    fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.wanted.get(self.held) == Some(byte) {
                self.held += 1;
                if self.held == self.wanted.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.wanted[..self.held]);
            self.held = 0;
            if self.wanted.first() == Some(byte) {
                self.held = 1;
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_to_leave_are_found_wherever_they_are_typed() {
        type Case = (&'static [&'static [u8]], &'static [u8], bool);
        let table: &[Case] = &[
            (&[b"ls\n"], b"ls\n", false),
            (&[b"\x10\x11"], b"", true),
            (&[b"a\x10", b"\x11b"], b"a", true),
            (&[b"\x10", b"x"], b"\x10x", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
        ];
        for (pieces, expected, leaves) in table {
            let mut keys = Keys::new(b"\x10\x11");
            let mut passed = Vec::new();
            let mut left = false;
            for piece in *pieces {
                let (some, is_left) = keys.pass(piece);
                passed.extend(some);
                left |= is_left;
            }
            assert_eq!(
                (passed.as_slice(), left),
                (*expected, *leaves),
                "{pieces:?}"
            );
        }
    }

    #[test]
    fn without_keys_everything_is_passed_on() {
        let mut keys = Keys::new(b"");
        assert_eq!(keys.pass(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
