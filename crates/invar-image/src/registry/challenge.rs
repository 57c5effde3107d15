//! `WWW-Authenticate`: how a registry wants to be asked (RFC 9110, section 11.6.1).

/// Longest header that is read.
const LONGEST: usize = 16 << 10;

/// A way to authenticate that the registry offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        /// Where tokens are had.
        realm: String,
        /// For whom the token is.
        service: Option<String>,
        /// What it allows.
        scope: Option<String>,
    },
}

/// The best challenge that is understood: a token before a password.
pub(crate) fn best<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<_> = headers.flat_map(parse).collect();
    let bearer = |challenge: &&Challenge| matches!(challenge, Challenge::Bearer { .. });
    all.iter().find(bearer).or(all.first()).cloned()
}

/// Every challenge of one header that is understood; what is malformed ends the list.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Scheme<'_>> = Vec::new();
    let mut rest = if header.len() > LONGEST { "" } else { header };
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        match (value, found.last_mut()) {
            (Some(value), Some(scheme)) => {
                let Some((text, after)) = parameter(value.trim_start_matches([' ', '\t'])) else {
                    break;
                };
                scheme.parameters.push((word, text));
                rest = after;
            }
            (Some(_), None) => break,
            (None, _) => {
                found.push(Scheme {
                    name: word,
                    parameters: Vec::new(),
                });
                rest = after;
            }
        }
    }
    found.iter().filter_map(Scheme::understood).collect()
}

struct Scheme<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, String)>,
}

impl Scheme<'_> {
    fn understood(&self) -> Option<Challenge> {
        if self.name.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        let parameter = |wanted: &str| {
            let found = self
                .parameters
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.clone())
        };
        if self.name.eq_ignore_ascii_case("bearer") {
            return Some(Challenge::Bearer {
                realm: parameter("realm")?,
                service: parameter("service"),
                scope: parameter("scope"),
            });
        }
        None
    }
}

/// The characters of a token (RFC 9110, section 5.6.2), and what follows.
fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// A token or a quoted string, and what follows.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = token(text);
        return Some((word.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn headers_of_real_registries_are_understood() {
        let table = [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/busybox:pull"),
                )],
            ),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            (
                r#"basic realm="a, b", bearer realm="https://t/", scope="repository:x:pull,push""#,
                vec![
                    Challenge::Basic,
                    bearer("https://t/", None, Some("repository:x:pull,push")),
                ],
            ),
            (
                r#"Bearer realm="a \"quoted\" one""#,
                vec![bearer("a \"quoted\" one", None, None)],
            ),
            ("Negotiate", vec![]),
            (r#"Bearer service="x""#, vec![]),
            (r#"Bearer realm="never closed"#, vec![]),
            ("", vec![]),
            ("=,=,\"", vec![]),
        ];
        for (header, expected) in table {
            assert_eq!(parse(header), expected, "{header}");
        }
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let headers = ["Basic realm=\"x\"", "Bearer realm=\"https://t/\""];
        assert_eq!(
            best(headers.into_iter()),
            Some(bearer("https://t/", None, None))
        );
        assert_eq!(best(std::iter::empty()), None);
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(header in "\\PC{0,80}") {
            parse(&header);
        }

        #[test]
        fn what_is_quoted_comes_back(realm in "[a-zA-Z0-9 ,=\"\\\\:/?&.-]{0,40}") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let found = parse(&format!("Bearer realm=\"{quoted}\", service=s"));
            proptest::prop_assert_eq!(found, vec![bearer(&realm, Some("s"), None)]);
        }
    }
}
