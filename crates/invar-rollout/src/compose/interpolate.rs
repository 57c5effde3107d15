//! `$NAME`, `${NAME}` and their forms with defaults, as the Compose Specification has them.
//!
//! | written | means |
//! |---|---|
//! | `$$` | a dollar sign |
//! | `${A:-x}` · `${A-x}` | `x` when A is unset or empty · when it is unset |
//! | `${A:?why}` · `${A?why}` | an error with `why` in the same cases |
//! | `${A:+x}` · `${A+x}` | `x` when A is set and not empty · when it is set |
//!
//! `x` may hold further references; values of variables are never read again.

use super::yaml::MOST_BYTES;

/// References within defaults within defaults.
const MOST_DEPTH: usize = 16;

/// Where values of variables come from.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A text with its references replaced, and the names that were not set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) text: String,
    pub(super) missing: Vec<String>,
}

/// Replaces every reference in a text.
pub(super) fn interpolate(text: &str, lookup: Lookup<'_>) -> Result<Replaced, String> {
    let mut reader = Reader {
        rest: text,
        lookup,
        missing: Vec::new(),
        written: 0,
    };
    let text = reader.until_end(0)?;
    Ok(Replaced {
        text,
        missing: reader.missing,
    })
}

struct Reader<'a> {
    rest: &'a str,
    lookup: Lookup<'a>,
    missing: Vec<String>,
    written: usize,
}

impl<'a> Reader<'a> {
    /// Reads to the end of the text, or below the first level to the brace that closes it.
    fn until_end(&mut self, depth: usize) -> Result<String, String> {
        let mut out = String::new();
        loop {
            let stops: &[char] = if depth == 0 { &['$'] } else { &['$', '}'] };
            let end = self.rest.find(stops).unwrap_or(self.rest.len());
            let (before, rest) = self.rest.split_at(end);
            self.write(&mut out, before)?;
            self.rest = rest;
            let Some(after) = self.rest.strip_prefix('$') else {
                return Ok(out);
            };
            self.rest = after;
            let value = self.reference(depth)?;
            self.write(&mut out, &value)?;
        }
    }

    fn write(&mut self, out: &mut String, text: &str) -> Result<(), String> {
        self.written += text.len();
        if self.written > MOST_BYTES {
            return Err(format!(
                "with its variables it is longer than {MOST_BYTES} bytes"
            ));
        }
        out.push_str(text);
        Ok(())
    }

    /// What follows a dollar sign.
    fn reference(&mut self, depth: usize) -> Result<String, String> {
        if let Some(rest) = self.rest.strip_prefix('$') {
            self.rest = rest;
            return Ok("$".to_owned());
        }
        let Some(rest) = self.rest.strip_prefix('{') else {
            let name = self.name();
            if name.is_empty() {
                return Err("a '$' names no variable; write $$ for a dollar sign".to_owned());
            }
            return Ok(self.value_or_empty(name));
        };
        if depth >= MOST_DEPTH {
            return Err(format!("more than {MOST_DEPTH} references in each other"));
        }
        self.rest = rest;
        let name = self.name();
        if name.is_empty() {
            return Err("'${' is not followed by the name of a variable".to_owned());
        }
        self.braced(name, depth)
    }

    /// What follows `${NAME`.
    fn braced(&mut self, name: &'a str, depth: usize) -> Result<String, String> {
        let set = (self.lookup)(name);
        if let Some(rest) = self.rest.strip_prefix('}') {
            self.rest = rest;
            return Ok(self.value_or_empty(name));
        }
        let not_empty = self.rest.starts_with(':');
        let operator = &self.rest[usize::from(not_empty)..];
        let counts = set.as_ref().is_some_and(|v| !(not_empty && v.is_empty()));
        let kind = operator.chars().next();
        let (Some('-' | '?' | '+'), Some(rest)) = (kind, operator.get(1..)) else {
            return Err(format!("'${{{name}' is not closed with '}}'"));
        };
        self.rest = rest;
        let before = self.missing.len();
        let word = self.until_end(depth + 1)?;
        let is_used = counts == (kind == Some('+'));
        if !is_used {
            // Nothing of it is in the result.
            self.missing.truncate(before);
        }
        self.rest = self
            .rest
            .strip_prefix('}')
            .ok_or_else(|| format!("'${{{name}' is not closed with '}}'"))?;
        match kind {
            Some('?') if !counts && word.is_empty() => Err(format!("{name} must be set")),
            Some('?') if !counts => Err(format!("{name} must be set: {word}")),
            Some('+') if !counts => Ok(String::new()),
            Some('+') => Ok(word),
            Some('-') if !counts => Ok(word),
            _ => Ok(set.unwrap_or_default()),
        }
    }

    fn name(&mut self) -> &'a str {
        let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let end = if self.rest.starts_with(is_first) {
            let more = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
            self.rest.find(more).unwrap_or(self.rest.len())
        } else {
            0
        };
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name
    }

    fn value_or_empty(&mut self, name: &str) -> String {
        (self.lookup)(name).unwrap_or_else(|| {
            self.missing.push(name.to_owned());
            String::new()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("$A ${A}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn references_are_replaced_as_specified() {
        for (text, expected) in [
            ("plain", Ok("plain")),
            ("$A-$A", Ok("a-a")),
            ("${A}b", Ok("ab")),
            ("$$A $${A}", Ok("$A ${A}")),
            ("$DOLLAR", Ok("$A ${A}")),
            ("$NO.", Ok(".")),
            ("${A:-x}${A-x}", Ok("aa")),
            ("${NO:-x}${NO-x}", Ok("xx")),
            ("${EMPTY:-x}${EMPTY-x}", Ok("x")),
            ("${A:+x}${A+x}", Ok("xx")),
            ("${NO:+x}${NO+x}", Ok("")),
            ("${EMPTY:+x}${EMPTY+x}", Ok("x")),
            ("${A:?why}${EMPTY?why}", Ok("a")),
            ("${NO:-${A}}", Ok("a")),
            ("${NO:-x${NO2:-$A}y}z", Ok("xayz")),
            ("${NO:-a:b-c?d}", Ok("a:b-c?d")),
            ("${NO:-}", Ok("")),
            ("${NO:-$$}", Ok("$")),
            ("a}b", Ok("a}b")),
            ("${NO:?say why}", Err("NO must be set: say why")),
            ("${EMPTY:?}", Err("EMPTY must be set")),
            ("$", Err("names no variable")),
            ("$1", Err("names no variable")),
            ("${", Err("not followed by the name")),
            ("${1}", Err("not followed by the name")),
            ("${A", Err("not closed")),
            ("${A:-b", Err("not closed")),
            ("${A!b}", Err("not closed")),
            ("${A:}", Err("not closed")),
        ] {
            match (interpolate(text, &lookup), expected) {
                (Ok(replaced), Ok(expected)) => assert_eq!(replaced.text, expected, "{text}"),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{text}: {said}"),
                (outcome, _) => panic!("{text}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn unset_names_are_told_only_when_they_would_be_used() {
        let missing = |text| interpolate(text, &lookup).unwrap().missing;
        assert_eq!(missing("$NO ${NO2} ${NO3:-x}"), ["NO", "NO2"]);
        assert_eq!(missing("${A:-$NO}"), [""; 0]);
        assert_eq!(missing("${NO:-$NO2}"), ["NO2"]);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_escaped_text_stays(text in "[$A{}:?+ -]{0,40}|\\PC{0,40}") {
            drop(interpolate(&text, &lookup));
            let escaped = text.replace('$', "$$");
            prop_assert_eq!(interpolate(&escaped, &lookup).unwrap().text, text);
        }
    }
}
