//! Handing everything over to a new process, as the old one does it.

use std::cell::RefCell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UnixListener;

use super::Gateway;
use crate::control::protocol::Changed;
use crate::error::{GatewayError, Result};
use crate::upgrade::Package;

/// The control socket's descriptor, kept to be handed over.
#[derive(Debug, Default)]
pub(super) struct Control(RefCell<Option<OwnedFd>>);

impl Control {
    pub(super) fn keep(&self, listener: &UnixListener) {
        *self.0.borrow_mut() = listener.as_fd().try_clone_to_owned().ok();
    }

    fn copy(&self) -> Option<OwnedFd> {
        self.0.borrow().as_ref()?.try_clone().ok()
    }
}

/// A handover under way; dropped before it is finished, everything is as it was.
#[derive(Debug)]
pub(crate) struct Handover(Rc<Gateway>);

impl Handover {
    pub(crate) fn begin(gateway: &Rc<Gateway>) -> Result<Self> {
        if gateway.handed_over.get() || gateway.handing_over.replace(true) {
            let reason = "another process is taking over already";
            return Err(GatewayError::refused("take over", reason));
        }
        let begun = Self(Rc::clone(gateway));
        // The successor reads the state file: it must be what is in force.
        gateway.save()?;
        Ok(begun)
    }

    /// The successor serves: ends this process once its open connections are done.
    pub(crate) fn finish(self, drain: Duration) {
        self.0.handed_over.set(true);
        self.0.end(drain);
    }

    /// Copies of all descriptors that go over: the lock, the control socket, the listeners.
    pub(crate) fn package(&self) -> std::io::Result<Package> {
        let lock = self.0.state.lock().try_clone_to_owned()?;
        let control = self.0.control.copy().ok_or(std::io::ErrorKind::NotFound)?;
        let mut package = Package {
            descriptors: vec![lock, control],
            addresses: Vec::new(),
        };
        for (address, bound) in &*self.0.listeners.borrow() {
            for socket in &bound.sockets {
                package.descriptors.push(socket.try_clone()?.into());
                package.addresses.push(*address);
            }
        }
        Ok(package)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        self.0.handing_over.set(false);
    }
}

impl Gateway {
    /// Starts the program that takes over.
    pub(crate) fn start_successor(&self) -> Result<Changed> {
        let Some((program, arguments)) = self.options.successor.split_first() else {
            let reason =
                "this gateway was not told how to start another; start one with --take-over";
            return Err(GatewayError::refused("upgrade", reason));
        };
        let mut child = Command::new(program)
            .args(arguments)
            .spawn()
            .map_err(GatewayError::path("start", program))?;
        // Only a successor that fails ends before this process does.
        std::thread::spawn(move || child.wait());
        Ok(Changed { not_saved: None })
    }
}
