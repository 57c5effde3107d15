//! Splits a command line into words as a shell does, without doing anything else a shell does.

/// The words of a text: quotes group, a backslash keeps the next character.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a single quote is not closed".to_owned()),
                        Some('\'') => break,
                        Some(c) => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a double quote is not closed".to_owned()),
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a double quote is not closed".to_owned()),
                        },
                        Some(c) => word.push(c),
                    }
                }
            }
            '\\' => match chars.next() {
                None => return Err("a backslash stands at the end".to_owned()),
                Some(c) => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        for (text, expected) in [
            ("a  b\tc", &["a", "b", "c"] as &[&str]),
            ("", &[]),
            ("sh -c 'echo $A  \"x\"'", &["sh", "-c", "echo $A  \"x\""]),
            (r#"a"b c"d 'e'f"#, &["ab cd", "ef"]),
            (r#"a\ b "\"\n""#, &["a b", r#""\n"#]),
            ("'' \"\"", &["", ""]),
        ] {
            assert_eq!(split(text).unwrap(), expected, "{text}");
        }
        for text in ["'a", "\"a", "a\\"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
