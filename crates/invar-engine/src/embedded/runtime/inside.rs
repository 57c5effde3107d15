//! Who a program is in its container's user namespace, and its way in.
//!
//! Everything of the container is set up by the host's root, and its namespaces stay the host's:
//! the program enters the user namespace last. So not even a capability that was added gives it
//! anything over its own mounts, network or host name.

use std::os::fd::{AsFd as _, OwnedFd};

use invar_sys::userns::{self, Identity};
use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
use serde::{Deserialize, Serialize};

use super::spec::Inputs;

/// A program's identity, in the container's ids.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::embedded) struct Inside {
    /// What id 0 is outside.
    pub(in crate::embedded) first: u32,
    pub(in crate::embedded) uid: u32,
    pub(in crate::embedded) gid: u32,
    pub(in crate::embedded) groups: Vec<u32>,
    /// As `CAP_…`.
    pub(in crate::embedded) capabilities: Vec<String>,
}

impl Inside {
    pub(in crate::embedded) fn of(inputs: &Inputs<'_>) -> Option<Self> {
        let first = inputs.first?;
        let account = inputs.account;
        Some(Self {
            first,
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
            capabilities: inputs.capabilities.clone(),
        })
    }

    /// Makes this process the program's user.
    pub(super) fn enter(&self, namespace: &OwnedFd, owns_streams: bool) -> std::io::Result<()> {
        if owns_streams {
            self.give_streams()?;
        }
        let names: Vec<String> = self
            .capabilities
            .iter()
            .map(|name| name.strip_prefix("CAP_").unwrap_or(name).to_owned())
            .collect();
        userns::enter(
            namespace.as_fd(),
            Identity {
                uid: self.uid,
                gid: self.gid,
                groups: &self.groups,
                capabilities: &names,
            },
        )
    }

    /// Lets the program open its own output again by name (`/dev/stdout`): the pipes and the
    /// terminal the engine made for it become its own. What it inherits from the caller does not.
    fn give_streams(&self) -> std::io::Result<()> {
        let uid = Uid::from_raw(self.first.saturating_add(self.uid));
        let gid = Gid::from_raw(self.first.saturating_add(self.gid));
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        for stream in [stdout.as_fd(), stderr.as_fd()] {
            let kind = FileType::from_raw_mode(fstat(stream)?.st_mode);
            match kind {
                FileType::Fifo => fchown(stream, Some(uid), Some(gid))?,
                FileType::CharacterDevice => fchown(stream, Some(uid), None)?,
                _ => {}
            }
        }
        Ok(())
    }
}
