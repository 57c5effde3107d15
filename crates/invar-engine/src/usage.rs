//! What a running container uses: counters of its control groups and its network devices, for
//! containers of any engine on this machine.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Serialize;

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// Counters since a container was started, but for memory and processes: those are as of now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Processor time in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory in bytes without what the kernel can drop at once (inactive file pages), as Docker
    /// counts.
    pub memory: u64,
    /// Most memory; `None` without a limit.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from disks.
    pub disk_read: u64,
    /// Bytes written to disks.
    pub disk_written: u64,
    /// Bytes received, loopback left out; `None` when it has no network of its own.
    pub network_received: Option<u64>,
    /// Bytes sent.
    pub network_sent: Option<u64>,
}

/// What the container whose first process this is uses; `None` when it has ended.
pub fn usage(init: u32) -> Option<Usage> {
    let groups = Groups::of(init)?;
    let mut usage = Usage::default();
    groups.read(&mut usage);
    if let Some((received, sent)) = network(init) {
        usage.network_received = Some(received);
        usage.network_sent = Some(sent);
    }
    Some(usage)
}

/// The control groups of a process.
struct Groups {
    /// Controllers and path, as `/proc/PID/cgroup` lists them.
    lines: Vec<(String, PathBuf)>,
    is_unified: bool,
}

impl Groups {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let lines = text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?.to_owned();
            let path = fields.next()?.trim_start_matches('/');
            Some((controllers, PathBuf::from(path)))
        });
        Some(Self {
            lines: lines.collect(),
            is_unified: Path::new(MOUNT).join("cgroup.controllers").exists(),
        })
    }

    /// Where a controller's files are.
    fn directory(&self, controller: &str) -> Option<PathBuf> {
        let (controllers, path) = self.lines.iter().find(|(controllers, _)| {
            if self.is_unified {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|name| name == controller)
            }
        })?;
        let hierarchies = [controller, controllers.as_str()];
        let hierarchies = hierarchies.iter().take(if self.is_unified { 0 } else { 2 });
        let mut places: Vec<PathBuf> = hierarchies
            .map(|hierarchy| Path::new(MOUNT).join(hierarchy).join(path))
            .collect();
        if self.is_unified {
            places.push(Path::new(MOUNT).join(path));
        }
        places.into_iter().find(|place| place.is_dir())
    }

    fn text(&self, controller: &str, file: &str) -> String {
        let path = self.directory(controller).map(|place| place.join(file));
        path.and_then(|path| fs::read_to_string(path).ok())
            .unwrap_or_default()
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        self.text(controller, file).trim().parse().ok()
    }

    fn read(&self, usage: &mut Usage) {
        if self.is_unified {
            self.read_unified(usage);
        } else {
            self.read_separate(usage);
        }
        usage.pids = self.number("pids", "pids.current").unwrap_or(0);
    }

    fn read_unified(&self, usage: &mut Usage) {
        usage.cpu_nanoseconds = keyed(&self.text("cpu", "cpu.stat"), "usage_usec") * 1000;
        let inactive = keyed(&self.text("memory", "memory.stat"), "inactive_file");
        let current = self.number("memory", "memory.current").unwrap_or(0);
        usage.memory = current.saturating_sub(inactive);
        usage.memory_limit = self.number("memory", "memory.max");
        let io = self.text("io", "io.stat");
        let sum = |name: &str| {
            io.split_ascii_whitespace()
                .filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok())
                .sum()
        };
        usage.disk_read = sum("rbytes=");
        usage.disk_written = sum("wbytes=");
    }

    fn read_separate(&self, usage: &mut Usage) {
        usage.cpu_nanoseconds = self.number("cpuacct", "cpuacct.usage").unwrap_or(0);
        let inactive = keyed(&self.text("memory", "memory.stat"), "total_inactive_file");
        let current = self.number("memory", "memory.usage_in_bytes").unwrap_or(0);
        usage.memory = current.saturating_sub(inactive);
        // The kernel's "no limit" is a number near the largest.
        usage.memory_limit = self
            .number("memory", "memory.limit_in_bytes")
            .filter(|limit| *limit < 1 << 60);
        let mut io = self.text("blkio", "blkio.throttle.io_service_bytes_recursive");
        if io.is_empty() {
            io = self.text("blkio", "blkio.throttle.io_service_bytes");
        }
        let sum = |what: &str| {
            io.lines()
                .filter_map(|line| {
                    let mut words = line.split(' ').skip(1);
                    (words.next()? == what).then(|| words.next()?.parse::<u64>().ok())?
                })
                .sum()
        };
        usage.disk_read = sum("Read");
        usage.disk_written = sum("Write");
    }
}

/// The number after a word at the beginning of a line.
fn keyed(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0)
}

/// Bytes received and sent; `None` in the network of the host.
fn network(pid: u32) -> Option<(u64, u64)> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    if namespace(&pid.to_string())? == namespace("self")? {
        return None;
    }
    devices(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?)
}

/// `/proc/PID/net/dev` (proc(5)): two lines of heading, then a device a line.
fn devices(text: &str) -> Option<(u64, u64)> {
    let mut sums = (0_u64, 0_u64);
    for line in text.lines().skip(2) {
        let (name, numbers) = line.split_once(':')?;
        if name.trim() == "lo" {
            continue;
        }
        let mut numbers = numbers.split_ascii_whitespace();
        sums.0 += numbers.next()?.parse::<u64>().ok()?;
        sums.1 += numbers.nth(7)?.parse::<u64>().ok()?;
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_kernel_s_own_words() {
        let stat = "cache 1\ntotal_inactive_file 4096\ninactive_file 7\n";
        assert_eq!(keyed(stat, "total_inactive_file"), 4096);
        assert_eq!(keyed(stat, "inactive_file"), 7);
        assert_eq!(keyed(stat, "active"), 0);
        let dev = "Inter-| Receive\n face |bytes\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: \
                   100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n";
        assert_eq!(devices(dev), Some((100, 200)));
        assert_eq!(devices("a\nb\nnonsense\n"), None);
    }
}
