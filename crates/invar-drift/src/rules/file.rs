//! A file of rules: TOML, checked as a whole before any rule of it counts. docs/rules.md.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::change::Severity;
use crate::glob::Glob;

/// Rules are written by hand; a longer file is not one.
pub(super) const LONGEST: usize = 1 << 20;
/// A pattern shorter than this is in every file.
const SHORTEST_PATTERN: usize = 4;
const LONGEST_PATTERN: usize = 256;
const LONGEST_TEXT: usize = 200;

/// Why a file of rules was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct RulesError {
    /// The file as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    version: Spanned<u32>,
    #[serde(default)]
    lists: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(super) disable: Vec<Spanned<String>>,
    #[serde(default, rename = "rule")]
    pub(super) rules: Vec<Entry>,
}

/// One rule as it is written. Every key given must hold; of a list, one element.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Entry {
    pub(super) name: Spanned<String>,
    pub(super) severity: Severity,
    pub(super) technique: Option<Spanned<String>>,
    pub(super) text: Spanned<String>,
    #[serde(default)]
    pub(super) when: When,
    #[serde(default)]
    pub(super) is: Vec<Property>,
    #[serde(default)]
    pub(super) magic: Vec<Magic>,
    #[serde(default)]
    pub(super) contains: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) path: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) under: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) file_name: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) ending: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) glob: Vec<Spanned<String>>,
}

/// Which change of a path a rule speaks of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum When {
    /// Whatever happened to it.
    #[default]
    Any,
    /// It is there: added or changed.
    Present,
    /// The image has none.
    Added,
    /// The image has another.
    Changed,
    /// It is gone.
    Deleted,
}

/// What a rule asks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Property {
    /// A regular file somebody may execute.
    Executable,
    /// Executable, and runs as its owner or group.
    Setuid,
    /// Executable, and has file capabilities.
    Capability,
    /// A block or character device.
    Device,
    /// Content or size changed, and the modification time is as before.
    KeptTime,
    /// The name starts with a dot.
    Hidden,
}

/// What the first bytes of a file say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Magic {
    /// A compiled program or library.
    Elf,
    /// A script that names its interpreter.
    Script,
}

/// A problem and where it is.
pub(super) type Problem = (Range<usize>, String);

/// A problem with the line it is in.
pub(super) fn error(text: &str, file: &Path, (span, message): Problem) -> RulesError {
    let before = text.get(..span.start).unwrap_or(text);
    RulesError {
        file: file.display().to_string(),
        line: before.matches('\n').count() + 1,
        message,
    }
}

/// Reads and checks a file.
pub(super) fn parse(text: &str, file: &Path) -> Result<File, RulesError> {
    let fail = |problem| error(text, file, problem);
    if text.len() > LONGEST {
        return Err(fail((
            0..0,
            format!("a file of rules has at most {LONGEST} bytes"),
        )));
    }
    let mut parsed: File = toml::from_str(text)
        .map_err(|error| fail((error.span().unwrap_or(0..0), error.message().to_owned())))?;
    if *parsed.version.get_ref() != 1 {
        let message = "this version of invar reads version = 1 only".to_owned();
        return Err(fail((parsed.version.span(), message)));
    }
    let mut names = HashSet::new();
    for rule in &mut parsed.rules {
        rule.expand(&parsed.lists).map_err(fail)?;
        rule.check().map_err(fail)?;
        if !names.insert(rule.name.get_ref().clone()) {
            let message = format!("there are two rules {:?}", rule.name.get_ref());
            return Err(fail((rule.name.span(), message)));
        }
    }
    Ok(parsed)
}

impl Entry {
    /// Puts the elements of a list where `@list` stands.
    fn expand(&mut self, lists: &BTreeMap<String, Vec<String>>) -> Result<(), Problem> {
        for values in [
            &mut self.path,
            &mut self.under,
            &mut self.file_name,
            &mut self.ending,
        ] {
            let mut expanded = Vec::with_capacity(values.len());
            for value in values.drain(..) {
                let Some(list) = value.get_ref().strip_prefix('@') else {
                    expanded.push(value);
                    continue;
                };
                let Some(elements) = lists.get(list) else {
                    return Err((
                        value.span(),
                        format!("there is no list {list:?} in [lists]"),
                    ));
                };
                expanded.extend(
                    elements
                        .iter()
                        .map(|text| Spanned::new(value.span(), text.clone())),
                );
            }
            *values = expanded;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Problem> {
        let is_word = |text: &str| {
            !text.is_empty()
                && text.len() <= 64
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        check(
            &self.name,
            is_word,
            "is no name: use lower-case letters, digits and '-'",
        )?;
        let is_shown = |text: &str| {
            !text.is_empty() && text.len() <= LONGEST_TEXT && !text.contains(char::is_control)
        };
        check(
            &self.text,
            is_shown,
            "must be one line of at most 200 bytes",
        )?;
        if let Some(technique) = &self.technique {
            check(
                technique,
                is_technique,
                "is no technique of MITRE ATT&CK, such as T1548.001",
            )?;
        }
        for path in self.path.iter().chain(&self.under) {
            check(
                path,
                is_path,
                "must be an absolute path without '//', '.', '..' or a '/' at the end",
            )?;
        }
        for name in &self.file_name {
            check(
                name,
                |name| !name.is_empty() && !name.contains('/'),
                "must be one file name",
            )?;
        }
        for ending in &self.ending {
            check(
                ending,
                |end| !end.is_empty() && !end.contains('/'),
                "must be the end of a file name",
            )?;
        }
        for pattern in &self.contains {
            let fits = |text: &str| (SHORTEST_PATTERN..=LONGEST_PATTERN).contains(&text.len());
            check(pattern, fits, "must have 4 to 256 bytes")?;
        }
        for glob in &self.glob {
            Glob::parse(glob.get_ref())
                .map_err(|message| (glob.span(), format!("{:?}: {message}", glob.get_ref())))?;
        }
        if !self.asks_something() {
            let name = self.name.get_ref();
            return Err((
                self.name.span(),
                format!("rule {name:?} would fit every change"),
            ));
        }
        Ok(())
    }

    fn asks_something(&self) -> bool {
        let lists = [
            &self.path,
            &self.under,
            &self.file_name,
            &self.ending,
            &self.glob,
            &self.contains,
        ];
        !self.is.is_empty() || !self.magic.is_empty() || lists.iter().any(|list| !list.is_empty())
    }
}

fn check(
    value: &Spanned<String>,
    is_right: impl Fn(&str) -> bool,
    message: &str,
) -> Result<(), Problem> {
    if is_right(value.get_ref()) {
        return Ok(());
    }
    Err((value.span(), format!("{:?} {message}", value.get_ref())))
}

/// `T1234` or `T1234.567`.
fn is_technique(text: &str) -> bool {
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    text.strip_prefix('T')
        .is_some_and(|rest| match rest.split_once('.') {
            Some((technique, part)) => digits(technique, 4) && digits(part, 3),
            None => digits(rest, 4),
        })
}

fn is_path(text: &str) -> bool {
    text.strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(|name| !matches!(name, "" | "." | "..")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "version = 1\n[lists]\nl = [\"/a\"]\n\n";

    fn refused(text: &str) -> String {
        parse(text, Path::new("my.toml")).unwrap_err().to_string()
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let rule = "[[rule]]\nname = \"x\"\nseverity = \"low\"\ntext = \"t\"\n";
        for (text, told) in [
            ("", "my.toml:1: missing field `version`"),
            (
                "version = 2",
                "my.toml:1: this version of invar reads version = 1 only",
            ),
            ("version = 1\nrule = 3", "my.toml:2: invalid type"),
            (
                "version = 1\n\nsurprise = 1",
                "my.toml:3: unknown field `surprise`",
            ),
            ("version = 1\n[[rule]]\nname = \"x\"\n= 3", "my.toml:4: "),
            (
                &format!("{HEAD}{rule}"),
                "my.toml:6: rule \"x\" would fit every change",
            ),
            (
                &format!("{HEAD}{rule}under = [\"a\"]"),
                "my.toml:9: \"a\" must be an absolute path",
            ),
            (
                &format!("{HEAD}{rule}under = [\"/a/\"]"),
                "my.toml:9: \"/a/\" must be an absolute path",
            ),
            (
                &format!("{HEAD}{rule}under = [\"@m\"]"),
                "my.toml:9: there is no list \"m\"",
            ),
            (
                &format!("{HEAD}{rule}glob = [\"a\"]"),
                "my.toml:9: \"a\": a pattern begins with",
            ),
            (
                &format!("{HEAD}{rule}contains = [\"a\"]"),
                "my.toml:9: \"a\" must have 4 to 256 bytes",
            ),
            (
                &format!("{HEAD}{rule}technique = \"x\"\nis = [\"hidden\"]"),
                "my.toml:9: \"x\" is no technique",
            ),
            (
                &format!("{HEAD}{rule}is = [\"sticky\"]"),
                "my.toml:9: unknown variant `sticky`",
            ),
            (
                &format!("{HEAD}{rule}under = [\"/a\"]\n{rule}under = [\"/a\"]"),
                "my.toml:11: there are two rules \"x\"",
            ),
            (
                &format!("{HEAD}{}", rule.replace("low", "bad")),
                "my.toml:7: unknown variant `bad`",
            ),
        ] {
            let error = refused(text);
            assert!(error.starts_with(told), "{error}\nfor\n{text}");
        }
    }

    #[test]
    fn a_list_is_written_once_and_named_with_an_at_sign() {
        let text = format!(
            "{HEAD}[[rule]]\nname = \"x\"\nseverity = \"low\"\ntext = \"t\"\nunder = [\"@l\", \"/b\"]"
        );
        let file = parse(&text, Path::new("f")).unwrap();
        let under: Vec<&str> = file.rules[0]
            .under
            .iter()
            .map(|path| path.get_ref().as_str())
            .collect();
        assert_eq!(under, ["/a", "/b"]);
    }
}
