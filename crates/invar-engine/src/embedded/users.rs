//! Users and groups by name, looked up inside a container's root.
//!
//! The files are the image's: bounded, and opened with the root as the end of every link.

use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::config::User;
use crate::error::{EngineError, Result};

/// Bytes of `/etc/passwd` and `/etc/group` that are read; real ones are far smaller.
const LIMIT: u64 = 4 << 20;

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Groups beside `gid`.
    pub(super) groups: Vec<u32>,
    /// Home directory; `/` when the root does not know the user.
    pub(super) home: PathBuf,
}

/// Finds a user in the root `root`: `NAME`, `UID`, or either with `:GROUP` or `:GID` (Docker's
/// `--user`). A number need not be listed; a name must.
pub(super) fn resolve(root: BorrowedFd<'_>, user: &User) -> Result<Account> {
    let passwd = read(root, "etc/passwd")?;
    let groups = read(root, "etc/group")?;
    resolve_in(&passwd, &groups, &user.0)
}

fn resolve_in(passwd: &str, groups: &str, user: &str) -> Result<Account> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let listed = fields(passwd, 6).find(|entry| entry[0] == name || entry[2] == name);
    let number = name.parse().ok();
    let uid = listed
        .as_ref()
        .and_then(|entry| entry[2].parse().ok())
        .or(number);
    let Some(uid) = uid else {
        return Err(unknown("user", name, "/etc/passwd"));
    };
    let (gid, extra) = if group.is_empty() {
        let gid = listed.as_ref().and_then(|entry| entry[3].parse().ok());
        let login = listed.as_ref().map_or("", |entry| entry[0]);
        (gid.unwrap_or(0), memberships(groups, login))
    } else {
        (group_number(groups, group)?, Vec::new())
    };
    let home = listed
        .map(|entry| entry[5])
        .filter(|home| home.starts_with('/'));
    Ok(Account {
        uid,
        gid,
        groups: extra.into_iter().filter(|other| *other != gid).collect(),
        home: PathBuf::from(home.unwrap_or("/")),
    })
}

fn group_number(groups: &str, name: &str) -> Result<u32> {
    let listed = fields(groups, 3).find(|entry| entry[0] == name);
    listed
        .and_then(|entry| entry[2].parse().ok())
        .or_else(|| name.parse().ok())
        .ok_or_else(|| unknown("group", name, "/etc/group"))
}

fn memberships(groups: &str, login: &str) -> Vec<u32> {
    if login.is_empty() {
        return Vec::new();
    }
    fields(groups, 4)
        .filter(|entry| entry[3].split(',').any(|member| member == login))
        .filter_map(|entry| entry[2].parse().ok())
        .collect()
}

/// The lines that have at least so many fields (`passwd(5)`, `group(5)`).
fn fields(text: &str, least: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(move |fields| fields.len() >= least)
}

fn unknown(what: &str, name: &str, file: &str) -> EngineError {
    EngineError::InvalidConfig {
        what: format!("--user: {what} {name:?}"),
        reason: format!("the container's {file} does not list it; a number works without"),
    }
}

/// A file of the root as text; empty when it is not there.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let failed = |source| EngineError::io("read", &Path::new("/").join(path), source);
    let file = match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(error) => return Err(failed(error.into())),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\nbad\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:web,root\nweb:x:34:\nlogs:x:4:web\n";

    fn account(uid: u32, gid: u32, groups: &[u32], home: &str) -> Account {
        Account {
            uid,
            gid,
            groups: groups.to_vec(),
            home: PathBuf::from(home),
        }
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        for (user, expected) in [
            ("web", account(33, 34, &[50, 4], "/var/www")),
            ("33", account(33, 34, &[50, 4], "/var/www")),
            ("web:staff", account(33, 50, &[], "/var/www")),
            ("33:0", account(33, 0, &[], "/var/www")),
            ("1000", account(1000, 0, &[], "/")),
            ("1000:1000", account(1000, 1000, &[], "/")),
            ("0", account(0, 0, &[50], "/root")),
        ] {
            assert_eq!(resolve_in(PASSWD, GROUP, user).unwrap(), expected, "{user}");
        }
    }

    #[test]
    fn an_unknown_name_is_named_with_the_file_that_lacks_it() {
        let user = resolve_in(PASSWD, GROUP, "mallory")
            .unwrap_err()
            .to_string();
        assert!(
            user.contains("mallory") && user.contains("/etc/passwd"),
            "{user}"
        );
        let group = resolve_in(PASSWD, GROUP, "web:wheel")
            .unwrap_err()
            .to_string();
        assert!(
            group.contains("wheel") && group.contains("/etc/group"),
            "{group}"
        );
    }
}
