//! The proxy that `HTTPS_PROXY` names, unless `NO_PROXY` excepts the host.

use super::connection::Proxy;
use super::url::{Origin, Scheme, Url};

/// The proxy for an origin. Only TLS goes through one: it cannot read what it carries.
pub(crate) fn for_origin(
    origin: &Origin,
    environment: impl Fn(&str) -> Option<String>,
) -> Option<Proxy> {
    let variable = |name: &str| {
        let value = environment(name).or_else(|| environment(&name.to_ascii_lowercase()));
        value.filter(|value| !value.is_empty())
    };
    if origin.scheme == Scheme::Http || is_loopback(&origin.host) {
        return None;
    }
    let named = variable("HTTPS_PROXY").or_else(|| variable("ALL_PROXY"))?;
    if variable("NO_PROXY").is_some_and(|list| is_excepted(&origin.host, &list)) {
        return None;
    }
    let (scheme, rest) = named.split_once("://").unwrap_or(("http", &named));
    let (credentials, host) = match rest.rsplit_once('@') {
        Some((credentials, host)) => (Some(credentials.to_owned()), host),
        None => (None, rest),
    };
    let url = Url::parse(&format!("{scheme}://{host}")).ok()?;
    Some(Proxy { url, credentials })
}

/// Whether a host is this machine by its name or address: 127.0.0.0/8, `::1`, `localhost`.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn is_excepted(host: &str, list: &str) -> bool {
    list.split(',').map(str::trim).any(|pattern| {
        let suffix = pattern.trim_start_matches("*.").trim_start_matches('.');
        let suffix = suffix.split(':').next().unwrap_or(suffix);
        pattern == "*"
            || (!suffix.is_empty()
                && host
                    .strip_suffix(suffix)
                    .is_some_and(|before| before.is_empty() || before.ends_with('.')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_used_unless_the_host_is_excepted() {
        let environment = |name: &str| match name {
            "https_proxy" => Some("http://me:secret@proxy.example:3128".to_owned()),
            "NO_PROXY" => Some("internal.example, .corp,10.0.0.1".to_owned()),
            _ => None,
        };
        for (url, expected) in [
            ("https://ghcr.io", true),
            ("http://ghcr.io", false),
            ("https://internal.example:5000", false),
            ("https://a.internal.example", false),
            ("https://notinternal.example", true),
            ("https://x.corp", false),
            ("https://10.0.0.1", false),
            ("https://localhost", false),
        ] {
            let origin = Url::parse(url).unwrap().origin;
            let proxy = for_origin(&origin, environment);
            assert_eq!(proxy.is_some(), expected, "{url}");
            if let Some(proxy) = proxy {
                assert_eq!(proxy.url.origin.authority(), "proxy.example:3128");
                assert_eq!(proxy.credentials.as_deref(), Some("me:secret"));
            }
        }
    }
}
