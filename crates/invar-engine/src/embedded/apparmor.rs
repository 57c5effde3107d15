//! The AppArmor profile of a container, where the kernel has AppArmor.
//!
//! The built-in one is loaded by `apparmor_parser`, the only program that can compile a profile.
//! Without it a container runs without one, which `invar doctor` shows; with it, a profile that
//! cannot be loaded ends the start.

use std::io::Write as _;
use std::process::{Command, Stdio};

use fs_err as fs;

use crate::config::AppArmor;
use crate::error::{EngineError, Result};

/// The built-in profile and its name.
const PROFILE: &str = include_str!("../../../../dist/apparmor/invar-default");
const NAME: &str = "invar-default-1";
const PARSER: &str = "apparmor_parser";
/// What the kernel has loaded: `NAME (MODE)` a line.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// The profile for a container's programs; `None`: they get none.
pub(super) fn profile(asked: &AppArmor) -> Result<Option<String>> {
    match asked {
        AppArmor::Unconfined => Ok(None),
        AppArmor::Default => default(),
        AppArmor::Profile(name) if !is_enabled() => Err(refused(name, "this host has no AppArmor")),
        AppArmor::Profile(name) if is_loaded(name) => Ok(Some(name.clone())),
        AppArmor::Profile(name) => Err(refused(
            name,
            "the kernel does not have it; load it with: apparmor_parser -r FILE",
        )),
    }
}

fn refused(name: &str, reason: &str) -> EngineError {
    EngineError::InvalidConfig {
        what: format!("--security-opt apparmor={name}"),
        reason: reason.to_owned(),
    }
}

fn default() -> Result<Option<String>> {
    if !is_enabled() || !fs::exists(LOADED).unwrap_or(false) {
        return Ok(None);
    }
    if !is_loaded(NAME) && !load()? {
        return Ok(None);
    }
    Ok(Some(NAME.to_owned()))
}

fn is_enabled() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'))
}

fn is_loaded(name: &str) -> bool {
    let loaded = fs::read_to_string(LOADED).unwrap_or_default();
    loaded
        .lines()
        .any(|line| line.rsplit_once(" (").map(|(name, _)| name) == Some(name))
}

/// Whether the built-in profile can be loaded.
pub fn has_parser() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(PARSER).is_file())
}

/// Loads the built-in profile; `false` when there is nothing to load it with.
fn load() -> Result<bool> {
    let failed = |reason: String| EngineError::Runtime {
        action: "load the AppArmor profile (--security-opt apparmor=unconfined does without it)",
        reason,
    };
    // Without a cache, from standard input, in place of one that came in the meantime.
    let parser = Command::new(PARSER)
        .args(["--skip-cache", "--replace"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut parser = match parser {
        Ok(parser) => parser,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error.to_string())),
    };
    if let Some(mut input) = parser.stdin.take() {
        // It says better itself why it did not read on.
        input.write_all(PROFILE.as_bytes()).ok();
    }
    let output = parser
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!(
        "{PARSER} says: {}",
        said.trim().chars().take(300).collect::<String>()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_has_the_name_it_is_asked_for_by() {
        assert!(PROFILE.contains(&format!("\nprofile {NAME} ")));
        assert!(PROFILE.contains(&format!("peer={NAME},")));
    }
}
