//! A Docker or Podman container's root, found through what `inspect` says of its storage driver.
//!
//! Only the overlay drivers are read: they name a lower list (top first, the engine's own init
//! layer included), an upper and a merged directory. A remote daemon and the containerd image
//! store name none; the error then says what is lost.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use invar_sys::mount::Overlay;

use crate::container::{RootFs, Upper};
use crate::error::{EngineError, Result};

/// Overlay allows 500 lower layers (`OVL_MAX_STACK`); no engine makes more.
const MAX_LOWERS: usize = 500;

/// Opens the root of `container` from its `GraphDriver` description.
pub(super) fn open(
    container: &str,
    driver: &str,
    data: &HashMap<String, String>,
) -> Result<RootFs> {
    let (Some(lowers), Some(upper)) = (data.get("LowerDir"), data.get("UpperDir")) else {
        return Err(EngineError::Unsupported {
            what: format!("reading the root of {container:?} directly"),
            reason: format!(
                "its storage driver {driver:?} does not name an overlay's directories; only the \
                 engine's own diff is available, which misses edits that keep size and mtime, \
                 extended attributes and the previous content"
            ),
        });
    };
    let upper_path = PathBuf::from(upper);
    Ok(RootFs {
        lower: open_lowers(lowers)?,
        upper: Some(Upper {
            dir: open_dir(&upper_path)?,
            path: upper_path,
        }),
    })
}

/// One merged, read-only directory of the lower layers.
fn open_lowers(list: &str) -> Result<OwnedFd> {
    let paths: Vec<&Path> = list.split(':').map(Path::new).collect();
    if paths.len() > MAX_LOWERS {
        return Err(EngineError::InvalidConfig {
            what: "the container's lower directories".to_owned(),
            reason: format!(
                "{} are more than overlayfs stacks ({MAX_LOWERS})",
                paths.len()
            ),
        });
    }
    let mut handles = paths
        .iter()
        .map(|path| open_dir(path))
        .collect::<Result<Vec<_>>>()?;
    if handles.len() == 1 {
        return Ok(handles.remove(0));
    }
    let lowers = handles.iter().map(|handle| handle.as_fd()).collect();
    let overlay = Overlay {
        source: "invar-lower",
        lowers,
        data: Vec::new(),
        upper: None,
    };
    overlay.mount().map_err(|source| EngineError::Io {
        action: "mount the lower layers of",
        path: paths[0].to_owned(),
        source,
    })
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|errno| EngineError::Io {
        action: "open the container's layer (is the engine on this machine?)",
        path: path.to_owned(),
        source: errno.into(),
    })
}
