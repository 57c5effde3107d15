//! Image references as users write and read them: `busybox`, `ghcr.io/team/web:1.4@sha256:…`.

use std::fmt;

use crate::digest::Digest;
use crate::error::{ImageError, Result};

/// A name to find an image by, in Docker's familiar form: `docker.io/library/busybox:latest` is
/// `busybox:latest`. A tag is only a way to find a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    name: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The registry of names that have none.
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";
/// What a missing tag stands for.
const DEFAULT_TAG: &str = "latest";

/// Longest repository name, as distribution registries have it.
const LONGEST_NAME: usize = 255;
/// Longest tag.
const LONGEST_TAG: usize = 128;

impl Reference {
    /// Reads a reference; a missing tag is `latest`.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |reason| ImageError::InvalidReference {
            text: text.to_owned(),
            reason,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before the last slash belongs to the registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if name.is_empty() {
            return Err(invalid("it has no name"));
        }
        if name.len() > LONGEST_NAME {
            return Err(invalid("the name is longer than 255 characters"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(invalid(
                "a tag has letters, digits, '_', '.' and '-', at most 128, and does not start with '.' or '-'",
            ));
        }
        let familiar = familiar(name);
        let (registry, path) = split_registry(familiar);
        if !registry.is_none_or(is_registry) || !path.split('/').all(is_path_part) {
            return Err(invalid(
                "a name has lower-case letters, digits, and single '.', '_' or '-' between them, in parts joined by '/'",
            ));
        }
        Ok(Self {
            name: familiar.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// `name:tag`, as listings show it.
    pub fn name_and_tag(&self) -> String {
        format!("{}:{}", self.name, self.tag())
    }

    /// The tag; `latest` when none was given.
    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(DEFAULT_TAG)
    }

    /// Whether it names an image by its digest alone: then it is no name to give to an image.
    pub fn is_digest_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_some()
    }

    /// The name without tag and digest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The registry it is in: `docker.io` when the name has none.
    pub fn registry(&self) -> &str {
        split_registry(&self.name).0.unwrap_or(DEFAULT_REGISTRY)
    }

    /// The repository's path in its registry: Docker's own images are below `library`.
    pub fn path(&self) -> String {
        let (registry, path) = split_registry(&self.name);
        if registry.is_none_or(|registry| registry == DEFAULT_REGISTRY) && !path.contains('/') {
            return format!("library/{path}");
        }
        path.to_owned()
    }

    /// The digest the user pinned it to.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if !self.is_digest_only() {
            write!(f, ":{}", self.tag())?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn familiar(name: &str) -> &str {
    let without_registry = match name.strip_prefix("docker.io/") {
        // Without it, what follows would be read as another registry.
        Some(rest) if split_registry(rest).0.is_some() => return name,
        Some(rest) => rest,
        None => name,
    };
    match without_registry.strip_prefix("library/") {
        Some(rest) if without_registry.len() < name.len() && !rest.contains('/') => rest,
        _ => without_registry,
    }
}

/// The first part is a registry when it looks like a host: it has a dot or a port, or is
/// `localhost`.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let is_label = |label: &str| {
        let ends_well = !label.starts_with('-') && !label.ends_with('-');
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && ends_well && label.bytes().all(is_word)
    };
    host.split('.').all(is_label) && port.parse::<u16>().is_ok()
}

fn is_path_part(text: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well =
        bytes.first().is_some_and(|b| is_letter(*b)) && bytes.last().is_some_and(|b| is_letter(*b));
    ends_well
        && bytes.iter().all(|b| is_letter(*b) || b"._-".contains(b))
        && !text.contains("..")
        && !text.contains("___")
}

fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    bytes.next().is_some_and(is_word)
        && bytes.all(|b| is_word(b) || b".-".contains(&b))
        && text.len() <= LONGEST_TAG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_in_their_familiar_form() {
        let table = [
            ("busybox", "busybox:latest"),
            ("docker.io/library/busybox:1.36", "busybox:1.36"),
            ("docker.io/team/web", "team/web:latest"),
            ("localhost:5000/web", "localhost:5000/web:latest"),
            ("ghcr.io/team/web:v1", "ghcr.io/team/web:v1"),
            ("library/busybox", "library/busybox:latest"),
            ("docker.io/docker.io/web", "docker.io/docker.io/web:latest"),
            ("docker.io/localhost/web", "docker.io/localhost/web:latest"),
        ];
        for (text, expected) in table {
            assert_eq!(Reference::parse(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn a_digest_is_kept() {
        let digest = Digest::of(b"x");
        let reference = Reference::parse(&format!("web:1@{digest}")).unwrap();
        assert_eq!(reference.digest(), Some(&digest));
        assert_eq!(reference.name_and_tag(), "web:1");
    }

    #[test]
    fn every_name_has_a_place_in_a_registry() {
        for (text, registry, path) in [
            ("busybox", "docker.io", "library/busybox"),
            ("team/web:1", "docker.io", "team/web"),
            ("docker.io/docker.io/web", "docker.io", "docker.io/web"),
            ("ghcr.io/team/web", "ghcr.io", "team/web"),
            ("localhost:5000/web", "localhost:5000", "web"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.registry(), registry, "{text}");
            assert_eq!(reference.path(), path, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_read_again(
            text in "([a-zA-Z0-9.-]{1,8}(:[0-9]{1,5})?/)?[a-z0-9._/-]{1,12}(:[a-zA-Z0-9_.-]{1,9})?",
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                let shown = reference.to_string();
                let again = Reference::parse(&shown).map(|again| again.to_string());
                proptest::prop_assert_eq!(again.ok(), Some(shown), "{}", text);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            drop(Reference::parse(&text));
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "a".repeat(256);
        let table = [
            "",
            ":tag",
            "../etc",
            "a/../b",
            "UPPER",
            "a//b",
            "a b",
            "web:",
            "web:.x",
            "web:a b",
            "\u{1b}[31mweb",
            "-web",
            "web@sha256:123",
            "web@md5:d41d8cd98f00b204e9800998ecf8427e",
            "host:99999/web",
            "wéb",
            &long,
        ];
        for text in table {
            assert!(Reference::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
