//! What an operation needs of the calling user, checked before anything else happens.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use fs_err as fs;
use rustix::thread::{CapabilitySet, capabilities};

use crate::exit;

/// The capabilities without which no container can be set up or opened, and what each is for.
const NEEDED: &[(CapabilitySet, &str, &str)] = &[
    (
        CapabilitySet::SYS_ADMIN,
        "CAP_SYS_ADMIN",
        "namespaces and mounts",
    ),
    (
        CapabilitySet::DAC_OVERRIDE,
        "CAP_DAC_OVERRIDE",
        "files of every owner",
    ),
    (CapabilitySet::CHOWN, "CAP_CHOWN", "files of every owner"),
    (CapabilitySet::SETUID, "CAP_SETUID", "the container's user"),
    (
        CapabilitySet::SETGID,
        "CAP_SETGID",
        "the container's groups",
    ),
    (CapabilitySet::KILL, "CAP_KILL", "signals to the container"),
];

/// Fails when this process may not run containers, saying what is missing.
pub(crate) fn require_root() -> anyhow::Result<()> {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let Some((_, name, purpose)) = NEEDED
        .iter()
        .find(|(capability, _, _)| !held.contains(*capability))
    else {
        return Ok(());
    };
    let command: Vec<String> = std::env::args_os()
        .map(|arg| quote(&arg.to_string_lossy()))
        .collect();
    if rustix::process::geteuid().is_root() {
        return Err(exit::failure(
            format!("{name} is missing although this is root: Invar needs it for {purpose}"),
            "run it on the host, not inside another container",
        ));
    }
    Err(exit::failure(
        format!("this needs root: {name} is missing, which Invar needs for {purpose}"),
        format!("sudo {}", command.join(" ")),
    ))
}

/// As [`require_root`], for what reads and writes the state root alone: one of the user's own will do.
pub(crate) fn require_store(root: &Path) -> anyhow::Result<()> {
    if is_own(root) {
        return Ok(());
    }
    require_root().map_err(|error| {
        if rustix::process::geteuid().is_root() {
            return error;
        }
        exit::failure(
            format!("this needs root: {} is not yours", root.display()),
            "for images and evidence a state root of your own will do: --root DIRECTORY; containers \
             need root (sudo)",
        )
    })
}

/// Whether a state root is this user's, or would be when it is made.
fn is_own(root: &Path) -> bool {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return false;
    }
    let Ok(root) = std::path::absolute(root) else {
        return false;
    };
    if let Ok(found) = fs::symlink_metadata(&root) {
        return found.is_dir() && found.uid() == user.as_raw();
    }
    let above = root.ancestors().skip(1).find(|path| path.is_dir());
    above.is_some_and(|path| {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        let flags = rustix::fs::AtFlags::EACCESS;
        rustix::fs::accessat(rustix::fs::CWD, path, access, flags).is_ok()
    })
}

/// A word as a shell takes it back.
pub(crate) fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-=:,@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_only_when_a_shell_would_change_it() {
        for (word, expected) in [
            ("run", "run"),
            ("a=b:c", "a=b:c"),
            ("", "''"),
            ("two words", "'two words'"),
            ("it's $HOME", r"'it'\''s $HOME'"),
        ] {
            assert_eq!(quote(word), expected);
        }
    }
}
