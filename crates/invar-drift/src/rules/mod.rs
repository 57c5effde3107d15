//! The rules, compiled so that judging a path costs little.
//!
//! ```text
//!  rules.toml, users' files ──parse, check──▶ entries ──compile──▶ Rules ──one directory──▶ Candidates
//! ```
//!
//! Most rules speak of a few directories. Which ones can fit at all is found once a directory; its
//! entries are tried against those only, worst first.

mod file;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use aho_corasick::AhoCorasick;
use serde::Serialize;
use toml::Spanned;

pub use file::RulesError;
pub(crate) use file::{Magic, Property, When};

use crate::change::Severity;
use crate::glob::Glob;
use crate::overlay::parent;

const BUILTIN: &str = include_str!("rules.toml");
/// More rules, or files of them, are a mistake.
const MOST_RULES: usize = 10_000;

/// What a rule says of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's name.
    pub rule: String,
    /// What it means, in a few words.
    pub text: String,
    /// The MITRE ATT&CK technique, where one fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub technique: Option<String>,
}

/// Rules in the order in which they are tried.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    /// All that rules look for in content, in one automaton.
    patterns: Option<AhoCorasick>,
}

/// One rule: when and where it fits, and what that means.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) severity: Severity,
    pub(crate) finding: Arc<Finding>,
    pub(crate) when: When,
    pub(crate) is: Vec<Property>,
    pub(crate) magic: Vec<Magic>,
    /// Numbers of patterns.
    pub(crate) contains: Vec<usize>,
    path: Vec<Vec<u8>>,
    under: Vec<Vec<u8>>,
    file_name: Vec<Vec<u8>>,
    ending: Vec<Vec<u8>>,
    glob: Vec<Glob>,
}

/// The rules that can fit an entry of one directory.
#[derive(Debug)]
pub(crate) struct Candidates<'r> {
    /// Worst first.
    pub(crate) rules: Vec<Candidate<'r>>,
    pub(crate) patterns: Option<&'r AhoCorasick>,
}

#[derive(Debug)]
pub(crate) struct Candidate<'r> {
    pub(crate) rule: &'r Rule,
    /// Every entry of the directory is where the rule looks.
    is_inside: bool,
    /// A pattern for paths fits the directory and all below it.
    globs_fit: bool,
}

impl Rules {
    /// Those that come with Invar.
    pub fn builtin() -> Arc<Self> {
        static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
            let rules = Rules::compile(&[(PathBuf::from("rules.toml"), BUILTIN.to_owned())]);
            Arc::new(rules.expect("the embedded rules are tested"))
        });
        Arc::clone(&RULES)
    }

    /// Those that come with Invar and those of `files`, of which a later one goes before an
    /// earlier one: its rules are tried first among rules of one severity, and take the place of
    /// rules of the same name.
    pub fn with_files(files: &[PathBuf]) -> Result<Arc<Self>, RulesError> {
        let mut texts = vec![(PathBuf::from("rules.toml"), BUILTIN.to_owned())];
        for file in files {
            texts.push((file.clone(), read(file)?));
        }
        Self::compile(&texts).map(Arc::new)
    }

    fn compile(texts: &[(PathBuf, String)]) -> Result<Self, RulesError> {
        let mut entries: Vec<file::Entry> = Vec::new();
        for (path, text) in texts {
            let parsed = file::parse(text, path)?;
            for name in &parsed.disable {
                let before = entries.len();
                entries.retain(|entry| entry.name.get_ref() != name.get_ref());
                if entries.len() == before {
                    let message = format!("there is no rule {:?} to disable", name.get_ref());
                    return Err(file::error(text, path, (name.span(), message)));
                }
            }
            entries.retain(|old| {
                parsed
                    .rules
                    .iter()
                    .all(|new| new.name.get_ref() != old.name.get_ref())
            });
            entries.splice(0..0, parsed.rules);
            if entries.len() > MOST_RULES {
                let message = format!("with this file there are more than {MOST_RULES} rules");
                return Err(file::error(text, path, (0..0, message)));
            }
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.severity));
        let mut patterns: Vec<String> = Vec::new();
        let rules = entries
            .into_iter()
            .map(|entry| Rule::new(entry, &mut patterns))
            .collect();
        let patterns = if patterns.is_empty() {
            None
        } else {
            let message = |error| {
                (
                    0..0,
                    format!("the patterns cannot be searched for: {error}"),
                )
            };
            let built = AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .build(&patterns);
            let (path, text) = texts
                .last()
                .map_or((Path::new(""), ""), |(path, text)| (path, text));
            Some(built.map_err(|error| file::error(text, path, message(error)))?)
        };
        Ok(Self { rules, patterns })
    }

    /// Every rule's severity and finding, worst first.
    pub fn list(&self) -> impl Iterator<Item = (Severity, &Finding)> {
        self.rules
            .iter()
            .map(|rule| (rule.severity, &*rule.finding))
    }

    /// What can fit an entry of `dir`.
    pub(crate) fn in_directory(&self, dir: &[u8]) -> Candidates<'_> {
        let rules = self
            .rules
            .iter()
            .filter_map(|rule| rule.in_directory(dir))
            .collect();
        Candidates {
            rules,
            patterns: self.patterns.as_ref(),
        }
    }
}

fn read(path: &Path) -> Result<String, RulesError> {
    use std::io::Read as _;
    let fail = |error: std::io::Error| RulesError {
        file: path.display().to_string(),
        line: 1,
        message: error.to_string(),
    };
    let (file, _) = fs_err::File::open(path).map_err(fail)?.into_parts();
    let mut text = String::new();
    file.take(file::LONGEST as u64 + 1)
        .read_to_string(&mut text)
        .map_err(fail)?;
    Ok(text)
}

impl Rule {
    fn new(entry: file::Entry, patterns: &mut Vec<String>) -> Self {
        let bytes = |list: Vec<Spanned<String>>| -> Vec<Vec<u8>> {
            list.into_iter()
                .map(|text| text.into_inner().into_bytes())
                .collect()
        };
        let contains = entry.contains.into_iter().map(|pattern| {
            let pattern = pattern.into_inner().to_ascii_lowercase();
            patterns
                .iter()
                .position(|known| *known == pattern)
                .unwrap_or_else(|| {
                    patterns.push(pattern);
                    patterns.len() - 1
                })
        });
        Self {
            severity: entry.severity,
            when: entry.when,
            is: entry.is,
            magic: entry.magic,
            contains: contains.collect(),
            path: bytes(entry.path),
            under: bytes(entry.under),
            file_name: bytes(entry.file_name),
            ending: bytes(entry.ending),
            glob: entry
                .glob
                .iter()
                .filter_map(|glob| Glob::parse(glob.get_ref()).ok())
                .collect(),
            finding: Arc::new(Finding {
                rule: entry.name.into_inner(),
                text: entry.text.into_inner(),
                technique: entry.technique.map(Spanned::into_inner),
            }),
        }
    }

    /// Whether the content must be looked at to tell.
    pub(crate) fn asks_content(&self) -> bool {
        !self.magic.is_empty() || !self.contains.is_empty()
    }

    fn in_directory(&self, dir: &[u8]) -> Option<Candidate<'_>> {
        let has_entry = |paths: &[Vec<u8>]| paths.iter().any(|path| parent(path) == dir);
        let is_below = self.under.iter().any(|top| is_under(dir, top));
        let under_fits = self.under.is_empty() || is_below;
        if (!self.path.is_empty() && !has_entry(&self.path))
            || !(under_fits || has_entry(&self.under))
        {
            return None;
        }
        Some(Candidate {
            rule: self,
            is_inside: self.path.is_empty() && under_fits,
            globs_fit: self.glob.is_empty()
                || self.glob.iter().any(|glob| glob.fits_all_below(dir)),
        })
    }
}

impl Candidate<'_> {
    /// Whether the rule speaks of this path.
    pub(crate) fn fits_path(&self, path: &[u8], name: &[u8]) -> bool {
        let rule = self.rule;
        let is_inside = self.is_inside || {
            let is_at = rule.path.is_empty() || rule.path.iter().any(|exact| exact == path);
            is_at && (rule.under.is_empty() || rule.under.iter().any(|top| is_under(path, top)))
        };
        is_inside
            && (rule.file_name.is_empty() || rule.file_name.iter().any(|exact| exact == name))
            && (rule.ending.is_empty() || rule.ending.iter().any(|end| name.ends_with(end)))
            && (self.globs_fit
                || rule
                    .glob
                    .iter()
                    .any(|glob| glob.may_end(name) && glob.fits(path)))
    }
}

fn is_under(path: &[u8], top: &[u8]) -> bool {
    path.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Reads a file of rules by itself; what it means is not used.
pub(crate) fn check(text: &str) -> Result<(), RulesError> {
    Rules::compile(&[(PathBuf::from("rules.toml"), text.to_owned())]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(own: &str) -> Result<Rules, RulesError> {
        Rules::compile(&[
            ("rules.toml".into(), BUILTIN.to_owned()),
            ("own.toml".into(), format!("version = 1\n{own}")),
        ])
    }

    fn first(rules: &Rules, path: &str) -> String {
        let path = path.as_bytes();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
        let candidates = rules.in_directory(parent(path));
        let simple =
            |rule: &&Rule| rule.is.is_empty() && !rule.asks_content() && rule.when != When::Deleted;
        let mut fitting = candidates
            .rules
            .iter()
            .filter(|candidate| candidate.fits_path(path, name));
        let found = fitting.find_map(|candidate| Some(candidate.rule).filter(simple));
        found.map_or_else(String::new, |rule| rule.finding.rule.clone())
    }

    const OWN: &str = "[[rule]]\nname = \"uploads\"\nseverity = \"high\"\ntext = \"t\"\nglob = [\"/data/*/up/**\"]\n";

    #[test]
    fn the_rules_that_come_with_invar_are_sound_and_the_worst_comes_first() {
        let rules = Rules::builtin();
        assert!(rules.list().is_sorted_by(|a, b| a.0 >= b.0));
        assert!(rules.list().count() > 30);
    }

    #[test]
    fn own_rules_add_to_the_others_replace_their_namesakes_and_disable() {
        let added = rules(OWN).unwrap();
        for (path, rule) in [
            ("/data/a/up", "uploads"),
            ("/data/a/up/b/c", "uploads"),
            ("/data/a/down", ""),
            ("/etc/x", "settings"),
            ("/etc/cron.d/x", "cron"),
            ("/etc/cron.d", "cron"),
            ("/etc/cron.dx", "settings"),
            ("/home/u/.config/systemd/user/x.service", "user-services"),
        ] {
            assert_eq!(first(&added, path), rule, "{path}");
        }
        let replaced = rules(&OWN.replace("uploads", "cron")).unwrap();
        assert_eq!(first(&replaced, "/etc/cron.d/x"), "settings");
        assert_eq!(first(&replaced, "/data/a/up"), "cron");
        let disabled = rules("disable = [\"settings\"]").unwrap();
        assert_eq!(first(&disabled, "/etc/x"), "");
        let error = rules("\ndisable = [\"setings\"]").unwrap_err().to_string();
        assert_eq!(error, "own.toml:3: there is no rule \"setings\" to disable");
    }

    #[test]
    fn own_rules_are_tried_before_those_of_the_same_severity() {
        let own = rules(&OWN.replace("/data/*/up/**", "/etc/cron.d/**")).unwrap();
        assert_eq!(first(&own, "/etc/cron.d/x"), "uploads");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Rules::with_files(&["/nowhere/x.toml".into()])
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("/nowhere/x.toml:1: "), "{error}");
    }
}
