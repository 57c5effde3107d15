//! The processes of a container that another engine runs: all that share its first process's
//! control group, read from `/proc` so that no cgroup mount and no engine's naming is assumed.

use std::path::{Path, PathBuf};

use crate::error::{EngineError, Result};

/// Every process in the control group of `init` or below it, `init` first. Exact only while the
/// container is frozen.
pub(super) fn of_container(init: u32) -> Result<Vec<u32>> {
    let path = PathBuf::from(format!("/proc/{init}/cgroup"));
    let text = fs_err::read_to_string(&path).map_err(|source| unreadable(&path, source))?;
    let Some(group) = own_group(&text) else {
        return Err(EngineError::Unsupported {
            what: format!("listing the processes of the container of process {init}"),
            reason: "it has no control group of its own".to_owned(),
        });
    };
    let mut pids = vec![init];
    let proc = Path::new("/proc");
    for entry in fs_err::read_dir(proc).map_err(|source| unreadable(proc, source))? {
        let entry = entry.map_err(|source| unreadable(proc, source))?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process that ended meanwhile has no group any more.
        let Ok(text) = fs_err::read_to_string(entry.path().join("cgroup")) else {
            continue;
        };
        if pid != init && is_in(&text, &group) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// A line of `/proc/PID/cgroup`, `hierarchy:controllers:path` (cgroups(7)).
type Group = (String, String);

/// The deepest path among the hierarchies: the root group says nothing.
fn own_group(text: &str) -> Option<Group> {
    lines(text)
        .filter(|(_, path)| path != "/")
        .max_by_key(|(_, path)| path.split('/').count())
}

fn is_in(text: &str, (controllers, group): &Group) -> bool {
    lines(text).any(|(theirs, path)| {
        theirs == *controllers
            && path
                .strip_prefix(group.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn lines(text: &str) -> impl Iterator<Item = Group> + '_ {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    })
}

fn unreadable(path: &Path, source: std::io::Error) -> EngineError {
    EngineError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_group_identifies_the_container() {
        let text = "9:name=systemd:/docker/ab\n8:pids:/docker/ab\n1:cpu:/\n0::/\n";
        let group = own_group(text).unwrap();
        assert!(is_in(text, &group));
        assert!(is_in(
            "8:pids:/docker/ab/nested\n9:name=systemd:/docker/ab/nested\n",
            &group
        ));
        assert!(!is_in(
            "8:pids:/docker/abc\n9:name=systemd:/docker/abc\n",
            &group
        ));
    }

    #[test]
    fn a_process_in_the_root_group_has_no_container() {
        assert_eq!(own_group("0::/\n1:cpu:/\n"), None);
    }
}
