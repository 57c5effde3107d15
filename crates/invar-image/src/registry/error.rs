//! What can go wrong between this host and a registry, in the user's terms.

use std::time::Duration;

use http::StatusCode;

use crate::error::shown;

/// Why a registry could not be used or was not believed. Its words are shown escaped and cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No connection, or one that broke.
    #[error("could not reach {host}: {reason}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// Why.
        reason: String,
    },
    /// Its certificate or its TLS is not acceptable.
    #[error("the TLS connection to {host} is refused: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// Why.
        reason: String,
    },
    /// It answered with an error.
    #[error("{what}: {host} answers {status}{message}")]
    Status {
        /// What was asked for.
        what: String,
        /// Host and port.
        host: String,
        /// The status it answered with.
        status: StatusCode,
        /// `": "` and its own words, if it has any.
        message: String,
    },
    /// It has no such manifest, or hides it.
    #[error("{host} has no {what}")]
    NotFound {
        /// The repository and tag, or the blob.
        what: String,
        /// Host and port.
        host: String,
    },
    /// The credentials are wrong, missing or not enough.
    #[error("{host} refuses access to {what}{message}")]
    Denied {
        /// Repository, or the registry itself.
        what: String,
        /// Host and port.
        host: String,
        /// Whether credentials were sent.
        with_credentials: bool,
        /// `": "` and its own words, if it has any.
        message: String,
    },
    /// It asks to wait longer than is reasonable.
    #[error("{host} allows no more requests and asks to wait {} seconds{message}", .wait.as_secs())]
    TooManyRequests {
        /// Host and port.
        host: String,
        /// How long.
        wait: Duration,
        /// `": "` and its own words, if it has any.
        message: String,
    },
    /// It breaks the protocol, or does not do what it says.
    #[error("{what}: {reason}")]
    Protocol {
        /// Which part.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tag and the digest of one reference name different images.
    #[error("{name} is {actual} in the registry, not {expected}")]
    Disagree {
        /// `name:tag`.
        name: String,
        /// The digest that was asked for.
        expected: String,
        /// The digest the tag has.
        actual: String,
    },
    /// Stored credentials, or the program that keeps them.
    #[error("credentials for {host}: {reason}")]
    Credentials {
        /// The registry.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// A configuration file.
    #[error("{path}: {reason}")]
    Settings {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Longest part of an answer that is shown.
const LONGEST_MESSAGE: usize = 300;

impl RegistryError {
    pub(crate) fn protocol(what: impl AsRef<str>, reason: impl AsRef<str>) -> Self {
        Self::Protocol {
            what: shown(what.as_ref()),
            reason: shown(&short(reason.as_ref())),
        }
    }

    pub(crate) fn unreachable(host: &str, reason: impl std::fmt::Display) -> Self {
        Self::Unreachable {
            host: host.to_owned(),
            reason: shown(&reason.to_string()),
        }
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => is_transient(*status),
            _ => false,
        }
    }
}

/// Answers after which the same request may succeed.
pub(crate) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The words of an error answer: `{"errors": [{"code", "message"}]}`, or `{"details": …}`, or
/// text. Empty when there are none.
pub(crate) fn message(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(json) => {
            let words = |value: &serde_json::Value| {
                let field = |name| value.get(name).and_then(serde_json::Value::as_str);
                field("message").or(field("code")).map(str::to_owned)
            };
            let errors = json.get("errors").and_then(serde_json::Value::as_array);
            let listed: Vec<_> = errors.into_iter().flatten().filter_map(words).collect();
            let single = ["error_description", "details", "message", "error"]
                .iter()
                .find_map(|name| json.get(name)?.as_str());
            if listed.is_empty() {
                single.unwrap_or_default().to_owned()
            } else {
                listed.join("; ")
            }
        }
        // A page for a browser says nothing to a person at a terminal.
        Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    if text.is_empty() {
        String::new()
    } else {
        format!(": {}", shown(&short(&text)))
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_registry_are_found_cut_and_escaped() {
        let long = "x".repeat(400);
        let cut = format!(": {}…", &long[..300]);
        let table: [(&str, &str); 7] = [
            (
                r#"{"errors":[{"code":"DENIED","message":"no pull"}]}"#,
                ": no pull",
            ),
            (r#"{"errors":[{"code":"DENIED"}]}"#, ": DENIED"),
            (
                r#"{"details":"incorrect username"}"#,
                ": incorrect username",
            ),
            ("<html>Bad gateway</html>", ""),
            ("", ""),
            ("red \u{1b}[31m", ": red \\u{1b}[31m"),
            (&long, &cut),
        ];
        for (body, expected) in table {
            assert_eq!(message(body.as_bytes()), expected);
        }
    }
}
