//! From host and path to a service.

use std::collections::HashMap;
use std::sync::Arc;

use super::service::Service;

/// Routes by host: exact names first, then `*.` suffixes from the longest, then `*`.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    exact: HashMap<String, Paths>,
    /// Keyed by what follows `*.`.
    suffix: HashMap<String, Paths>,
    any: Paths,
}

/// Path prefixes of one host, longest first.
#[derive(Debug, Default)]
struct Paths(Vec<(String, Arc<Service>)>);

impl Paths {
    fn add(&mut self, path: &str, service: Arc<Service>) -> bool {
        let path = path.trim_end_matches('/').to_owned();
        if self.0.iter().any(|(other, _)| *other == path) {
            return false;
        }
        let place = self
            .0
            .partition_point(|(other, _)| other.len() > path.len());
        self.0.insert(place, (path, service));
        true
    }

    fn find(&self, path: &str) -> Option<&Arc<Service>> {
        self.0
            .iter()
            .find(|(prefix, _)| is_below(path, prefix))
            .map(|(_, service)| service)
    }
}

/// `/api` holds `/api` and `/api/x`, not `/apis`.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl RouteTable {
    /// Adds a checked route; false when host and path are taken.
    pub(crate) fn add(&mut self, host: &str, path: &str, service: Arc<Service>) -> bool {
        let host = host.to_ascii_lowercase();
        let paths = if host == "*" {
            &mut self.any
        } else if let Some(suffix) = host.strip_prefix("*.") {
            self.suffix.entry(suffix.to_owned()).or_default()
        } else {
            self.exact.entry(host).or_default()
        };
        paths.add(path, service)
    }

    /// The service of a request. `host` is without a port.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Arc<Service>> {
        if self.exact.is_empty() && self.suffix.is_empty() {
            return self.any.find(path);
        }
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            &lower
        } else {
            host
        };
        // A final dot names the same host.
        let host = host.strip_suffix('.').unwrap_or(host);
        let exact = self.exact.get(host).and_then(|paths| paths.find(path));
        exact
            .or_else(|| self.find_by_suffix(host, path))
            .or_else(|| self.any.find(path))
    }

    fn find_by_suffix(&self, host: &str, path: &str) -> Option<&Arc<Service>> {
        if self.suffix.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(service) = self.suffix.get(suffix).and_then(|paths| paths.find(path)) {
                return Some(service);
            }
            rest = suffix;
        }
        None
    }
}

/// The host of an authority without its port; `None` when it is not one.
pub(crate) fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let end = rest.find(']')? + 2;
        authority.split_at(end)
    } else {
        let end = authority.find(':').unwrap_or(authority.len());
        authority.split_at(end)
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    let fits = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'[' | b']' | b':')
    };
    (is_port && !host.is_empty() && host.len() <= 255 && host.bytes().all(fits)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_host_and_the_longest_path_win() {
        let mut table = RouteTable::default();
        for (host, path, name) in [
            ("Example.com", "/", "exact"),
            ("example.com", "/api", "api"),
            ("example.com", "/api/v2/", "v2"),
            ("*.example.com", "/", "suffix"),
            ("*.deep.example.com", "/", "deep"),
            ("*", "/static", "any-static"),
        ] {
            assert!(table.add(host, path, Arc::new(Service::for_tests(name))));
        }
        assert!(!table.add(
            "example.com",
            "/api/",
            Arc::new(Service::for_tests("twice"))
        ));
        for (host, path, expected) in [
            ("example.com", "/", Some("exact")),
            ("EXAMPLE.com.", "/x", Some("exact")),
            ("example.com", "/api", Some("api")),
            ("example.com", "/apis", Some("exact")),
            ("example.com", "/api/v2", Some("v2")),
            ("example.com", "/api/v2/x", Some("v2")),
            ("a.example.com", "/", Some("suffix")),
            ("a.b.example.com", "/", Some("suffix")),
            ("a.deep.example.com", "/", Some("deep")),
            ("other.org", "/static/x", Some("any-static")),
            ("other.org", "/", None),
            ("com", "/", None),
        ] {
            let found = table.find(host, path).map(|service| &*service.name);
            assert_eq!(found, expected, "{host}{path}");
        }
    }

    #[test]
    fn an_authority_is_a_host_with_an_optional_port() {
        for (authority, expected) in [
            ("example.com", Some("example.com")),
            ("example.com:80", Some("example.com")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("a:b", None),
            ("a:80:80", None),
            ("a@b", None),
            ("a/b", None),
            ("a b", None),
            ("", None),
            (":80", None),
            ("[::1", None),
            ("[::1]x", None),
        ] {
            assert_eq!(host_of(authority), expected, "{authority}");
        }
    }
}
