//! What an operation needs of the calling user, checked before anything else happens.

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

/// A word as a shell takes it back.
fn quote(word: &str) -> String {
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
