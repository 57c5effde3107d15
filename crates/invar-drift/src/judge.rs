//! How much a change deserves a look: the first rule of the table that fits.

use rustix::fs::{FileType, Statx};
use rustix::io::Result;
use serde::Serialize;

use crate::change::{Change, Kind, Reason, Reasons, Severity};
use crate::compare::Entry;
use crate::dir::{file_type, get_attribute};
use crate::rules::{RULES, Rule};

/// What a rule says of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// What it means, in a few words.
    pub text: &'static str,
    /// The MITRE ATT&CK technique, where one fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub technique: Option<&'static str>,
}

/// Which state of a path a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Added, changed or deleted.
    Any,
    /// Added or changed.
    Present,
    /// Deleted.
    Deleted,
    /// Added or changed, a regular file somebody may execute.
    Executable,
    /// Added or changed, a regular file that runs as its owner or group.
    Setuid,
    /// Added or changed, a regular file with capabilities.
    Capable,
    /// Added or changed, a block or character device.
    Device,
    /// Changed in content with size and time as before.
    Stealth,
}

/// Where a rule looks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Where {
    /// Everywhere.
    Anywhere,
    /// Exactly these paths.
    At(&'static [&'static str]),
    /// These directories, at any depth.
    Under(&'static [&'static str]),
    /// Any path whose last component is one of these.
    Named(&'static [&'static str]),
    /// These endings, below these directories.
    Ending(&'static [&'static str], &'static [&'static str]),
    /// Names that start with a dot, below these directories.
    Hidden(&'static [&'static str]),
}

impl Where {
    fn fits(self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        match self {
            Self::Anywhere => true,
            Self::At(paths) => paths.iter().any(|exact| exact.as_bytes() == path),
            Self::Under(dirs) => is_under(path, dirs),
            Self::Named(names) => names.iter().any(|exact| exact.as_bytes() == name),
            Self::Ending(endings, dirs) => {
                endings.iter().any(|end| name.ends_with(end.as_bytes())) && is_under(path, dirs)
            }
            Self::Hidden(dirs) => name.starts_with(b".") && is_under(path, dirs),
        }
    }
}

fn is_under(path: &[u8], dirs: &[&str]) -> bool {
    dirs.iter().any(|dir| {
        path.strip_prefix(dir.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// What is known of a changed path when it is judged.
struct Facts<'a> {
    path: &'a [u8],
    kind: Kind,
    file_type: FileType,
    mode: u16,
    has_capability: bool,
    reasons: Reasons,
}

impl Facts<'_> {
    fn fits(&self, rule: &Rule) -> bool {
        let is_present = self.kind != Kind::Deleted;
        let is_file = is_present && self.file_type == FileType::RegularFile;
        let is_executable = is_file && self.mode & 0o111 != 0;
        let fits = match rule.when {
            When::Any => true,
            When::Present => is_present,
            When::Deleted => !is_present,
            When::Executable => is_executable,
            When::Setuid => is_executable && self.mode & 0o6000 != 0,
            When::Capable => is_file && self.has_capability,
            When::Device => {
                is_present
                    && matches!(
                        self.file_type,
                        FileType::BlockDevice | FileType::CharacterDevice
                    )
            }
            When::Stealth => {
                self.reasons.contains(Reason::Content) && !self.reasons.contains(Reason::Mtime)
            }
        };
        fits && rule.place.fits(self.path)
    }

    fn judge(&self) -> Option<&'static Rule> {
        RULES.iter().find(|rule| self.fits(rule))
    }
}

/// A path that is gone.
pub(crate) fn deleted(path: Vec<u8>) -> Change {
    let rule = Facts {
        path: &path,
        kind: Kind::Deleted,
        file_type: FileType::Unknown,
        mode: 0,
        has_capability: false,
        reasons: Reasons::default(),
    }
    .judge();
    Change {
        compatible: Some(Kind::Deleted),
        actual: Some(Kind::Deleted),
        reasons: Reasons::default(),
        severity: rule.map_or(Severity::Info, |rule| rule.severity),
        finding: rule.map(|rule| &rule.finding),
        path,
    }
}

/// A path that is there, added or changed.
pub(crate) fn present(
    path: Vec<u8>,
    entry: Entry<'_>,
    compatible: Option<Kind>,
    actual: Option<Kind>,
    reasons: Reasons,
) -> Result<Change> {
    let rule = match actual.or(compatible) {
        Some(kind) => Facts {
            path: &path,
            kind,
            file_type: file_type(entry.stat),
            mode: entry.stat.stx_mode,
            has_capability: has_capability(entry)?,
            reasons,
        }
        .judge(),
        None => None,
    };
    Ok(Change {
        compatible,
        actual,
        reasons,
        severity: rule.map_or(Severity::Info, |rule| rule.severity),
        finding: rule.map(|rule| &rule.finding),
        path,
    })
}

/// Capabilities count on what can be executed only.
fn has_capability(entry: Entry<'_>) -> Result<bool> {
    if !is_executable_file(entry.stat) {
        return Ok(false);
    }
    Ok(get_attribute(entry.dir, entry.name, c"security.capability")?.is_some())
}

fn is_executable_file(stat: &Statx) -> bool {
    file_type(stat) == FileType::RegularFile && stat.stx_mode & 0o111 != 0
}

#[cfg(test)]
mod tests {
    use super::Kind::{Added, Changed, Deleted};
    use super::Severity::{Critical, High, Info, Medium};
    use super::*;

    #[rustfmt::skip]
    const TABLE: &[(&str, Kind, u16, &str, Severity)] = &[
        ("/usr/bin/su", Added, 0o4755, "setuid", Critical),
        ("/etc/ld.so.preload", Added, 0o644, "ld-so-preload", Critical),
        ("/etc/shadow", Changed, 0o640, "accounts", Critical),
        ("/etc/sudoers.d/x", Added, 0o440, "sudoers", Critical),
        ("/root/.ssh/authorized_keys", Added, 0o600, "ssh-keys", Critical),
        ("/etc/cron.d/x", Added, 0o644, "cron", High),
        ("/var/spool/cron/crontabs/root", Added, 0o600, "cron", High),
        ("/etc/systemd/system/x.service", Added, 0o644, "services", High),
        ("/home/a/.bashrc", Changed, 0o644, "shell-profile", High),
        ("/var/www/html/x.php", Added, 0o644, "web-code", High),
        ("/var/www/html/index.html", Changed, 0o644, "web-page", Medium),
        ("/tmp/x", Added, 0o755, "program-in-tmp", High),
        ("/opt/x", Added, 0o755, "new-program", Medium),
        ("/usr/bin/ls", Changed, 0o755, "system-program", High),
        ("/var/lib/dpkg/status", Changed, 0o644, "packages", Medium),
        ("/tmp/.x", Added, 0o644, "hidden-in-tmp", Medium),
        ("/var/log/auth.log", Deleted, 0, "log-deleted", Medium),
        ("/var/cache/x", Added, 0o644, "", Info),
        ("/etc/cron.dx", Added, 0o644, "settings", Severity::Low),
    ];

    fn judge(path: &str, kind: Kind, mode: u16) -> (&'static str, Severity) {
        let rule = Facts {
            path: path.as_bytes(),
            kind,
            file_type: FileType::RegularFile,
            mode,
            has_capability: false,
            reasons: Reasons::default(),
        }
        .judge();
        rule.map_or(("", Severity::Info), |rule| {
            (rule.finding.rule, rule.severity)
        })
    }

    #[test]
    fn what_attackers_do_is_found_and_ordinary_files_are_not() {
        for (path, kind, mode, rule, severity) in TABLE.iter().copied() {
            assert_eq!(judge(path, kind, mode), (rule, severity), "{path}");
        }
    }

    #[test]
    fn the_worst_rule_comes_first() {
        assert!(RULES.is_sorted_by(|a, b| a.severity >= b.severity));
    }
}
