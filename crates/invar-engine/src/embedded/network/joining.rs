//! A running container joins a network, or leaves one. The command does what the shim does at a
//! start, from a thread that enters the container's network.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use fs_err as fs;
use invar_sys::network::{Routing, enter};
use invar_sys::process::Identity;

use super::table::{self, EndpointRow, NetworkRow};
use super::wiring::{Wiring, gateways, interface};
use super::{Networks, files, forget_flows, lock, places_of};
use crate::config::Membership;
use crate::container::ContainerId;
use crate::embedded::registry::Entry;
use crate::error::{EngineError, Result};

/// A run of a container.
#[derive(Debug)]
pub(in crate::embedded) struct Running {
    /// Its network namespace.
    pub(in crate::embedded) namespace: OwnedFd,
    /// The process that supervises it.
    pub(in crate::embedded) shim: Identity,
    /// Where that sees the container's files for `/etc`.
    pub(in crate::embedded) etc: PathBuf,
}

impl Networks {
    /// Id and name of a network; the default one is made when first asked for.
    pub(in crate::embedded) fn resolve(&self, name: &str) -> Result<(String, String)> {
        let row = self.find_or_default(name)?;
        Ok((row.id, row.name))
    }

    /// Whether a name, or the beginning of an id, is that of this network.
    pub(in crate::embedded) fn is(&self, name: &str, id: &str) -> bool {
        let found = self.with(|connection| table::find(connection, name));
        found.is_ok_and(|row| row.id == id)
    }

    /// Whether a run has a place in the network.
    pub(in crate::embedded) fn has_place(&self, container: &ContainerId, id: &str) -> Result<bool> {
        let rows = self.with(|connection| table::endpoints_of(connection, container))?;
        Ok(rows.iter().any(|row| row.network == id))
    }

    /// Gives a run one more place.
    pub(in crate::embedded) fn join(
        &self,
        entry: &Entry,
        membership: &Membership,
        running: &Running,
    ) -> Result<()> {
        let network = self.find_or_default(&membership.network)?;
        let endpoint = self.database.write(|transaction| -> Result<_> {
            self.sweep(transaction, Some(&entry.id))?;
            let mine = table::endpoints_of(transaction, &entry.id)?;
            let is_free = |position: &u32| mine.iter().all(|row| row.position != *position);
            let mut positions = 0..=u32::MAX;
            let position = positions.find(is_free).unwrap_or(u32::MAX);
            let endpoint = super::place(transaction, entry, &network, membership, position)?;
            table::insert_endpoint(transaction, &endpoint)?;
            Ok(endpoint)
        })?;
        let place = [(network, endpoint)];
        let joined = self.realize(&place).and_then(|()| {
            let [(network, endpoint)] = &place;
            let cable = Wiring::new(network, endpoint);
            inside(running, |host| cable.connect(host)).map_err(failed)?;
            self.tell_files(entry, running)
        });
        if joined.is_err() {
            let [(network, endpoint)] = &place;
            // The error that stopped it matters more than what taking it back says.
            self.unplug(entry, network, endpoint, running).ok();
        }
        joined
    }

    /// Takes a run's place in a network back.
    pub(in crate::embedded) fn leave(
        &self,
        entry: &Entry,
        network: &str,
        running: &Running,
    ) -> Result<()> {
        let places = self.with(|connection| places_of(connection, &entry.id))?;
        let Some((network, endpoint)) = places.iter().find(|(row, _)| row.id == network) else {
            return Ok(());
        };
        self.unplug(entry, network, endpoint, running)?;
        self.tell_files(entry, running)
    }

    fn unplug(
        &self,
        entry: &Entry,
        network: &NetworkRow,
        endpoint: &EndpointRow,
        running: &Running,
    ) -> Result<()> {
        let link = interface(endpoint);
        let places = self.with(|connection| places_of(connection, &entry.id))?;
        let others = places.iter().filter(|(other, _)| other.id != network.id);
        let ways: Vec<_> = others.flat_map(|(other, _)| gateways(other)).collect();
        // The link first: while the row is there, nobody else gets the address.
        inside(running, |_host| {
            let inside = Routing::open()?;
            inside.remove_link(&link)?;
            // The way out may have been through it.
            ways.iter()
                .try_for_each(|gateway| inside.add_default_route(*gateway))
        })
        .map_err(failed)?;
        self.with(|connection| table::delete_endpoint(connection, endpoint))?;
        let lock = lock()?;
        self.apply_rules()?;
        drop(lock);
        forget_flows(network, endpoint);
        Ok(())
    }

    /// Writes a run's files anew, in place: they are mounted one by one.
    fn tell_files(&self, entry: &Entry, running: &Running) -> Result<()> {
        let (hosts, resolver) = {
            let places = self.with(|connection| places_of(connection, &entry.id))?;
            files(entry, &places)
        };
        for (name, text) in [("hosts", hosts), ("resolv.conf", resolver)] {
            // In the shim's mounts; nothing of the container is on the way there.
            let inner = running.etc.join(name);
            let inner = inner.strip_prefix("/").unwrap_or(&inner);
            let path = PathBuf::from(format!("/proc/{}/root", running.shim.pid)).join(inner);
            let failed = |source| EngineError::io("write", &path, source);
            let file = fs::OpenOptions::new().write(true).open(&path);
            let mut file = file.map_err(failed)?;
            if Identity::of(running.shim.pid) != Some(running.shim) {
                return Err(failed(io::Error::other("the container ended just now")));
            }
            file.set_len(0).map_err(failed)?;
            io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
        }
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the form map_err takes")]
fn failed(error: io::Error) -> EngineError {
    EngineError::Runtime {
        action: "change the container's networks",
        reason: error.to_string(),
    }
}

/// Does something in a container's network, with a connection to the host's.
fn inside(
    running: &Running,
    work: impl FnOnce(&Routing) -> io::Result<()> + Send,
) -> io::Result<()> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let host = Routing::open()?;
            enter(running.namespace.as_fd())?;
            work(&host)
        });
        let done = worker.join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
