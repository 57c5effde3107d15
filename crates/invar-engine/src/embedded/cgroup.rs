//! A container's control groups, on a unified hierarchy (cgroup v2), on separate ones (v1) and on
//! hosts that have both: freezing, members, what the memory controller did, removal.
//!
//! The runtime makes the groups and sets the limits; what happens to them later is here, because
//! it must also work when the runtime that made them was killed.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};

use super::devices;
use crate::config::Resources;
use crate::container::ContainerId;
use crate::error::{EngineError, Result};

/// Where cgroups are mounted; libcontainer knows no other place.
const MOUNT: &str = "/sys/fs/cgroup";
/// All containers of this engine are below this group.
const PARENT: &str = "invar";
/// The scheduler's accounting period in microseconds, Docker's.
pub(super) const CPU_PERIOD: u64 = 100_000;
/// How long the kernel may take to freeze or to let go of a group.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// The group's path below each hierarchy, as the runtime is told.
pub(super) fn path(id: &ContainerId) -> PathBuf {
    Path::new("/").join(PARENT).join(id.as_str())
}

/// Whether this host has only the unified hierarchy.
pub(super) fn is_unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Begins in the background what the kernel waits for before a process changes its group: an RCU
/// grace period, 5 to 12 ms (`cgroup_threadgroup_rwsem`). The runtime, a moment later, then does
/// not wait. It is enough to move this process to where it already is, once.
pub(super) fn expect_move() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        std::thread::spawn(|| {
            let Some(group) = own_group() else {
                return;
            };
            // Nothing depends on it.
            fs::write(group.join("cgroup.procs"), std::process::id().to_string()).ok();
        });
    });
}

fn own_group() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    // The unified hierarchy has no name.
    let hierarchy = if is_unified() { "" } else { "freezer" };
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let is_ours = parts.next()? == hierarchy;
        let path = parts.next()?.trim_start_matches('/');
        is_ours.then(|| Path::new(MOUNT).join(hierarchy).join(path))
    })
}

/// The groups of one container.
#[derive(Debug)]
pub(super) struct Group {
    name: PathBuf,
    is_unified: bool,
}

impl Group {
    pub(super) fn of(id: &ContainerId) -> Self {
        Self {
            name: Path::new(PARENT).join(id.as_str()),
            is_unified: is_unified(),
        }
    }

    /// Keeps its processes from every device that is not for containers. On separate hierarchies
    /// the runtime has done most of it.
    pub(super) fn limit_devices(&self) -> std::io::Result<()> {
        if self.is_unified {
            devices::limit(&self.directory(""))
        } else {
            devices::refuse_console(&self.directory("devices"))
        }
    }

    /// Whether any is there.
    pub(super) fn exists(&self) -> bool {
        self.members_directory().exists()
    }

    /// Freezes every process; returns once all are frozen.
    pub(super) fn freeze(&self) -> Result<()> {
        let (file, value) = self.freezer("1", "FROZEN");
        write(&file, value)?;
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(50);
        while !self.is_frozen() {
            if Instant::now() > deadline {
                self.thaw()?;
                return Err(EngineError::Runtime {
                    action: "freeze the container",
                    reason: format!(
                        "a process did not stop within {} s; the others go on",
                        PATIENCE.as_secs()
                    ),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE);
            // A v1 freezer forgets processes that were forked while it froze the others.
            if !self.is_unified {
                write(&file, value)?;
            }
        }
        Ok(())
    }

    /// Lets every process go on.
    pub(super) fn thaw(&self) -> Result<()> {
        let (file, value) = self.freezer("0", "THAWED");
        write(&file, value)
    }

    /// Whether all processes are frozen.
    pub(super) fn is_frozen(&self) -> bool {
        let (file, frozen) = if self.is_unified {
            (self.directory("").join("cgroup.events"), "frozen 1")
        } else {
            (self.directory("freezer").join("freezer.state"), "FROZEN")
        };
        fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line == frozen))
    }

    fn freezer(&self, unified: &'static str, separate: &'static str) -> (PathBuf, &'static str) {
        if self.is_unified {
            (self.directory("").join("cgroup.freeze"), unified)
        } else {
            (self.directory("freezer").join("freezer.state"), separate)
        }
    }

    /// Every process in the group, as the host numbers them.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        let path = self.members_directory().join("cgroup.procs");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(EngineError::io("read", &path, error)),
        }
    }

    /// Kills every process, frozen or not, and those they fork meanwhile.
    pub(super) fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pids = self.processes()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(EngineError::Runtime {
                    action: "kill what is left of the container",
                    reason: format!("{} processes did not end", pids.len()),
                });
            }
            for pid in pids.iter().filter_map(|pid| i32::try_from(*pid).ok()) {
                if let Some(pid) = Pid::from_raw(pid) {
                    // It may have ended since it was listed.
                    kill_process(pid, Signal::KILL).ok();
                }
            }
            // A frozen process of a v1 group dies only once it is thawed.
            self.thaw().ok();
            std::thread::sleep(PAUSE);
        }
    }

    /// Changes the limits that differ. Swap is limited with memory, as the runtime does.
    pub(super) fn limit(&self, old: &Resources, new: &Resources) -> Result<()> {
        if old.memory != new.memory {
            self.limit_memory(old.memory, new.memory)?;
        }
        if old.nano_cpus != new.nano_cpus {
            let quota = new
                .nano_cpus
                .map(|nano_cpus| nano_cpus / (1_000_000_000 / CPU_PERIOD));
            if self.is_unified {
                let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
                let file = self.directory("").join("cpu.max");
                write(&file, &format!("{quota} {CPU_PERIOD}"))?;
            } else {
                let directory = self.directory("cpu");
                write(
                    &directory.join("cpu.cfs_period_us"),
                    &CPU_PERIOD.to_string(),
                )?;
                let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
                write(&directory.join("cpu.cfs_quota_us"), &quota)?;
            }
        }
        if old.pids != new.pids {
            let directory = self.directory(if self.is_unified { "" } else { "pids" });
            write(&directory.join("pids.max"), &new.pids.to_string())?;
        }
        Ok(())
    }

    fn limit_memory(&self, old: Option<u64>, new: Option<u64>) -> Result<()> {
        let text = |none: &str| new.map_or(none.to_owned(), |bytes| bytes.to_string());
        if self.is_unified {
            return write(&self.directory("").join("memory.max"), &text("max"));
        }
        let directory = self.directory("memory");
        let memory = directory.join("memory.limit_in_bytes");
        let with_swap = directory.join("memory.memsw.limit_in_bytes");
        let has_swap_limit = with_swap.exists() && {
            let now = fs::read_to_string(&with_swap).unwrap_or_default();
            // The kernel's "no limit" is a number near the largest.
            now.trim().parse().is_ok_and(|now: u64| now < 1 << 60)
        };
        // Memory may never be more than memory and swap together, also in between.
        let grows = new.is_none_or(|new| old.is_some_and(|old| new > old));
        let mut files = vec![memory];
        if has_swap_limit {
            files.insert(usize::from(!grows), with_swap);
        }
        files.iter().try_for_each(|file| write(file, &text("-1")))
    }

    /// How many processes the kernel killed for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        let file = if self.is_unified {
            self.directory("").join("memory.events")
        } else {
            self.directory("memory").join("memory.oom_control")
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .find_map(|count| count.parse().ok())
            .unwrap_or(0)
    }

    /// Removes the group from every hierarchy; what is not there is no error.
    pub(super) fn remove(&self) -> Result<()> {
        for directory in self.all_directories() {
            remove_directory(&directory)?;
        }
        Ok(())
    }

    /// Where the members are listed.
    fn members_directory(&self) -> PathBuf {
        self.directory(if self.is_unified { "" } else { "freezer" })
    }

    fn directory(&self, hierarchy: &str) -> PathBuf {
        Path::new(MOUNT).join(hierarchy).join(&self.name)
    }

    fn all_directories(&self) -> Vec<PathBuf> {
        if self.is_unified {
            return vec![self.directory("")];
        }
        let Ok(hierarchies) = fs::read_dir(MOUNT) else {
            return Vec::new();
        };
        hierarchies
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .map(|hierarchy| self.directory(&hierarchy))
            .collect()
    }
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).map_err(|source| EngineError::io("write", file, source))
}

/// The kernel holds on to a group for a moment after its last process was reaped.
fn remove_directory(path: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == std::io::ErrorKind::ResourceBusy
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(PAUSE / 4);
            }
            Err(error) => return Err(EngineError::io("remove", path, error)),
        }
    }
}
