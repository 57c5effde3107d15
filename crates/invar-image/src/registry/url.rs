//! Addresses of registries, and where their redirects lead.

use std::fmt;

use http::Uri;

/// Longest address that is followed.
const LONGEST: usize = 16 << 10;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// Not at all.
    Http,
    /// By TLS.
    Https,
}

/// Who answers: connections and credentials belong to one of these.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    /// Lower case; an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// `host` or `host:port`, the port when it is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// An address on an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Starts with `/`.
    pub(crate) path_and_query: String,
}

impl Url {
    /// Reads an absolute address; the reason when it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > LONGEST {
            return Err("the address is longer than 16 KiB");
        }
        let uri: Uri = text.parse().map_err(|_error| "it is not an address")?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err("the address is neither http nor https"),
        };
        let authority = uri.authority().ok_or("the address has no host")?;
        if authority.as_str().contains('@') {
            return Err("the address has a user name in it");
        }
        let host = authority.host().trim_start_matches('[');
        let host = host.trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err("the address has no host");
        }
        let default = match scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            origin: Origin {
                scheme,
                host,
                port: authority.port_u16().unwrap_or(default),
            },
            path_and_query: path.to_owned(),
        })
    }

    /// Where a `Location` of an answer from here leads.
    pub(crate) fn join(&self, location: &str) -> Result<Self, &'static str> {
        if location.is_empty() {
            return Err("there is no address");
        }
        let before_path = location.split('/').next().unwrap_or_default();
        let is_absolute = before_path.ends_with(':');
        let joined = if is_absolute {
            Self::parse(location)?
        } else if location.starts_with("//") {
            let scheme = match self.origin.scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            Self::parse(&format!("{scheme}:{location}"))?
        } else {
            let path = self.path_and_query.split('?').next().unwrap_or("/");
            let directory = path.rsplit_once('/').map_or("", |(before, _)| before);
            let path = if location.starts_with('/') {
                location.to_owned()
            } else {
                format!("{directory}/{location}")
            };
            let parsed: Uri = path.parse().map_err(|_error| "it is not an address")?;
            if parsed.authority().is_some() || path.len() > LONGEST {
                return Err("it is not an address");
            }
            Self {
                origin: self.origin.clone(),
                path_and_query: path,
            }
        };
        if self.origin.scheme == Scheme::Https && joined.origin.scheme == Scheme::Http {
            return Err("it leads from https to http");
        }
        Ok(joined)
    }

    /// The same with one more query parameter, whose value is escaped.
    pub(crate) fn with_query(&self, name: &str, value: &str) -> Self {
        let separator = if self.path_and_query.contains('?') {
            '&'
        } else {
            '?'
        };
        Self {
            origin: self.origin.clone(),
            path_and_query: format!("{}{separator}{name}={}", self.path_and_query, escape(value)),
        }
    }
}

/// Without the query: signed addresses are secrets.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path_and_query.split('?').next().unwrap_or("/");
        write!(f, "{}{path}", self.origin.authority())
    }
}

/// Percent-encodes what is not unreserved (RFC 3986, section 2.3).
pub(crate) fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("writing to a String succeeds");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_the_specification_says() {
        let from = Url::parse("https://host:5000/v2/a/blobs/x?y=1").unwrap();
        for (location, expected) in [
            ("/other?z=2", Ok("host:5000/other")),
            ("next", Ok("host:5000/v2/a/blobs/next")),
            ("https://CDN.example/b?sig=1", Ok("cdn.example/b")),
            ("//cdn.example:8443/b", Ok("cdn.example:8443/b")),
            ("http://cdn.example/b", Err("it leads from https to http")),
            (
                "https://u:p@cdn.example/b",
                Err("the address has a user name in it"),
            ),
            ("https:///b", Err("it is not an address")),
            ("/a b", Err("it is not an address")),
            ("", Err("there is no address")),
            ("file:///etc/shadow", Err("it is not an address")),
            ("ftp://a/b", Err("the address is neither http nor https")),
        ] {
            let joined = from.join(location).map(|url| url.to_string());
            assert_eq!(joined, expected.map(str::to_owned), "{location}");
        }
    }

    #[test]
    fn values_of_a_query_are_escaped() {
        let url = Url::parse("http://host/token").unwrap();
        let url = url.with_query("scope", "repository:a/b:pull,push");
        let url = url.with_query("account", "a&b");
        assert_eq!(
            url.path_and_query,
            "/token?scope=repository%3Aa%2Fb%3Apull%2Cpush&account=a%26b"
        );
    }

    #[test]
    fn an_ipv6_host_keeps_its_brackets_outside() {
        let url = Url::parse("http://[::1]:5000/v2/").unwrap();
        assert_eq!(url.origin.host, "::1");
        assert_eq!(url.origin.authority(), "[::1]:5000");
    }
}
