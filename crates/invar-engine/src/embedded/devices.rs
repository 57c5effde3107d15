//! Which devices a container may use, on a unified hierarchy.
//!
//! On separate hierarchies (v1) the runtime writes the same list to the `devices` controller; on
//! v2 it writes none, and a container with `CAP_MKNOD` could read every disk of the host.

use std::os::fd::AsFd as _;
use std::path::Path;

use fs_err as fs;
use invar_sys::devices::{Access, DeviceKind, DeviceRule, allow_only};

/// Every device may be given a name, as with Docker; only these can be opened.
const RULES: [DeviceRule; 11] = [
    rule(DeviceKind::Character, None, None, Access::MKNOD),
    rule(DeviceKind::Block, None, None, Access::MKNOD),
    // null, zero, full, random, urandom
    character(1, 3),
    character(1, 5),
    character(1, 7),
    character(1, 8),
    character(1, 9),
    // tty, ptmx; not the console, which is the host's: a container's own is a terminal of /dev/pts
    character(5, 0),
    character(5, 2),
    // /dev/pts
    rule(DeviceKind::Character, Some(136), None, Access::ALL),
    // /dev/net/tun, which is the container's network's
    character(10, 200),
];

/// Takes the host's console back, which the runtime gives on separate hierarchies.
pub(super) fn refuse_console(group: &Path) -> std::io::Result<()> {
    fs::write(group.join("devices.deny"), "c 5:1 rwm")
}

/// Refuses the processes of the group every other device.
pub(super) fn limit(group: &Path) -> std::io::Result<()> {
    allow_only(fs::File::open(group)?.as_fd(), &RULES)
}

const fn character(major: u32, minor: u32) -> DeviceRule {
    rule(DeviceKind::Character, Some(major), Some(minor), Access::ALL)
}

const fn rule(
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: Access,
) -> DeviceRule {
    DeviceRule {
        kind,
        major,
        minor,
        access,
    }
}
