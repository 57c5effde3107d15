//! `.env` and `env_file`: `NAME=value` lines with quotes, comments and references.

use super::interpolate::{Lookup, interpolate};

/// Names and values, in order; no value: unset.
pub(super) type Settings = Vec<(String, Option<String>)>;

/// The settings of a file in order, with the line of the first thing that is wrong.
///
/// Unquoted values end before ` #`; single quotes keep everything as it is; double quotes know
/// `\n`, `\r`, `\t`, `\"`, `\\` and `\$`, and may span lines. References see earlier lines of the
/// file, and `lookup` first.
pub(super) fn parse(text: &str, lookup: Lookup<'_>) -> Result<Settings, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut settings = Settings::new();
    let mut lines = text.lines().zip(1_usize..);
    while let Some((line, number)) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |reason: String| (number, reason);
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let (name, raw) = match line.split_once('=') {
            Some((name, raw)) => (name.trim_end(), Some(raw.trim_start())),
            None => (line.trim_end(), None),
        };
        if !is_name(name) {
            return Err(wrong(format!("{name:?} is not the name of a variable")));
        }
        let value = match raw {
            None => lookup(name),
            Some(raw) => {
                let mut more = || lines.next().map(|(line, _)| line);
                let value = Raw::read(raw, &mut more).map_err(wrong)?;
                Some(value.resolve(&settings, lookup).map_err(wrong)?)
            }
        };
        settings.push((name.to_owned(), value));
    }
    Ok(settings)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// A value before its references are replaced.
enum Raw {
    AsIs(String),
    WithReferences(String),
}

impl Raw {
    fn read<'a>(raw: &str, more: &mut dyn FnMut() -> Option<&'a str>) -> Result<Self, String> {
        if let Some(quote @ ('"' | '\'')) = raw.chars().next() {
            return Self::quoted(&raw[1..], quote, more);
        }
        let end = raw.find(" #").or(raw.starts_with('#').then_some(0));
        let value = raw[..end.unwrap_or(raw.len())].trim_end();
        Ok(Self::WithReferences(value.to_owned()))
    }

    fn quoted<'a>(
        first: &str,
        quote: char,
        more: &mut dyn FnMut() -> Option<&'a str>,
    ) -> Result<Self, String> {
        let mut text = first.to_owned();
        let (mut value, mut done) = (String::new(), 0);
        loop {
            let mut chars = text[done..].char_indices();
            while let Some((index, c)) = chars.next() {
                if c == quote {
                    let rest = text[done + index + 1..].trim_start();
                    if !rest.is_empty() && !rest.starts_with('#') {
                        return Err("something follows the closing quote".to_owned());
                    }
                    return Ok(match quote {
                        '"' => Self::WithReferences(value),
                        _ => Self::AsIs(value),
                    });
                }
                if c == '\\' && quote == '"' {
                    match chars.next().map(|(_, c)| c) {
                        Some('n') => value.push('\n'),
                        Some('r') => value.push('\r'),
                        Some('t') => value.push('\t'),
                        // Doubled, because references are replaced afterwards.
                        Some('$') => value.push_str("$$"),
                        Some(other @ ('"' | '\\')) => value.push(other),
                        Some(other) => value.extend(['\\', other]),
                        None => value.push('\\'),
                    }
                } else {
                    value.push(c);
                }
            }
            let Some(next) = more() else {
                return Err(format!("the quote {quote} is not closed"));
            };
            value.push('\n');
            done = text.len();
            text.push_str(next);
        }
    }

    fn resolve(
        self,
        earlier: &[(String, Option<String>)],
        lookup: Lookup<'_>,
    ) -> Result<String, String> {
        let text = match self {
            Self::AsIs(text) => return Ok(text),
            Self::WithReferences(text) => text,
        };
        let both = |name: &str| {
            lookup(name).or_else(|| {
                let found = earlier.iter().rfind(|(other, _)| other == name);
                found.and_then(|(_, value)| value.clone())
            })
        };
        Ok(interpolate(&text, &both)?.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_become_settings() {
        let text = "\u{feff}# comment\n\nA=1\nexport B = two # said\nC='$A #' # x\nD=\"$A\\n\\$A\"\n\
                    E=${B:-x}#y\nF=\nHOST\nGONE\nG=\"a\nb\"\nH=\"x\\\\\"\n";
        let lookup = |name: &str| (name == "HOST").then(|| "here".to_owned());
        let found = parse(text, &lookup).unwrap();
        let shown: Vec<String> = found
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("(unset)")))
            .collect();
        assert_eq!(
            shown,
            [
                "A=1",
                "B=two",
                "C=$A #",
                "D=1\n$A",
                "E=two#y",
                "F=",
                "HOST=here",
                "GONE=(unset)",
                "G=a\nb",
                "H=x\\"
            ]
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line, expected) in [
            ("A=1\n=x\n", 2, "not the name"),
            ("A B=1\n", 1, "not the name"),
            ("A='x\n", 1, "not closed"),
            ("A='x'y\n", 1, "follows the closing quote"),
            ("\nA=${B:?no}\n", 2, "B must be set: no"),
        ] {
            let (number, said) = parse(text, &|_| None).unwrap_err();
            assert_eq!(number, line, "{text}");
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[A=\"'\\\\$ \n#é]{0,60}") {
            drop(parse(&text, &|_| None));
        }

        #[test]
        fn a_single_quoted_value_is_kept(value in "[^'\r]{0,30}") {
            let found = parse(&format!("A='{value}'"), &|_| None).unwrap();
            prop_assert_eq!(found, [("A".to_owned(), Some(value))]);
        }
    }
}
