//! What keeps a program inside its container.

use std::io;
use std::path::Path;

use fs_err as fs;
use invar_sys::probe;

use super::{Finding, Group};

pub(super) fn check(findings: &mut Vec<Finding>) {
    let mut group = Group {
        name: "confinement",
        findings,
    };
    group.needed(
        "seccomp",
        probe::seccomp().map(|()| "a system call filter was installed"),
        "a kernel with CONFIG_SECCOMP_FILTER is needed",
    );
    group.tried(
        "user_namespaces",
        probe::user_namespace().map(|()| "one was made"),
        "sysctl user.max_user_namespaces (not 0), on Debian also kernel.unprivileged_userns_clone",
    );
    let modules = probe::security_modules();
    group.tried(
        "security_modules",
        modules
            .as_ref()
            .map(String::as_str)
            .map_err(io::Error::to_string),
        "a kernel with CONFIG_SECURITYFS and security modules",
    );
    group.tried(
        "apparmor",
        apparmor(),
        "boot with apparmor=1 security=apparmor and install apparmor; seccomp and the masked paths \
         hold without it",
    );
    group.tried(
        "selinux",
        selinux(),
        "boot with security=selinux and install container-selinux; seccomp and the masked paths \
         hold without it",
    );
    group.tried(
        "landlock",
        probe::landlock().map(|version| format!("interface version {version}")),
        "boot with lsm=landlock,… ; containers do not need it: their mounts say the same",
    );
    group.tried(
        "ipe",
        exists("/sys/kernel/security/ipe", "policies can be loaded"),
        "needs Linux 6.12 with CONFIG_SECURITY_IPE: only level L3 depends on it",
    );
}

fn apparmor() -> io::Result<&'static str> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled")?;
    match enabled.trim() {
        "Y" if invar_engine::embedded::has_apparmor_parser() => {
            Ok("enabled; containers get the profile invar-default-1")
        }
        "Y" => Err(io::Error::other(
            "enabled, but without apparmor_parser no profile can be loaded (package apparmor)",
        )),
        other => Err(io::Error::other(format!("enabled is {other:?}"))),
    }
}

fn selinux() -> io::Result<&'static str> {
    match fs::read_to_string("/sys/fs/selinux/enforce")?.trim() {
        "1" => Ok("enforcing"),
        _ => Ok("permissive: it only records"),
    }
}

fn exists(path: &str, found: &'static str) -> Result<&'static str, String> {
    if Path::new(path).exists() {
        Ok(found)
    } else {
        Err(format!("{path} is not there"))
    }
}
