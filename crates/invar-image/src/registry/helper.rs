//! Programs that keep credentials: `docker-credential-NAME get|store|erase`, as
//! docker-credential-helpers specifies them. ECR's tokens come this way.

use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::credentials::Credentials;
use super::docker_config::key;
use super::error::RegistryError;

/// Longest output of a program that is read.
const LONGEST: u64 = 1 << 20;
/// The user name that stands for an identity token.
const TOKEN_USER: &str = "<token>";
/// What every helper says when it has nothing.
const NOT_FOUND: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks for the credentials of a registry.
pub(crate) fn get(program: &str, registry: &str) -> Result<Option<Credentials>, RegistryError> {
    let failed = |reason: String| failed(program, registry, &reason);
    let (succeeded, said) = run(program, registry, "get", key(registry).as_bytes())?;
    if !succeeded {
        let text = String::from_utf8_lossy(&said).trim().to_owned();
        // Some helpers have nothing to say when they have nothing.
        if text.is_empty() || text.contains(NOT_FOUND) {
            return Ok(None);
        }
        return Err(failed(text));
    }
    parse(&said).map_err(failed)
}

fn parse(said: &[u8]) -> Result<Option<Credentials>, String> {
    let answer: Answer = serde_json::from_slice(said)
        .map_err(|error| format!("it does not answer as it should: {error}"))?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials::IdentityToken(answer.secret)
    } else {
        Credentials::Password {
            user: answer.username,
            password: answer.secret,
        }
    }))
}

/// Gives it credentials to keep.
pub(crate) fn store(
    program: &str,
    registry: &str,
    credentials: &Credentials,
) -> Result<(), RegistryError> {
    let (user, secret) = match credentials {
        Credentials::Password { user, password } => (user.as_str(), password),
        Credentials::IdentityToken(token) => (TOKEN_USER, token),
    };
    let entry = json!({"ServerURL": key(registry), "Username": user, "Secret": secret});
    succeed(program, registry, "store", entry.to_string().as_bytes())
}

/// Has it forget credentials.
pub(crate) fn erase(program: &str, registry: &str) -> Result<(), RegistryError> {
    succeed(program, registry, "erase", key(registry).as_bytes())
}

fn succeed(program: &str, registry: &str, verb: &str, input: &[u8]) -> Result<(), RegistryError> {
    match run(program, registry, verb, input)? {
        (true, _) => Ok(()),
        (false, said) => Err(failed(program, registry, &String::from_utf8_lossy(&said))),
    }
}

/// Whether it succeeded, and what it wrote.
fn run(
    program: &str,
    registry: &str,
    verb: &str,
    input: &[u8],
) -> Result<(bool, Vec<u8>), RegistryError> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !program.bytes().all(is_name) {
        return Err(failed(
            program,
            registry,
            "that is not the name of a program",
        ));
    }
    let attempt = || -> io::Result<(bool, Vec<u8>)> {
        let mut child = Command::new(format!("docker-credential-{program}"))
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may answer without having read everything.
            stdin.write_all(input).ok();
        }
        let mut said = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(LONGEST).read_to_end(&mut said)?;
        }
        Ok((child.wait()?.success(), said))
    };
    attempt().map_err(|error| failed(program, registry, &error.to_string()))
}

fn failed(program: &str, registry: &str, reason: &str) -> RegistryError {
    RegistryError::Credentials {
        host: registry.to_owned(),
        reason: crate::error::shown(&format!("docker-credential-{program}: {}", reason.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_helpers_are_read() {
        let password = Credentials::Password {
            user: "AWS".to_owned(),
            password: "ey".to_owned(),
        };
        let token = Credentials::IdentityToken("refresh".to_owned());
        for (said, expected) in [
            (
                r#"{"ServerURL":"x","Username":"AWS","Secret":"ey"}"#,
                Some(Some(password)),
            ),
            (
                r#"{"Username":"<token>","Secret":"refresh"}"#,
                Some(Some(token)),
            ),
            (r#"{"Username":"","Secret":""}"#, Some(None)),
            ("not json", None),
        ] {
            assert_eq!(parse(said.as_bytes()).ok(), expected, "{said}");
        }
    }

    #[test]
    fn a_name_with_a_path_in_it_is_not_run() {
        let error = get("../../bin/sh", "ghcr.io").unwrap_err().to_string();
        assert!(error.contains("not the name of a program"), "{error}");
    }
}
