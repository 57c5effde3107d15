//! Names for what was moved: each file of upper that comes from elsewhere in the image carries its
//! origin's handle, and the image's files that are gone or changed are asked for theirs.

use std::collections::HashMap;
use std::os::fd::AsFd as _;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::Result;
use crate::ancestors::tree_order;
use crate::change::{Change, Kind};
use crate::detail::Provenance;
use crate::dir::{file_type, has_changed, names, open_beneath, open_dir, stat};
use crate::origin::Origin;
use crate::overlay::join;
use crate::walk::{Found, Walk, read_error};

/// Files of the image that are asked for their handle; a rename out of a larger tree stays
/// without a name for its source.
const MOST_ASKED: usize = 1_000_000;

/// Where an origin is in the image, and whether something else or nothing is there now.
struct Source {
    path: Vec<u8>,
    is_gone: bool,
}

/// Fills in where moved paths came from.
pub(crate) fn name(walk: &Walk<'_>, found: &Found, changes: &mut [Change]) -> Result<()> {
    if found.moved.is_empty() {
        return Ok(());
    }
    let sources = sources(walk, found, changes)?;
    for (path, origin) in &found.moved {
        let Some(source) = sources.get(origin).filter(|source| source.path != *path) else {
            continue;
        };
        let at = changes.binary_search_by(|change| tree_order(&change.path, path));
        let detail = at.ok().and_then(|at| changes[at].detail.as_mut());
        if let Some(detail) = detail {
            let from = source.path.clone();
            detail.provenance = Some(if source.is_gone {
                Provenance::Renamed { from: Some(from) }
            } else {
                Provenance::Linked { from }
            });
        }
    }
    Ok(())
}

fn sources(walk: &Walk<'_>, found: &Found, changes: &[Change]) -> Result<HashMap<Origin, Source>> {
    let mut asked: Vec<(Vec<u8>, bool)> = found
        .unchanged_links
        .iter()
        .map(|path| (path.clone(), false))
        .collect();
    for change in changes {
        match change.actual {
            Some(Kind::Deleted) => asked.push((change.path.clone(), true)),
            Some(Kind::Changed) => {
                let detail = change.detail.as_ref();
                let how = detail.and_then(|detail| detail.provenance.as_ref());
                asked.push((change.path.clone(), how != Some(&Provenance::Edited)));
            }
            _ => {}
        }
    }
    let mut sources = HashMap::new();
    let mut count = 0;
    while let Some((path, is_gone)) = asked.pop() {
        count += 1;
        if count > MOST_ASKED {
            break;
        }
        match ask(walk, &path, is_gone, &mut asked) {
            Ok(Some(origin)) => {
                sources.insert(origin, Source { path, is_gone });
            }
            Ok(None) => {}
            Err(errno) if has_changed(errno) => {}
            Err(errno) => return Err(read_error("look at", &path, errno)),
        }
    }
    Ok(sources)
}

/// The handle of a path of the image. What is in a directory that is gone is asked as well.
fn ask(
    walk: &Walk<'_>,
    path: &[u8],
    is_gone: bool,
    asked: &mut Vec<(Vec<u8>, bool)>,
) -> rustix::io::Result<Option<Origin>> {
    let entry = open_beneath(walk.lower, path, OFlags::PATH | OFlags::NOFOLLOW)?;
    if is_gone && file_type(&stat(entry.as_fd(), c"")?) == FileType::Directory {
        let dir = match open_dir(walk.lower, path) {
            Err(Errno::NOENT) => return Ok(None),
            dir => dir?,
        };
        asked.extend(
            names(&dir)?
                .iter()
                .map(|(name, _)| (join(path, name.to_bytes()), true)),
        );
    }
    Origin::of_lower(entry.as_fd(), c"")
}
