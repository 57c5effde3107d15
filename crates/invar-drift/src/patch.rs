//! How the text of a small file changed.

use std::time::Duration;

use serde::Serialize;
use similar::{Algorithm, TextDiff};

/// Files longer than this are not shown: nobody reads it, and comparing lines takes long.
pub(crate) const LONGEST: u64 = 256 * 1024;
/// A text made to be compared slowly is given up into larger pieces after this time.
const TIME: Duration = Duration::from_millis(200);
/// Characters of one shown change.
const SHOWN: usize = 64 * 1024;
/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// The change of a text, or why it is not shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Patch {
    /// A unified diff, from its first `@@` on. Its lines are the container's own bytes: escape
    /// them before they reach a terminal.
    Unified(String),
    /// There is none.
    Omitted(&'static str),
}

/// Compares two texts line by line. An added or deleted file is compared with nothing.
pub(crate) fn unified(old: &[u8], new: &[u8]) -> Patch {
    let (Some(old), Some(new)) = (text(old), text(new)) else {
        return Patch::Omitted("not text");
    };
    let mut config = TextDiff::configure();
    config.algorithm(Algorithm::Myers).timeout(TIME);
    let mut shown = config
        .diff_lines(old, new)
        .unified_diff()
        .context_radius(CONTEXT)
        .to_string();
    if shown.len() > SHOWN {
        let end = (0..=SHOWN)
            .rev()
            .find(|at| shown.is_char_boundary(*at))
            .unwrap_or(0);
        shown.truncate(end);
        shown.push_str("\n\\ The rest is not shown\n");
    }
    Patch::Unified(shown)
}

/// Text is UTF-8 without NUL, as git decides it.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_with_its_surroundings() {
        let Patch::Unified(text) = unified(b"a\nb\nc\n", b"a\nB\nc") else {
            panic!("text is shown");
        };
        assert_eq!(
            text,
            "@@ -1,3 +1,3 @@\n a\n-b\n-c\n+B\n+c\n\\ No newline at end of file\n"
        );
    }

    #[test]
    fn what_is_no_text_is_not_shown() {
        assert_eq!(unified(b"a", b"\xff"), Patch::Omitted("not text"));
        assert_eq!(unified(b"a\0b", b"a"), Patch::Omitted("not text"));
    }

    #[test]
    fn a_long_change_is_cut_and_says_so() {
        let line = "\u{fc}".repeat(99) + "\n";
        let Patch::Unified(text) = unified(b"", line.repeat(1000).as_bytes()) else {
            panic!("text is shown");
        };
        assert!(text.len() < SHOWN + 50 && text.ends_with("The rest is not shown\n"));
    }

    #[test]
    fn texts_made_to_be_compared_slowly_take_bounded_time() {
        let lines = |seed: u64| -> String {
            let mut state = seed;
            (0..60_000)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    if state >> 63 == 0 { "a\n" } else { "b\n" }
                })
                .collect()
        };
        let begun = std::time::Instant::now();
        assert!(matches!(
            unified(lines(1).as_bytes(), lines(2).as_bytes()),
            Patch::Unified(_)
        ));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
