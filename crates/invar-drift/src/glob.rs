//! Patterns for paths: `?` is one byte and `*` any number of them within a name, `**` any number
//! of names.

/// A checked pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// `**`
    AnyNames,
    /// One name, with `*` and `?`.
    Name(Vec<u8>),
}

/// Patterns are short; a longer one is a mistake or meant to make matching slow.
const LONGEST: usize = 1024;

impl Glob {
    /// Checks a pattern: absolute (or beginning with `**/`), `**` only as a whole name.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let relative = match text.strip_prefix('/') {
            Some(rest) => rest,
            None if text.starts_with("**/") => text,
            None => return Err("a pattern begins with / or **/"),
        };
        if text.len() > LONGEST {
            return Err("a pattern is at most 1024 bytes long");
        }
        let mut pieces = Vec::new();
        for piece in relative.split('/') {
            match piece {
                "" | "." | ".." => return Err("a pattern has no empty names, . or .."),
                "**" if pieces.last() == Some(&Piece::AnyNames) => {}
                "**" => pieces.push(Piece::AnyNames),
                name if name.contains("**") => return Err("** stands for whole names only"),
                name => pieces.push(Piece::Name(name.as_bytes().to_vec())),
            }
        }
        Ok(Self { pieces })
    }

    /// Whether an absolute path fits. Steps are at most the path's names times the pattern's.
    pub fn fits(&self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> = path
            .strip_prefix(b"/")
            .unwrap_or(path)
            .split(|b| *b == b'/')
            .collect();
        matches(
            &self.pieces,
            &names,
            |piece| *piece == Piece::AnyNames,
            |piece, name| matches!(piece, Piece::Name(pattern) if name_fits(pattern, name)),
        )
    }

    /// Whether every path below `dir` fits, as the pattern ends with `**` and the rest fits.
    pub(crate) fn fits_all_below(&self, dir: &[u8]) -> bool {
        self.pieces.last() == Some(&Piece::AnyNames) && self.fits(dir)
    }

    /// Whether a path with this last name can fit, when not all in its directory do: a cheap test
    /// before the real one.
    pub(crate) fn may_end(&self, name: &[u8]) -> bool {
        let last = self
            .pieces
            .iter()
            .rev()
            .find(|piece| **piece != Piece::AnyNames);
        last.is_none_or(|piece| matches!(piece, Piece::Name(pattern) if name_fits(pattern, name)))
    }
}

fn name_fits(pattern: &[u8], name: &[u8]) -> bool {
    matches(
        pattern,
        name,
        |byte| *byte == b'*',
        |byte, other| *byte == b'?' || byte == other,
    )
}

/// The usual loop for wildcards: on a mismatch, the last "any number" takes one more. Going back
/// further is never needed.
fn matches<P, T>(
    pattern: &[P],
    text: &[T],
    is_any: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut taken) = (0, 0);
    let mut last_any: Option<(usize, usize)> = None;
    while taken < text.len() {
        if pattern.get(at).is_some_and(&is_any) {
            last_any = Some((at, taken));
            at += 1;
        } else if pattern
            .get(at)
            .is_some_and(|piece| fits(piece, &text[taken]))
        {
            at += 1;
            taken += 1;
        } else if let Some((any, begun)) = last_any {
            last_any = Some((any, begun + 1));
            at = any + 1;
            taken = begun + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(is_any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_within_a_name_and_double_stars_do_not() {
        for (pattern, path, fits) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/b/c", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/a", true),
            ("/a/**", "/ab", false),
            ("/a/**/z", "/a/z", true),
            ("/a/**/z", "/a/b/c/z", true),
            ("/a/**/y/*.php", "/a/y/x/y/q.php", true),
            ("**/.git/**", "/srv/app/.git/hooks/x", true),
            ("/srv/*/up?oad", "/srv/site/upload", true),
            ("/*a*b*", "/xaxxbx", true),
            ("/*a*b*", "/xbxxax", false),
        ] {
            assert_eq!(
                Glob::parse(pattern).unwrap().fits(path.as_bytes()),
                fits,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn patterns_that_would_never_fit_are_refused() {
        for wrong in [
            "",
            "a",
            "/a//b",
            "/a/../b",
            "/a**",
            "/",
            &format!("/{}", "a".repeat(1024)),
        ] {
            assert!(Glob::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let pattern = Glob::parse(&format!("/{}b", "*a".repeat(400))).unwrap();
        assert!(!pattern.fits(format!("/{}", "a".repeat(255)).as_bytes()));
    }
}
