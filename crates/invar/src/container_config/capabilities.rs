//! Capabilities by name, and the set a container keeps.

use std::collections::BTreeSet;

use rustix::thread::{CapabilitySet, capability_is_in_bounding_set};

use super::Host;
use crate::exit::failure;

/// What a container keeps when nothing else is asked for: Podman's set, three fewer than Docker's.
pub(super) const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Every capability of Linux (`capability.h`), in the kernel's order.
const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Docker's rule: `--cap-drop ALL` starts from nothing, `--cap-add ALL` from everything this host
/// can give, otherwise from the default; then the named ones are dropped and added.
pub(super) fn resolve(
    add: &[String],
    drop: &[String],
    host: &Host<'_>,
) -> anyhow::Result<Vec<String>> {
    let (add_all, add) = parse(add)?;
    let (drop_all, drop) = parse(drop)?;
    if let Some(name) = add.iter().find(|name| !is_available(name, host)) {
        return Err(failure(
            format!("this host cannot give {name}"),
            "it was taken away from this process already: run invar on the host itself, not \
             inside a container",
        ));
    }
    let base: &[&str] = match (add_all, drop_all) {
        (true, _) => ALL,
        (false, true) => &[],
        (false, false) => DEFAULT_CAPABILITIES,
    };
    let mut kept: BTreeSet<&str> = base.iter().copied().collect();
    if add_all {
        kept.retain(|name| is_available(name, host));
    }
    kept.retain(|name| !drop.contains(name));
    kept.extend(add);
    Ok(kept.into_iter().map(str::to_owned).collect())
}

/// The capabilities that a program started by this process can have, as bits.
pub(super) fn bounding_set() -> u64 {
    (0..ALL.len())
        .map(|number| 1 << number)
        .filter(|bit| {
            // One that the kernel does not know is an error, and not there.
            let capability = CapabilitySet::from_bits_retain(*bit);
            capability_is_in_bounding_set(capability).unwrap_or(false)
        })
        .sum()
}

/// Whether a container can have it: the kernel knows it, and it is in the caller's bounding set.
fn is_available(name: &str, host: &Host<'_>) -> bool {
    let number = ALL.iter().position(|known| *known == name);
    number.is_some_and(|number| (host.bounding_set >> number) & 1 == 1)
}

/// Whether `ALL` was among the names, and the others in their full form.
fn parse(names: &[String]) -> anyhow::Result<(bool, BTreeSet<&'static str>)> {
    let mut all = false;
    let mut found = BTreeSet::new();
    for given in names.iter().flat_map(|names| names.split(',')) {
        let upper = given.to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            all = true;
            continue;
        }
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let known = ALL.iter().find(|known| &known["CAP_".len()..] == short);
        found.insert(*known.ok_or_else(|| {
            failure(
                format!("{given:?} is not a capability"),
                "the names are listed in: man 7 capabilities",
            )
        })?);
    }
    Ok((all, found))
}
