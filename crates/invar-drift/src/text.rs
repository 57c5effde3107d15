//! Names from a container as text that cannot move a cursor, forge a line, or reorder what is read.

use std::borrow::Cow;

/// The name as it is when every character of it is plain, else with everything escaped that is
/// not printable ASCII.
pub fn escape(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(text) if is_plain_ascii(name) || text.chars().all(is_plain) => Cow::Borrowed(text),
        _ => Cow::Owned(name.escape_ascii().to_string()),
    }
}

/// As [`escape`] for a line of text, in which a tab and a backslash are nothing to fear.
pub fn escape_line(line: &str) -> Cow<'_, str> {
    let is_safe = |c: char| c == '\t' || c == '\\' || is_plain(c);
    if line.chars().all(is_safe) {
        return Cow::Borrowed(line);
    }
    let mut text = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if is_safe(c) {
            text.push(c);
        } else {
            text.extend(c.escape_default());
        }
    }
    Cow::Owned(text)
}

/// What nearly every name is, told quickly.
fn is_plain_ascii(name: &[u8]) -> bool {
    let is_odd = |byte: &u8| !(b' '..=b'~').contains(byte) || *byte == b'\\';
    name.iter().filter(|byte| is_odd(byte)).count() == 0
}

/// Neither a control character, nor the backslash that escapes begin with, nor one of the
/// invisible characters that change the direction of writing or hide (Unicode TR36).
fn is_plain(c: char) -> bool {
    let is_invisible = matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !c.is_control() && c != '\\' && !is_invisible
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_reader_sees_as_it_is_stays_as_it_is() {
        for (name, shown) in [
            (&b"plain"[..], "plain"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
            (b"a\x1b[2J", r"a\x1b[2J"),
            (b"a\nA /etc/passwd", r"a\nA /etc/passwd"),
            (b"\xff", r"\xff"),
            (br"back\slash", r"back\\slash"),
            ("evil\u{202e}gpj.exe".as_bytes(), r"evil\xe2\x80\xaegpj.exe"),
            ("\u{200b}".as_bytes(), r"\xe2\x80\x8b"),
        ] {
            assert_eq!(escape(name), shown);
        }
    }

    #[test]
    fn a_line_of_text_keeps_its_tabs_and_backslashes_only() {
        assert_eq!(escape_line("\ta\\b"), "\ta\\b");
        assert_eq!(escape_line("a\x1b]0;x\x07"), r"a\u{1b}]0;x\u{7}");
    }
}
