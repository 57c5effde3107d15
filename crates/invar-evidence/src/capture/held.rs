//! Files that would vanish with their processes: held open while the container is frozen, their
//! bytes kept later when that is safe.
//!
//! A handle keeps a deleted file alive after its process was killed, so with `--stop` nothing is
//! copied while frozen. What lives on a file system that may ask a process is never opened.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, memfd_create, openat};
use serde::{Deserialize, Serialize};

use super::log::Log;
use super::mounts::Mounts;
use super::pace::Pace;
use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::limits::{Budget, Limits};
use crate::tree::{file_type, reopen, stat, take};

/// The directory of kept bytes in the evidence.
pub(crate) const DIR: &str = "files";

/// An open file as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Type of its file system.
    pub file_system: String,
    /// Number of its device, `major:minor`.
    pub device: String,
    /// Its number there.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Names it has; 0 for a deleted one.
    pub links: u32,
}

/// A file whose bytes are to be kept.
#[derive(Debug)]
struct Held {
    handle: OwnedFd,
    name: String,
}

/// What was looked at, and what of it is held.
#[derive(Debug)]
pub(crate) struct HeldFiles {
    files: Vec<Held>,
    /// By device and inode: one file may be open many times.
    names: HashMap<(String, u64), String>,
    most: usize,
    /// The device that memory files live on; it is never mounted.
    memory: Option<(u32, u32)>,
}

/// Whether and why a file's bytes are kept.
#[derive(Debug)]
pub(crate) enum Looked {
    /// Not a regular file, or nothing to keep: also in a directory that is taken.
    Plain(FileFacts),
    /// Kept under this name in [`DIR`].
    Held(FileFacts, String),
    /// Left alone, and why.
    Refused(String),
}

impl HeldFiles {
    pub(crate) fn new(limits: &Limits) -> Self {
        let memory = memfd_create(c"invar", MemfdFlags::CLOEXEC)
            .and_then(|file| stat(file.as_fd(), c""))
            .ok();
        Self {
            files: Vec::new(),
            names: HashMap::new(),
            most: limits.held_files,
            memory: memory.map(|stat| (stat.stx_dev_major, stat.stx_dev_minor)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Looks at `/proc/PID/exe` or `/proc/PID/fd/N` and holds it when its bytes would be lost:
    /// deleted, in memory only, or a program that runs from outside the container's root.
    pub(crate) fn look(&mut self, link: &Path, mounts: &Mounts, is_program: bool) -> Looked {
        self.try_look(link, mounts, is_program)
            .unwrap_or_else(|error| Looked::Refused(error.to_string()))
    }

    fn try_look(&mut self, link: &Path, mounts: &Mounts, is_program: bool) -> io::Result<Looked> {
        let seen = openat(CWD, link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mount = mount_id(&seen)?.and_then(|id| mounts.get(id));
        if let Some(mount) = mount
            && !mount.is_local()
        {
            return Ok(Looked::Refused(format!(
                "it is on {:?}, which may ask a process",
                mount.kind
            )));
        }
        // What the kernel has in memory anyway; no file system is asked.
        let stat = stat(seen.as_fd(), c"")?;
        let is_memory = self.memory == Some((stat.stx_dev_major, stat.stx_dev_minor));
        let is_file = file_type(&stat) == FileType::RegularFile;
        let file_system = match mount {
            Some(mount) => mount.kind.clone(),
            None if is_memory => "memory".to_owned(),
            // A terminal or `/dev/null` of the host, opened before the container was entered.
            None if !is_file => "of the host".to_owned(),
            None => {
                let reason = "its file system is not mounted where its process is";
                return Ok(Looked::Refused(reason.to_owned()));
            }
        };
        let facts = FileFacts {
            device: format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            links: stat.stx_nlink,
            file_system,
        };
        let is_lost =
            stat.stx_nlink == 0 || is_memory || (is_program && facts.file_system != "overlay");
        if !is_file || !is_lost {
            return Ok(Looked::Plain(facts));
        }
        let key = (facts.device.clone(), facts.inode);
        if let Some(name) = self.names.get(&key) {
            return Ok(Looked::Held(facts, name.clone()));
        }
        if self.files.len() >= self.most {
            return Ok(Looked::Refused(format!(
                "more than {} files would have to be held open",
                self.most
            )));
        }
        let name = format!("{:04}", self.files.len());
        self.files.push(Held {
            handle: reopen(seen.as_fd())?,
            name: name.clone(),
        });
        self.names.insert(key, name.clone());
        Ok(Looked::Held(facts, name))
    }

    /// Writes the bytes of every held file into `dir`; their digests by name.
    pub(crate) fn keep(
        &self,
        dir: &Path,
        budget: &mut Budget,
        pace: &mut Pace<'_>,
        log: &mut Log,
    ) -> Result<Vec<(String, String)>> {
        if self.files.is_empty() {
            return Ok(Vec::new());
        }
        crate::files::private_dir(&dir.join(DIR))?;
        let mut digests = Vec::new();
        for held in &self.files {
            let name = format!("{DIR}/{}", held.name);
            let path = dir.join(&name);
            let target = OwnedFd::from(crate::files::create(&path)?.into_parts().0);
            let between = &mut || pace.keep(log).map_err(io::Error::other);
            let allowance = budget.allowance();
            let copied = take::content(&held.handle, &target, allowance, between);
            match copied {
                Ok(copied) => {
                    budget.spend(copied.bytes);
                    if !copied.is_whole {
                        let reason = format!("only {} bytes: the limit was reached", copied.bytes);
                        log.not_captured(name.as_bytes(), reason)?;
                    }
                }
                Err(error) => log.not_captured(name.as_bytes(), error)?,
            }
            let now = stat(held.handle.as_fd(), c"");
            let has_changed = now.is_ok_and(|now| {
                pace.has_changed_since(now.stx_ctime.into()) || pace.is_mapped(now.stx_ino)
            });
            if has_changed {
                let reason = "it may have changed after the container went on: what is kept may \
                              differ";
                log.not_captured(name.as_bytes(), reason)?;
            }
            let digest = digest::content(crate::tree::open_regular(&path)?)
                .map_err(EvidenceError::io("hash", &path))?;
            let (digest::ContentDigest::Whole(digest) | digest::ContentDigest::Sparse(digest)) =
                digest;
            digests.push((held.name.clone(), digest));
        }
        Ok(digests)
    }
}

/// The mount a handle was opened through (`proc_pid_fdinfo(5)`).
fn mount_id(handle: &OwnedFd) -> io::Result<Option<u64>> {
    let path = format!("/proc/self/fdinfo/{}", handle.as_raw_fd());
    let text = fs_err::read_to_string(path)?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(id.and_then(|id| id.trim().parse().ok()))
}
