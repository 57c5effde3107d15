//! Bytes from a container as text in JSON: shown escaped, and exactly when that was needed.

use crate::digest::{hex, unhex};

/// The text, and the exact bytes in hexadecimal when the text had to be escaped. As
/// [`invar_drift::Change::path_text`] does it.
pub(crate) fn to_text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() || c == '\\') => (text.to_owned(), None),
        _ => (bytes.escape_ascii().to_string(), Some(hex(bytes))),
    }
}

/// Only the text.
pub(crate) fn shown(bytes: &[u8]) -> String {
    to_text(bytes).0
}

/// The bytes behind a text; `None` when the two forms contradict each other.
pub(crate) fn from_text(text: &str, exact: Option<&str>) -> Option<Vec<u8>> {
    let bytes = match exact {
        None => text.as_bytes().to_vec(),
        Some(exact) => unhex(exact)?,
    };
    let (expected, expected_exact) = to_text(&bytes);
    (expected == text && expected_exact.as_deref() == exact).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_shown_cannot_contradict_the_bytes() {
        assert_eq!(from_text("/etc/motd", Some("2f62696e2f7368")), None);
        assert_eq!(from_text("/a\nb", None), None);
        assert_eq!(from_text("/a", Some("2F61")), None);
        assert_eq!(from_text("/a", Some("2f6")), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_back(bytes: Vec<u8>) {
            let (text, exact) = to_text(&bytes);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(from_text(&text, exact.as_deref()), Some(bytes));
        }
    }
}
