//! Ids of the host for the users of a container in a user namespace (`--userns auto`).
//!
//! Each such container has a range of its own from its creation to its removal. On disk its files
//! keep the ids they have inside; mounts shift them (`mount_setattr(2)`, `MOUNT_ATTR_IDMAP`), so
//! that a comparison and a capture see what an unshifted container would have written.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use fs_err as fs;
use invar_image::state::Database;
use invar_sys::userns::{self, IDS};
use rusqlite::{OptionalExtension as _, Transaction};

use crate::container::ContainerId;
use crate::error::{EngineError, Result};

/// Created with the containers' own table.
pub(super) const MIGRATION: &str = "
    CREATE TABLE owners (container TEXT PRIMARY KEY, first INTEGER NOT NULL UNIQUE);
";
/// Whose lines in `/etc/subuid` and `/etc/subgid` are ours to give.
const OWNER: &str = "invar";
/// Where there are none: what systemd's list of ids leaves to containers
/// (`systemd.io/UIDS-GIDS`).
const POOL: (u32, u32) = (524_288, 1_879_048_192);
/// Bytes of `/etc/subuid` that are read.
const LIMIT: usize = 1 << 20;

/// A container's ids on the host, and the namespace that maps to them.
#[derive(Debug)]
pub(super) struct Owners {
    pub(super) first: u32,
    pub(super) namespace: OwnedFd,
}

impl Owners {
    pub(super) fn new(first: u32) -> Result<Self> {
        let namespace = userns::create(first).map_err(|error| EngineError::Runtime {
            action: "make a user namespace (sysctl user.max_user_namespaces must not be 0)",
            reason: error.to_string(),
        })?;
        Ok(Self { first, namespace })
    }

    /// What `directory` shows, with this container's owners.
    pub(super) fn shift(&self, directory: OwnedFd) -> Result<OwnedFd> {
        invar_sys::mount::with_owner_map(directory, self.namespace.as_fd()).map_err(|error| {
            EngineError::Unsupported {
                what: "--userns auto here".to_owned(),
                reason: format!(
                    "the file system of the image or of the state root does not show shifted \
                     owners (idmapped mounts, Linux 5.19): {error}"
                ),
            }
        })
    }
}

/// Takes a range for a new container.
pub(super) fn take(transaction: &Transaction<'_>, id: &ContainerId) -> Result<u32> {
    let mut taken: Vec<(u32, u32)> = transaction
        .prepare("SELECT first FROM owners")?
        .query_map([], |row| row.get::<_, u32>(0))?
        .map(|first| Ok((first?, IDS)))
        .collect::<rusqlite::Result<_>>()?;
    let (ours, others) = listed();
    taken.extend(others);
    taken.extend(in_use());
    let pool = if ours.is_empty() {
        vec![(POOL.0, POOL.1 - POOL.0)]
    } else {
        ours
    };
    let first = choose(&pool, &taken, rand::random()).ok_or_else(|| EngineError::Runtime {
        action: "find ids for the container's users",
        reason: format!(
            "every range of {IDS} ids is taken; remove a container, or give the user {OWNER:?} \
             more in /etc/subuid and /etc/subgid"
        ),
    })?;
    let sql = "INSERT INTO owners VALUES (?1, ?2)";
    transaction.execute(sql, (id.as_str(), first))?;
    Ok(first)
}

/// The range of a container.
pub(super) fn of(database: &Database, id: &ContainerId) -> Result<Option<u32>> {
    let sql = "SELECT first FROM owners WHERE container = ?1";
    let connection = database.connection();
    Ok(connection
        .query_row(sql, [id.as_str()], |row| row.get(0))
        .optional()?)
}

/// One of the ranges in `pool` that overlaps nothing taken; which, `random` says.
fn choose(pool: &[(u32, u32)], taken: &[(u32, u32)], random: u32) -> Option<u32> {
    let slots: u32 = pool.iter().map(|(_, count)| count / IDS).sum();
    let at = |slot: u32| {
        let mut slot = slot;
        pool.iter().find_map(|(first, count)| {
            let here = count / IDS;
            if slot < here {
                return Some(first + slot * IDS);
            }
            slot -= here;
            None
        })
    };
    let is_free = |candidate: u32| {
        let (from, to) = (u64::from(candidate), u64::from(candidate) + u64::from(IDS));
        taken.iter().all(|(first, count)| {
            let first = u64::from(*first);
            to <= first || first + u64::from(*count) <= from
        })
    };
    (0..slots)
        .filter_map(|step| at((random % slots + step) % slots))
        .find(|candidate| is_free(*candidate))
}

type Ranges = Vec<(u32, u32)>;

/// Our ranges in `/etc/subuid` that `/etc/subgid` has too, and everybody else's.
fn listed() -> (Ranges, Ranges) {
    let users = read(Path::new("/etc/subuid"));
    let groups = read(Path::new("/etc/subgid"));
    let of_us = |lines: &[(String, u32, u32)]| -> Ranges {
        let ours = lines.iter().filter(|(name, ..)| name == OWNER);
        ours.map(|(_, first, count)| (*first, *count)).collect()
    };
    let of_groups = of_us(&groups);
    let mut ours = of_us(&users);
    ours.retain(|range| of_groups.contains(range));
    let others = users
        .iter()
        .chain(&groups)
        .filter(|(name, ..)| name != OWNER)
        .map(|(_, first, count)| (*first, *count))
        .collect();
    (ours, others)
}

fn read(path: &Path) -> Vec<(String, u32, u32)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    parse(&text[..text.len().min(LIMIT)])
}

/// `NAME:FIRST:COUNT` a line (`subuid(5)`).
fn parse(text: &str) -> Vec<(String, u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let first: u32 = fields.next()?.trim().parse().ok()?;
            let count: u32 = fields.next()?.trim().parse().ok()?;
            first.checked_add(count)?;
            Some((name, first, count))
        })
        .collect()
}

/// Ranges that processes have this moment, of whatever engine or state root.
fn in_use() -> Ranges {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut ranges: Ranges = processes
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .filter_map(|entry| fs::read_to_string(entry.path().join("uid_map")).ok())
        .flat_map(|map| map.lines().filter_map(outside).collect::<Vec<_>>())
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// The ids of the host in a line of `uid_map`, unless it is the host's own map.
fn outside(line: &str) -> Option<(u32, u32)> {
    let fields: Vec<u32> = line
        .split_whitespace()
        .map_while(|n| n.parse().ok())
        .collect();
    match fields[..] {
        [_, 0, u32::MAX] => None,
        [_, first, count] => Some((first, count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_overlaps_nothing_that_is_taken() {
        let pool = [(100_000, IDS * 2), (1_000_000, IDS)];
        for random in [0, 1, 2, 7, u32::MAX] {
            let mut taken = vec![(100_000 + IDS - 1, 1)];
            let mut found = Vec::new();
            while let Some(first) = choose(&pool, &taken, random) {
                taken.push((first, IDS));
                found.push(first);
            }
            found.sort_unstable();
            assert_eq!(found, [100_000 + IDS, 1_000_000], "{random}");
        }
        assert_eq!(choose(&[], &[], 3), None);
        assert_eq!(choose(&[(5, IDS - 1)], &[], 3), None, "too few");
    }

    #[test]
    fn lines_that_are_no_ranges_are_left_out() {
        let text = "invar:100000:65536\nbad\na:b:c\nx:4294967295:2\ny:5:6 \n";
        let lines = parse(text);
        assert_eq!(
            lines,
            [("invar".to_owned(), 100_000, 65536), ("y".to_owned(), 5, 6)]
        );
        assert_eq!(outside("         0          0 4294967295"), None);
        assert_eq!(outside("0 100000 65536"), Some((100_000, 65536)));
    }
}
