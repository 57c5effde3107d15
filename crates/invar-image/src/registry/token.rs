//! Tokens: a registry names a server, which gives a token for what we want to do. The forms are
//! those of the distribution project (`docs/spec/auth`): GET with a password, or OAuth 2 with an
//! identity token.

use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;

use super::body::Payload;
use super::credentials::Credentials;
use super::error::{RegistryError, message};
use super::http::{Ask, Http};
use super::url::{Scheme, Url, escape};

/// Longest answer of a token server.
const LONGEST: u64 = 256 << 10;
/// A token lives this long when its server does not say (as specified).
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
/// A token is not used for the last part of its life.
const RESERVE: Duration = Duration::from_secs(10);

/// A token and when to ask for another.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) good_until: Instant,
}

#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What to ask a token server for.
pub(crate) struct Wanted<'a> {
    pub(crate) realm: &'a str,
    pub(crate) service: Option<&'a str>,
    /// Each as `repository:NAME:ACTIONS`.
    pub(crate) scopes: &'a [String],
    pub(crate) credentials: Option<&'a Credentials>,
    /// Whether the registry itself is spoken to without TLS.
    pub(crate) may_be_plain: bool,
}

/// Gets a token.
pub(crate) fn get(http: &mut Http, wanted: &Wanted<'_>) -> Result<Token, RegistryError> {
    let what = "token server";
    let realm = Url::parse(wanted.realm)
        .map_err(|reason| RegistryError::protocol(what, format!("{:?}: {reason}", wanted.realm)))?;
    if realm.origin.scheme == Scheme::Http && !wanted.may_be_plain {
        return Err(RegistryError::protocol(
            what,
            format!("{realm} is without TLS: credentials are not sent there"),
        ));
    }
    let start = Instant::now();
    let mut answer = ask(http, &realm, wanted)?;
    let body = answer.small(what, LONGEST)?;
    let host = answer.host();
    if matches!(answer.status.as_u16(), 400 | 401 | 403) {
        return Err(RegistryError::Denied {
            what: wanted
                .scopes
                .first()
                .map_or("it", String::as_str)
                .to_owned(),
            host,
            with_credentials: wanted.credentials.is_some(),
            message: message(&body),
        });
    }
    if !answer.status.is_success() {
        return Err(RegistryError::Status {
            what: what.to_owned(),
            host,
            status: answer.status,
            message: message(&body),
        });
    }
    let granted = parse(&body)?;
    let life = granted
        .1
        .saturating_sub(RESERVE)
        .max(Duration::from_secs(1));
    Ok(Token {
        text: granted.0,
        good_until: start + life,
    })
}

/// The token of an answer, and its life.
pub(crate) fn parse(body: &[u8]) -> Result<(String, Duration), RegistryError> {
    let what = "answer of the token server";
    let granted: Granted = serde_json::from_slice(body)
        .map_err(|error| RegistryError::protocol(what, error.to_string()))?;
    let text = if granted.token.is_empty() {
        granted.access_token
    } else {
        granted.token
    };
    if text.is_empty() {
        return Err(RegistryError::protocol(what, "there is no token in it"));
    }
    let life = granted.expires_in.map_or(DEFAULT_LIFE, |seconds| {
        // Some say 0; specified is at least a minute.
        Duration::from_secs(seconds.clamp(60, 86_400))
    });
    Ok((text, life))
}

fn ask(
    http: &mut Http,
    realm: &Url,
    wanted: &Wanted<'_>,
) -> Result<super::http::Answer, RegistryError> {
    let mut headers = HeaderMap::new();
    if let Some(Credentials::IdentityToken(token)) = wanted.credentials {
        let mut form = format!(
            "grant_type=refresh_token&client_id=invar&refresh_token={}",
            escape(token)
        );
        if let Some(service) = wanted.service {
            form = format!("{form}&service={}", escape(service));
        }
        if !wanted.scopes.is_empty() {
            form = format!("{form}&scope={}", escape(&wanted.scopes.join(" ")));
        }
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, kind);
        return http.send(&Ask {
            method: Method::POST,
            url: realm,
            headers,
            payload: &Payload::Bytes(form.into()),
        });
    }
    let mut url = realm.clone();
    if let Some(service) = wanted.service {
        url = url.with_query("service", service);
    }
    for scope in wanted.scopes {
        url = url.with_query("scope", scope);
    }
    if let Some(Credentials::Password { user, password }) = wanted.credentials {
        url = url.with_query("account", user);
        headers.insert(AUTHORIZATION, basic(user, password)?);
    }
    http.send(&Ask {
        method: Method::GET,
        url: &url,
        headers,
        payload: &Payload::Empty,
    })
}

/// `Basic` and the password, as a header that is not logged.
pub(crate) fn basic(user: &str, password: &str) -> Result<HeaderValue, RegistryError> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret(&format!("Basic {encoded}"))
}

/// A header that is not logged.
pub(crate) fn secret(text: &str) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_error| RegistryError::protocol("token", "it has characters no header has"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_two_names_and_lives_a_minute_unless_said() {
        let table = [
            (r#"{"token":"a","expires_in":300}"#, Some(("a", 300))),
            (r#"{"access_token":"b"}"#, Some(("b", 60))),
            (
                r#"{"token":"a","access_token":"b","expires_in":0}"#,
                Some(("a", 60)),
            ),
            (r#"{"token":""}"#, None),
            ("[]", None),
            ("", None),
        ];
        for (body, expected) in table {
            let found = parse(body.as_bytes()).ok();
            let expected = expected.map(|(t, s)| (t.to_owned(), Duration::from_secs(s)));
            assert_eq!(found, expected, "{body}");
        }
    }
}
