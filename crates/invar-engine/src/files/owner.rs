//! Owners on both sides of a copy, where a container's ids are others outside (user namespaces).

use std::io;

use invar_sys::userns::{self, IDS};
use rustix::fs::{Gid, Uid};

use crate::error::{EngineError, Result};

/// The owner `uid` and `gid` of a side whose root is `first`, as this process calls them.
pub(super) fn outside(uid: u32, gid: u32, first: u32) -> io::Result<(Uid, Gid)> {
    let shift = |id: u32| {
        if first != 0 && id >= IDS {
            return Err(io::Error::other(format!(
                "the container's user namespace has no id {id}"
            )));
        }
        Ok(first + id)
    };
    Ok((Uid::from_raw(shift(uid)?), Gid::from_raw(shift(gid)?)))
}

/// Does `work`, which makes files on a side whose root is `first`: they belong to that root.
pub(super) fn as_root<T: Send>(first: u32, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if first == 0 {
        return work();
    }
    userns::as_owner(first, work).map_err(|error| EngineError::Runtime {
        action: "write as the root of the container",
        reason: error.to_string(),
    })?
}
