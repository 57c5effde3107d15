//! Which paths are shown.

use invar_drift::Glob;

/// A path with everything in it, or a pattern.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    Tree(String),
    Pattern(Glob),
}

impl Filter {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.contains(['*', '?']) {
            return Glob::parse(text)
                .map(Self::Pattern)
                .map_err(ToOwned::to_owned);
        }
        if !text.starts_with('/') {
            return Err("a path inside the container begins with /".to_owned());
        }
        Ok(Self::Tree(text.trim_end_matches('/').to_owned()))
    }

    pub(super) fn fits(&self, path: &[u8]) -> bool {
        match self {
            Self::Pattern(glob) => glob.fits(path),
            Self::Tree(top) => path
                .strip_prefix(top.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_whole_tree_and_a_star_makes_a_pattern() {
        for (filter, path, fits) in [
            ("/etc", "/etc", true),
            ("/etc/", "/etc/passwd", true),
            ("/etc", "/etcetera", false),
            ("/", "/etc", true),
            ("/etc/*.conf", "/etc/x.conf", true),
            ("/etc/*.conf", "/etc/d/x.conf", false),
            ("**/*.php", "/srv/a/b.php", true),
        ] {
            assert_eq!(
                Filter::parse(filter).unwrap().fits(path.as_bytes()),
                fits,
                "{filter} {path}"
            );
        }
        assert!(Filter::parse("etc").is_err());
    }
}
