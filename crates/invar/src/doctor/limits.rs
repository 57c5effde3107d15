//! Control groups: each controller is tried with a group of its own and a limit in it.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::{Finding, Group};

const MOUNT: &str = "/sys/fs/cgroup";

/// A controller: its name, the file of a limit on separate hierarchies and on the unified one.
struct Controller {
    name: &'static str,
    kernel_name: (&'static str, &'static str),
    file: (&'static str, &'static str),
    value: &'static str,
    lost: &'static str,
}

const CONTROLLERS: &[Controller] = &[
    Controller {
        name: "memory",
        kernel_name: ("memory", "memory"),
        file: ("memory.limit_in_bytes", "memory.max"),
        value: "16777216",
        lost: "--memory has no effect: boot with cgroup_enable=memory",
    },
    Controller {
        name: "cpu",
        kernel_name: ("cpu", "cpu"),
        file: ("cpu.cfs_quota_us", "cpu.max"),
        value: "50000",
        lost: "--cpus has no effect: a kernel with CONFIG_CFS_BANDWIDTH is needed",
    },
    Controller {
        name: "pids",
        kernel_name: ("pids", "pids"),
        file: ("pids.max", "pids.max"),
        value: "10",
        lost: "--pids-limit has no effect: a kernel with CONFIG_CGROUP_PIDS is needed",
    },
];

pub(super) fn check(findings: &mut Vec<Finding>) {
    let mut group = Group {
        name: "limits",
        findings,
    };
    let is_unified = Path::new(MOUNT).join("cgroup.controllers").exists();
    let has_freezer = Path::new(MOUNT).join("freezer/cgroup.procs").exists();
    let form = match (is_unified, has_freezer) {
        (true, _) => Ok("v2: one hierarchy"),
        (false, true) if Path::new(MOUNT).join("unified").exists() => {
            Ok("v1: a hierarchy each, with an empty v2 beside them")
        }
        (false, true) => Ok("v1: a hierarchy each"),
        (false, false) => Err("no control groups are mounted at /sys/fs/cgroup"),
    };
    group.needed(
        "cgroups",
        form,
        "mount them, as systemd does at boot: mount -t cgroup2 none /sys/fs/cgroup",
    );
    for controller in CONTROLLERS {
        group.tried(
            controller.name,
            limit(controller, is_unified),
            controller.lost,
        );
    }
    group.tried(
        "freezer",
        freezer(is_unified),
        "invar pause and a capture's freeze need it: a kernel with CONFIG_CGROUP_FREEZER",
    );
    group.tried(
        "io_limits",
        io_limits(is_unified),
        "limits on disk traffic need CONFIG_BLK_DEV_THROTTLING",
    );
}

/// A group that is gone when this is dropped.
struct Trial(PathBuf);

impl Trial {
    fn new(hierarchy: &str) -> io::Result<Self> {
        let path = Path::new(MOUNT)
            .join(hierarchy)
            .join(format!("invar-doctor-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Nothing ever runs in it, so the kernel lets it go at once.
        fs::remove_dir(&self.0).ok();
    }
}

fn limit(controller: &Controller, is_unified: bool) -> io::Result<String> {
    let (hierarchy, file) = if is_unified {
        delegated(controller.kernel_name.1)?;
        ("", controller.file.1)
    } else {
        (controller.kernel_name.0, controller.file.0)
    };
    let trial = Trial::new(hierarchy)?;
    fs::write(trial.0.join(file), controller.value)?;
    let now = fs::read_to_string(trial.0.join(file))?;
    Ok(format!("{file} took {}", now.trim()))
}

/// On the unified hierarchy a controller works below the root only once the root passes it on.
fn delegated(controller: &str) -> io::Result<()> {
    let known = fs::read_to_string(Path::new(MOUNT).join("cgroup.controllers"))?;
    if !known
        .split_ascii_whitespace()
        .any(|name| name == controller)
    {
        return Err(io::Error::other(format!(
            "the kernel has no controller {controller}"
        )));
    }
    fs::write(
        Path::new(MOUNT).join("cgroup.subtree_control"),
        format!("+{controller}"),
    )
}

fn freezer(is_unified: bool) -> io::Result<&'static str> {
    let (hierarchy, file, value) = if is_unified {
        ("", "cgroup.freeze", "1")
    } else {
        ("freezer", "freezer.state", "FROZEN")
    };
    let trial = Trial::new(hierarchy)?;
    fs::write(trial.0.join(file), value)?;
    Ok("a group was frozen")
}

fn io_limits(is_unified: bool) -> io::Result<&'static str> {
    let (hierarchy, file) = if is_unified {
        {
            delegated("io")?;
            ("", "io.max")
        }
    } else {
        ("blkio", "blkio.throttle.read_bps_device")
    };
    let trial = Trial::new(hierarchy)?;
    fs::OpenOptions::new()
        .write(true)
        .open(trial.0.join(file))?;
    Ok("reads and writes of a device can be limited")
}
