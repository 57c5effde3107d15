//! Changes as lines for people, and as `docker diff` prints them.

use std::fmt::Write as _;

use invar_drift::{
    Change, Digest, Finding, Kind, Patch, Provenance, Severity, State, Time, escape_line, type_name,
};
use jiff::Timestamp;
use owo_colors::{AnsiColors, OwoColorize as _, Stream};

use super::listing::Mounted;
use super::source::{Compared, Source};
use super::{Args, Format, Told};
use crate::printer;

/// One line or more of a change; `None` when this form does not show it.
pub(super) fn line(args: &Args, told: &Told<'_>) -> Option<String> {
    let change = told.change;
    let shows_missed = args.format == Format::Table && (args.reads_content() || args.detail);
    let kind = match change.compatible {
        None if shows_missed => change.actual?,
        kind => kind?,
    };
    if args.format == Format::Docker {
        let path = printer::escape(&change.path);
        return Some(format!("{} {path}", kind.letter()));
    }
    let mut line = row(kind, change);
    if let Some(who) = &told.who {
        write!(line, "\n    by {}", printer::escape(who.text().as_bytes()))
            .expect("writing to a String succeeds");
    }
    Some(line)
}

/// `C /etc/passwd  critical: user accounts and passwords`, and what else was asked for.
pub(crate) fn row(kind: Kind, change: &Change) -> String {
    let color = match kind {
        Kind::Added => AnsiColors::Green,
        Kind::Changed => AnsiColors::Yellow,
        Kind::Deleted => AnsiColors::Red,
    };
    let mut line = String::with_capacity(change.path.len() + 2);
    write!(
        line,
        "{} {}",
        kind.letter()
            .if_supports_color(Stream::Stdout, |letter| letter.color(color)),
        printer::escape(&change.path)
    )
    .expect("writing to a String succeeds");
    if change.compatible.is_none() {
        let reasons: Vec<&str> = change.reasons.names().collect();
        let reasons = reasons.join(", ");
        write!(line, "  [docker diff misses it: {reasons}]").expect("writing to a String succeeds");
    }
    line.push_str(&meaning(change.severity, change.finding.as_deref()));
    detail(&mut line, change);
    if let Some(patch) = &change.patch {
        push_patch(&mut line, patch);
    }
    line
}

/// `  critical: user accounts and passwords (accounts, T1136.001)`
fn meaning(level: Severity, finding: Option<&Finding>) -> String {
    finding.map_or_else(String::new, |finding| {
        let technique = finding.technique.as_deref();
        let technique = technique.map_or_else(String::new, |technique| format!(", {technique}"));
        format!(
            "  {}: {} ({}{technique})",
            severity(level),
            finding.text,
            finding.rule
        )
    })
}

/// A severity in its colour.
fn severity(severity: Severity) -> String {
    let color = match severity {
        Severity::Info | Severity::Low => return severity.to_string(),
        Severity::Medium => AnsiColors::Yellow,
        Severity::High => AnsiColors::Red,
        Severity::Critical => AnsiColors::BrightRed,
    };
    painted(severity.as_str(), color)
}

fn painted(text: &str, color: AnsiColors) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.color(color))
        .to_string()
}

/// How it came to be, then each thing that differs, or all there is to say of the only state.
fn detail(text: &mut String, change: &Change) {
    let Some(detail) = change.detail.as_deref() else {
        return;
    };
    if let Some(provenance) = &detail.provenance {
        let how = match provenance {
            Provenance::New => "made in the container".to_owned(),
            Provenance::Edited => "the image's file, changed in place".to_owned(),
            Provenance::Replaced => "another one in the place of the image's".to_owned(),
            Provenance::Renamed { from: None } => {
                "moved here from elsewhere in the image".to_owned()
            }
            Provenance::Renamed { from: Some(from) } => format!("was {}", printer::escape(from)),
            Provenance::Linked { from } => format!("one more name of {}", printer::escape(from)),
        };
        text.push_str("\n    ");
        text.push_str(&how);
    }
    let old = detail.old.as_ref().map(facts).unwrap_or_default();
    let new = detail.new.as_ref().map(facts).unwrap_or_default();
    let has_both = detail.old.is_some() && detail.new.is_some();
    let value = |facts: &[(String, String)], name: &str| {
        facts
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.clone())
    };
    let only_old = old.iter().filter(|(name, _)| value(&new, name).is_none());
    for (name, _) in new.iter().chain(only_old) {
        let (before, after) = (value(&old, name), value(&new, name));
        if has_both && before == after {
            continue;
        }
        let line = match (before, after) {
            (Some(before), Some(after)) => format!("{before} -> {after}"),
            (Some(before), None) if has_both => format!("{before} -> none"),
            (None, Some(after)) if has_both => format!("none -> {after}"),
            (before, after) => before.or(after).unwrap_or_default(),
        };
        write!(text, "\n    {name:<10} {line}").expect("writing to a String succeeds");
    }
}

/// What there is to say of a state, by name.
fn facts(state: &State) -> Vec<(String, String)> {
    let mut facts = vec![
        ("type".to_owned(), type_name(state.file_type).to_owned()),
        ("mode".to_owned(), format!("{:04o}", state.mode)),
        ("owner".to_owned(), format!("{}:{}", state.uid, state.gid)),
    ];
    let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
    if type_name(state.file_type) != "directory" {
        if type_name(state.file_type) == "file" {
            add("size", state.size.to_string());
        }
        add("modified", time(state.mtime));
    }
    if let Some((major, minor)) = state.device {
        add("device", format!("{major}:{minor}"));
    }
    if let Some(target) = &state.target {
        add("target", printer::escape(target).into_owned());
    }
    if let Some(capability) = &state.capability {
        add("capability", capability.to_string());
    }
    for xattr in &state.xattrs {
        let value = printer::escape(&xattr.value);
        let rest = if xattr.length > xattr.value.len() {
            "…"
        } else {
            ""
        };
        add(&printer::escape(&xattr.name), format!("{value}{rest}"));
    }
    match &state.digest {
        Digest::None => {}
        Digest::Sha256(digest) => add("sha256", hex(digest)),
        Digest::TooSparse => add(
            "sha256",
            "not computed: the file is almost only a hole".to_owned(),
        ),
        Digest::Unreadable => add("sha256", "not computed: changed meanwhile".to_owned()),
    }
    facts
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String succeeds");
        text
    })
}

/// RFC 3339 with all nine digits; seconds where that has no name for the year.
fn time(time: Time) -> String {
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or_default();
    Timestamp::new(time.seconds, nanoseconds).map_or_else(
        |_| format!("{}.{:09}", time.seconds, time.nanoseconds),
        |time| format!("{time:.9}"),
    )
}

fn push_patch(text: &mut String, patch: &Patch) {
    let lines = match patch {
        Patch::Omitted(reason) => {
            write!(text, "\n    (no patch: {reason})").expect("writing to a String succeeds");
            return;
        }
        Patch::Unified(lines) => lines,
    };
    for line in lines.lines() {
        let shown = escape_line(line);
        let shown = match line.as_bytes().first() {
            Some(b'+') => painted(&shown, AnsiColors::Green),
            Some(b'-') => painted(&shown, AnsiColors::Red),
            Some(b'@') => painted(&shown, AnsiColors::Cyan),
            _ => shown.into_owned(),
        };
        text.push_str("\n    ");
        text.push_str(&shown);
    }
}

/// A heading and a line of each file.
pub(super) fn mounts<'a>(args: &Args, mounts: &'a [Mounted]) -> impl Iterator<Item = String> + 'a {
    let is_table = args.format == Format::Table;
    mounts.iter().filter(move |_| is_table).flat_map(|mount| {
        let count = mount.files.len();
        let plural = if count == 1 { "file" } else { "files" };
        let omitted = mount.omitted.as_ref();
        let omitted =
            omitted.map_or_else(String::new, |reason| format!(" (not all listed: {reason})"));
        let heading = format!(
            "{} at {}: {count} {plural}{omitted}",
            mount.kind, mount.target
        );
        std::iter::once(heading).chain(mount.files.iter().map(|file| {
            let path = printer::escape(&file.path);
            format!(
                "  {path}{}",
                meaning(file.severity, file.finding.as_deref())
            )
        }))
    })
}

/// What the result does not say.
pub(super) fn notes(args: &Args, compared: &Compared, mounts: &[Mounted]) {
    let name = &args.container;
    if compared.is_read_only {
        printer::note(format!(
            "{name} is read-only: nothing in its root can change"
        ));
    }
    if let Source::Engine { lost } = &compared.source {
        printer::note(format!(
            "this is the engine's own list, without content, severity by name only: {lost}"
        ));
    }
    let comparison = &compared.comparison;
    let unstable = comparison.unstable + mounts.iter().map(|mount| mount.unstable).sum::<u64>();
    if unstable > 0 {
        printer::note(format!(
            "{unstable} paths were replaced or removed while they were looked at; for an exact \
             result, freeze {name} first"
        ));
    }
    let is_missed = |change: &&Change| change.compatible.is_none();
    let hidden = comparison.changes.iter().filter(is_missed).count() as u64;
    let shows_less = args.format == Format::Table && !args.reads_content();
    if shows_less && hidden + comparison.unread > 0 {
        printer::hint(&format!(
            "{hidden} more changes that docker diff does not show, and {} files written to whose \
             size and time are as in the image; look closer with: invar diff --content {name}",
            comparison.unread
        ));
    }
}
