//! What the kernel knows of a container's processes, read from the host: nothing runs inside.
//!
//! ```text
//!  proc/PID/{status,stat,cmdline,environ,maps,mountinfo,cgroup,limits}   as the kernel gives them
//!  proc/PID/open-files.jsonl                                            one line a descriptor
//!  net/NAMESPACE/{tcp,udp,unix,route,…}                                 one network each
//!  processes.jsonl                                                      one line a process
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::held::{FileFacts, HeldFiles, Looked};
use super::log::Log;
use super::mounts::Mounts;
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::limits::Limits;
use crate::text;

/// The summary's name in the evidence.
pub(crate) const NAME: &str = "processes.jsonl";
/// Files of `/proc/PID` kept as they are, the ones that change first at the front.
const FILES: &[&str] = &[
    "status",
    "stat",
    "cmdline",
    "environ",
    "maps",
    "mountinfo",
    "cgroup",
    "limits",
];
/// Files of `/proc/PID/net` kept for each network namespace.
const NETWORK: &[&str] = &[
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "raw",
    "raw6",
    "icmp",
    "icmp6",
    "unix",
    "netlink",
    "packet",
    "sockstat",
    "arp",
    "route",
    "ipv6_route",
    "if_inet6",
    "fib_trie",
    "dev",
];
/// Namespaces whose numbers are kept.
const NAMESPACES: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
/// Clock ticks a second in `/proc/PID/stat`: a constant of Linux's interface to programs.
const TICKS: i64 = 100;

/// One process; names escaped. The exact bytes are in `proc/PID`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// As the host numbers it.
    pub pid: u32,
    /// Its parent, as the host numbers it.
    pub parent: u32,
    /// As the container numbers it.
    pub inner_pid: Option<u32>,
    /// Its short name.
    pub name: String,
    /// State letter, as found.
    pub state: String,
    /// Effective user.
    pub uid: u32,
    /// Threads.
    pub threads: u32,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Path of its program, as the kernel shows it.
    pub exe: Option<String>,
    /// What is known of the program's file.
    pub exe_file: Option<FileFacts>,
    /// Name of the program's kept bytes below `files/`.
    pub exe_kept: Option<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Numbers of its namespaces.
    pub namespaces: BTreeMap<String, u64>,
    /// Open files.
    pub open_files: usize,
    /// Deleted and memory files it holds open, with the names of their kept bytes.
    pub lost_files: Vec<LostFile>,
}

/// A file that has no path any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostFile {
    /// Descriptor.
    pub fd: u32,
    /// As the kernel shows it.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Name of its kept bytes below `files/`.
    pub kept: String,
}

/// One line of `open-files.jsonl`.
#[derive(Debug, Serialize)]
struct OpenFile {
    fd: u32,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
    /// `fdinfo`: position, flags, mount and what the kind of file adds.
    info: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FileFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
}

/// Records processes into the evidence.
pub(crate) struct Recorder<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) limits: &'a Limits,
    pub(crate) held: &'a mut HeldFiles,
    pub(crate) log: &'a mut Log,
    pub(crate) booted_at: Option<Timestamp>,
    /// Inodes of files that a process has mapped for writing.
    pub(crate) mapped: HashSet<u64>,
}

impl Recorder<'_> {
    /// Records these processes, the container's first one first.
    pub(crate) fn record(&mut self, pids: &[u32]) -> Result<usize> {
        if pids.len() > self.limits.processes {
            let reason = format!("only {} of {}", self.limits.processes, pids.len());
            self.log.not_captured(b"processes", reason)?;
        }
        let mut networks = BTreeSet::new();
        let mut lines = Vec::new();
        let mut count = 0;
        for pid in pids.iter().take(self.limits.processes) {
            let Some(process) = self.process(*pid)? else {
                let what = format!("process {pid}");
                self.log.not_captured(what.as_bytes(), "it ended first")?;
                continue;
            };
            if let Some(network) = process.namespaces.get("net")
                && networks.insert(*network)
            {
                self.network(*pid, *network)?;
            }
            serde_json::to_writer(&mut lines, &process).expect("a process is plain data");
            lines.push(b'\n');
            count += 1;
        }
        files::write(&self.dir.join(NAME), &lines)?;
        Ok(count)
    }

    fn process(&mut self, pid: u32) -> Result<Option<Process>> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let place = self.dir.join(format!("proc/{pid}"));
        files::private_dir(&place)?;
        let mut kept = BTreeMap::new();
        for name in FILES {
            match files::read_start(&proc.join(name), self.limits.proc_file) {
                Ok((bytes, is_whole)) => {
                    files::write(&place.join(name), &bytes)?;
                    if !is_whole {
                        let what = format!("proc/{pid}/{name}");
                        self.log
                            .not_captured(what.as_bytes(), "its end: over the limit")?;
                    }
                    kept.insert(*name, bytes);
                }
                Err(_) if !proc.exists() => return Ok(None),
                Err(error) => {
                    let what = format!("proc/{pid}/{name}");
                    self.log.not_captured(what.as_bytes(), error.chain())?;
                }
            }
        }
        let part = |name| kept.get(name).map_or(&[][..], Vec::as_slice);
        self.mapped.extend(mapped_for_writing(part("maps")));
        let mounts = Mounts::parse(part("mountinfo"));
        let mut process = describe(pid, part("status"), part("stat"), part("cmdline"));
        process.started_at = started_at(part("stat"), self.booted_at);
        process.cwd = link(&proc.join("cwd"));
        process.exe = link(&proc.join("exe"));
        process.namespaces = namespaces(&proc);
        if process.exe.is_some() {
            self.program(&proc, &mounts, &mut process)?;
        }
        self.open_files(&proc, &place, &mounts, &mut process)?;
        Ok(Some(process))
    }

    fn program(&mut self, proc: &Path, mounts: &Mounts, process: &mut Process) -> Result<()> {
        match self.held.look(&proc.join("exe"), mounts, true) {
            Looked::Plain(facts) => process.exe_file = Some(facts),
            Looked::Held(facts, name) => {
                process.exe_file = Some(facts);
                process.exe_kept = Some(name);
            }
            Looked::Refused(reason) => {
                let what = format!("proc/{}/exe", process.pid);
                self.log.not_captured(what.as_bytes(), reason)?;
            }
        }
        Ok(())
    }

    fn open_files(
        &mut self,
        proc: &Path,
        place: &Path,
        mounts: &Mounts,
        process: &mut Process,
    ) -> Result<()> {
        let fds = numbers(&proc.join("fd"));
        process.open_files = fds.len();
        let what = format!("open files of process {}", process.pid);
        if fds.len() > self.limits.open_files {
            let reason = format!("only {} of {}", self.limits.open_files, fds.len());
            self.log.not_captured(what.as_bytes(), reason)?;
        }
        let path = place.join("open-files.jsonl");
        let mut out = std::io::BufWriter::new(files::create(&path)?);
        for fd in fds.into_iter().take(self.limits.open_files) {
            let Ok(target) = fs::read_link(proc.join(format!("fd/{fd}"))) else {
                continue;
            };
            let line = self.open_file(proc, fd, &target, mounts, process)?;
            serde_json::to_writer(&mut out, &line).expect("an open file is plain data");
            out.write_all(b"\n")
                .map_err(EvidenceError::io("write", &path))?;
        }
        out.flush().map_err(EvidenceError::io("write", &path))
    }

    fn open_file(
        &mut self,
        proc: &Path,
        fd: u32,
        target: &Path,
        mounts: &Mounts,
        process: &mut Process,
    ) -> Result<OpenFile> {
        let bytes = target.as_os_str().as_encoded_bytes();
        let (shown, exact) = text::to_text(bytes);
        let info = files::read_start(&proc.join(format!("fdinfo/{fd}")), 4096)
            .map_or_else(|_| Vec::new(), |(bytes, _)| bytes);
        let mut line = OpenFile {
            fd,
            target: shown,
            target_hex: exact,
            info: String::from_utf8_lossy(&info).into_owned(),
            file: None,
            kept: None,
        };
        // Pipes, sockets and the like have no path and no bytes that stay.
        if !bytes.starts_with(b"/") {
            return Ok(line);
        }
        match self
            .held
            .look(&proc.join(format!("fd/{fd}")), mounts, false)
        {
            Looked::Plain(facts) => line.file = Some(facts),
            Looked::Held(facts, name) => {
                process.lost_files.push(LostFile {
                    fd,
                    path: line.target.clone(),
                    size: facts.size,
                    kept: name.clone(),
                });
                line.file = Some(facts);
                line.kept = Some(name);
            }
            Looked::Refused(reason) => {
                let what = format!("proc/{}/fd/{fd} ({})", process.pid, line.target);
                self.log.not_captured(what.as_bytes(), reason)?;
            }
        }
        Ok(line)
    }

    fn network(&mut self, pid: u32, namespace: u64) -> Result<()> {
        let place = self.dir.join(format!("net/{namespace}"));
        files::private_dir(&place)?;
        for name in NETWORK {
            let source = format!("/proc/{pid}/net/{name}");
            // Which tables there are depends on the kernel.
            if let Ok((bytes, is_whole)) =
                files::read_start(Path::new(&source), self.limits.proc_file)
            {
                files::write(&place.join(name), &bytes)?;
                if !is_whole {
                    let what = format!("net/{namespace}/{name}");
                    self.log
                        .not_captured(what.as_bytes(), "its end: over the limit")?;
                }
            }
        }
        Ok(())
    }
}

fn describe(pid: u32, status: &[u8], stat: &[u8], cmdline: &[u8]) -> Process {
    let status = String::from_utf8_lossy(status);
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    };
    let number =
        |name, index| -> Option<u32> { field(name)?.split_whitespace().nth(index)?.parse().ok() };
    let args = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    Process {
        pid,
        parent: number("PPid", 0).unwrap_or(0),
        inner_pid: field("NSpid").and_then(|pids| pids.split_whitespace().last()?.parse().ok()),
        name: text::shown(short_name(stat)),
        state: field("State").unwrap_or("?").chars().take(1).collect(),
        uid: number("Uid", 1).unwrap_or(0),
        threads: number("Threads", 0).unwrap_or(0),
        started_at: None,
        args: if args.is_empty() {
            Vec::new()
        } else {
            args.split(|byte| *byte == 0).map(text::shown).collect()
        },
        exe: None,
        exe_file: None,
        exe_kept: None,
        cwd: None,
        namespaces: BTreeMap::new(),
        open_files: 0,
        lost_files: Vec::new(),
    }
}

/// The inodes behind shared, writable mappings of `maps`.
fn mapped_for_writing(maps: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let lines = maps.split(|byte| *byte == b'\n');
    lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let rights = fields.nth(1).filter(|rights| rights.len() == 4)?;
        let is_shared = rights[1] == b'w' && rights[3] == b's';
        let inode = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
        (is_shared && inode != 0).then_some(inode)
    })
}

/// The second field of `stat`, in parentheses, which may itself hold any of them.
fn short_name(stat: &[u8]) -> &[u8] {
    let open = stat.iter().position(|byte| *byte == b'(');
    let close = stat.iter().rposition(|byte| *byte == b')');
    match (open, close) {
        (Some(open), Some(close)) if open < close => &stat[open + 1..close],
        _ => b"?",
    }
}

/// The 22nd field of `stat`, in clock ticks since boot.
fn started_at(stat: &[u8], booted_at: Option<Timestamp>) -> Option<Timestamp> {
    let after = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
    let ticks: i64 = std::str::from_utf8(after)
        .ok()?
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let since_boot = jiff::SignedDuration::from_millis(ticks.checked_mul(1000 / TICKS)?);
    booted_at?.checked_add(since_boot).ok()
}

fn link(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(text::shown(target.as_os_str().as_encoded_bytes()))
}

/// `net:[4026531840]` as a number, for each kind.
fn namespaces(proc: &Path) -> BTreeMap<String, u64> {
    let number = |kind: &str| -> Option<u64> {
        let target = fs::read_link(proc.join("ns").join(kind)).ok()?;
        let target = target.to_str()?;
        let digits = target.strip_prefix(kind)?.strip_prefix(":[")?;
        digits.strip_suffix(']')?.parse().ok()
    };
    NAMESPACES
        .iter()
        .filter_map(|kind| Some(((*kind).to_owned(), number(kind)?)))
        .collect()
}

/// The entries of a directory that are numbers, sorted.
pub(crate) fn numbers(dir: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_names_itself_like_a_table_is_still_read() {
        let stat = b"7 (a) R 1 (\x1b[2J) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 250 0 0\n";
        let status =
            b"Name:\tx\nPPid:\t4\nNSpid:\t7\t1\nUid:\t0\t33\t0\t0\nThreads:\t2\nState:\tS (x)\n";
        let process = describe(7, status, stat, b"sh\0-c\0a\nb\0");
        assert_eq!(process.name, r"a) R 1 (\x1b[2J");
        assert_eq!(process.args, ["sh", "-c", r"a\nb"]);
        assert_eq!((process.parent, process.inner_pid), (4, Some(1)));
        assert_eq!((process.uid, process.threads), (33, 2));
        let boot = Timestamp::UNIX_EPOCH;
        let started = started_at(stat, Some(boot)).unwrap();
        assert_eq!(started.as_millisecond(), 2500);
    }
}
