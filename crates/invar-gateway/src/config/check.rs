//! Each item of a configuration on its own: a wrong one is named and never takes others down.

use std::collections::BTreeMap;

use super::{CanaryConfig, RouteConfig, RuleConfig, ServiceConfig, WHOLE};

/// Most items of one kind in a configuration.
pub(crate) const MOST_ITEMS: usize = 10_000;
/// Most endpoints of one revision, revisions of one service, rules of one split.
const MOST_PARTS: usize = 256;

/// Why an item is refused.
pub(crate) type Reason = String;

/// Names appear in metrics, cookies and messages.
pub(crate) fn name(name: &str) -> Result<(), Reason> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(fits) {
        return Err("a name is 1 to 128 letters, digits, '-', '_' and '.'".to_owned());
    }
    Ok(())
}

/// A service with its revisions and its split.
pub(crate) fn service(config: &ServiceConfig) -> Result<(), Reason> {
    name(&config.name)?;
    let revisions: BTreeMap<&str, usize> = config
        .revisions
        .iter()
        .map(|revision| (revision.name.as_str(), revision.endpoints.len()))
        .collect();
    if revisions.is_empty() || config.revisions.len() > MOST_PARTS {
        return Err(format!("it needs 1 to {MOST_PARTS} revisions"));
    }
    if revisions.len() != config.revisions.len() {
        return Err("two revisions have the same name".to_owned());
    }
    for (revision, endpoints) in &revisions {
        name(revision)?;
        if *endpoints == 0 || *endpoints > MOST_PARTS {
            return Err(format!(
                "revision {revision:?} needs 1 to {MOST_PARTS} endpoints"
            ));
        }
    }
    let known = |revision: &str| revisions.contains_key(revision);
    if let Some(stable) = &config.stable
        && !known(stable)
    {
        return Err(format!(
            "the stable revision {stable:?} is not among its revisions"
        ));
    }
    if let Some(cookie) = &config.sticky_cookie {
        token(cookie).map_err(|reason| format!("sticky_cookie: {reason}"))?;
    }
    if let Some(health) = &config.health {
        if health.interval_ms < 10 || health.timeout_ms == 0 {
            return Err("health: interval_ms is at least 10, timeout_ms at least 1".to_owned());
        }
        if health
            .path
            .as_ref()
            .is_some_and(|path| !is_plain_path(path))
        {
            return Err("health: path must begin with '/' and have no spaces".to_owned());
        }
    }
    if config.policy.lease_spread_ms > config.policy.lease_ms {
        return Err("policy: lease_spread_ms is at most lease_ms".to_owned());
    }
    config.canary.as_ref().map_or(Ok(()), |split| {
        canary(split, config.stable.as_deref(), known)
    })
}

/// A split against the revisions there are.
pub(crate) fn canary(
    config: &CanaryConfig,
    stable: Option<&str>,
    known: impl Fn(&str) -> bool,
) -> Result<(), Reason> {
    let missing = |revision: &str| format!("no revision named {revision:?}");
    let mut sum = 0_u32;
    for (revision, weight) in &config.weights {
        if !known(revision) {
            return Err(missing(revision));
        }
        if Some(revision.as_str()) == stable {
            return Err("the stable revision has no weight: it takes what is left".to_owned());
        }
        sum = sum.saturating_add(*weight);
    }
    if sum > WHOLE {
        return Err(format!(
            "the weights add up to {sum}; at most {WHOLE}, which is all traffic"
        ));
    }
    if config.rules.len() > MOST_PARTS {
        return Err(format!("at most {MOST_PARTS} rules"));
    }
    for rule in &config.rules {
        rule_is_whole(rule)?;
        if !known(&rule.revision) {
            return Err(missing(&rule.revision));
        }
    }
    if let Some(mirror) = &config.mirror {
        if !known(&mirror.revision) {
            return Err(missing(&mirror.revision));
        }
        if mirror.share > WHOLE {
            return Err(format!("mirror: share is at most {WHOLE}"));
        }
    }
    if config.lease_ms == Some(0) {
        return Err("lease_ms is at least 1".to_owned());
    }
    Ok(())
}

fn rule_is_whole(rule: &RuleConfig) -> Result<(), Reason> {
    match (&rule.header, &rule.cookie) {
        (Some(field), None) | (None, Some(field)) => {
            token(field).map_err(|reason| format!("rule: {reason}"))
        }
        _ => Err("a rule has either a header or a cookie".to_owned()),
    }
}

/// A route by itself; whether its service exists is known to the table.
pub(crate) fn route(config: &RouteConfig) -> Result<(), Reason> {
    let host = config.host.strip_prefix("*.").unwrap_or(&config.host);
    let fits = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']')
    };
    if config.host != "*" && (host.is_empty() || host.len() > 253 || !host.bytes().all(fits)) {
        return Err(
            "host is a name without a port such as example.com, *.example.com or *".to_owned(),
        );
    }
    if !is_plain_path(&config.path) {
        return Err("path must begin with '/' and have no spaces, '?' or '#'".to_owned());
    }
    Ok(())
}

fn is_plain_path(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= 1024
        && path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
}

/// RFC 9110, 5.6.2.
fn token(text: &str) -> Result<(), Reason> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > 128 || !text.bytes().all(fits) {
        return Err(format!(
            "{text:?} is not the name of a header field or cookie"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MirrorConfig, RevisionConfig};

    fn web() -> ServiceConfig {
        serde_json::from_value(serde_json::json!({
            "name": "web",
            "revisions": [
                {"name": "r1", "endpoints": ["127.0.0.1:1"]},
                {"name": "r2", "endpoints": ["127.0.0.1:2"]},
            ],
            "stable": "r1",
        }))
        .unwrap()
    }

    #[test]
    fn a_service_is_refused_for_what_is_wrong_with_it() {
        type Change = fn(&mut ServiceConfig);
        let table: &[(&str, Change)] = &[
            ("a name is", |s| s.name = "a b".into()),
            ("1 to 256 revisions", |s| s.revisions.clear()),
            ("same name", |s| s.revisions.push(s.revisions[0].clone())),
            ("needs 1 to 256 endpoints", |s| {
                s.revisions.push(RevisionConfig {
                    name: "r3".into(),
                    endpoints: vec![],
                });
            }),
            ("not among", |s| s.stable = Some("r9".into())),
            ("sticky_cookie", |s| s.sticky_cookie = Some("a=b".into())),
            ("no revision named \"r9\"", |s| {
                s.canary = Some(CanaryConfig {
                    weights: [("r9".into(), 1)].into(),
                    ..CanaryConfig::default()
                });
            }),
            ("takes what is left", |s| {
                s.canary = Some(CanaryConfig {
                    weights: [("r1".into(), 1)].into(),
                    ..CanaryConfig::default()
                });
            }),
            ("add up to 10001", |s| {
                s.canary = Some(CanaryConfig {
                    weights: [("r2".into(), 10_001)].into(),
                    ..CanaryConfig::default()
                });
            }),
            ("share is at most", |s| {
                s.canary = Some(CanaryConfig {
                    mirror: Some(MirrorConfig {
                        revision: "r2".into(),
                        share: 20_000,
                        unsafe_methods: false,
                    }),
                    ..CanaryConfig::default()
                });
            }),
            ("at most lease_ms", |s| s.policy.lease_ms = 1),
        ];
        assert_eq!(service(&web()), Ok(()));
        for (expected, change) in table {
            let mut config = web();
            change(&mut config);
            let reason = service(&config).unwrap_err();
            assert!(reason.contains(expected), "{expected}: {reason}");
        }
    }

    #[test]
    fn routes_name_a_host_and_a_path() {
        for (host, path, good) in [
            ("example.com", "/", true),
            ("*.example.com", "/api", true),
            ("*", "/", true),
            ("[::1]", "/", true),
            ("", "/", false),
            ("a b", "/", false),
            ("a*.b", "/", false),
            ("example.com", "api", false),
            ("example.com", "/a?b", false),
        ] {
            let config = RouteConfig {
                host: host.into(),
                path: path.into(),
                service: "web".into(),
            };
            assert_eq!(route(&config).is_ok(), good, "{host} {path}");
        }
    }
}
