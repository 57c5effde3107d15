//! `invar login`

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use invar_image::registry::{self, Credentials};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::cli::Cli;
use crate::exit::failure;
use crate::printer;
use crate::registries::{RegistryFlags, Show};

/// Longest password that is read.
const LONGEST: u64 = 64 << 10;

/// Store credentials for a registry, where docker keeps them
///
/// They are tried first. They are kept in ~/.docker/config.json, or by the program that this file
/// names; the variable `DOCKER_CONFIG` names another directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// HOST[:PORT] (default: Docker Hub)
    registry: Option<String>,

    /// User name
    #[arg(short, long)]
    username: Option<String>,

    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,

    #[command(flatten)]
    flags: RegistryFlags,
}

pub(crate) fn run(_cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let registry = registry_name(args.registry.as_deref())?;
    let user = match &args.username {
        Some(user) => user.clone(),
        None => ask_for_user()?,
    };
    let password = if args.password_stdin {
        password_from(io::stdin().lock())?
    } else {
        ask_for_password()?
    };
    if user.is_empty() || user.contains(':') {
        bail!("{user:?} is no user name: it is empty or has ':' in it");
    }
    let credentials = Credentials::Password { user, password };
    let (options, _) = args.flags.options(Show::Nothing);
    registry::check(&registry, credentials.clone(), &options)
        .with_context(|| format!("could not log in to {registry}"))?;
    let place = registry::store(&registry, &credentials)?;
    printer::line(format!("Logged in to {registry}; kept in {place}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The registry as names of images have it.
pub(super) fn registry_name(given: Option<&str>) -> anyhow::Result<String> {
    let given = given.unwrap_or("docker.io");
    let host = given.strip_prefix("https://").unwrap_or(given);
    let host = host.trim_end_matches('/');
    let host = host.strip_suffix("/v1").unwrap_or(host);
    if matches!(host, "index.docker.io" | "registry-1.docker.io") {
        return Ok("docker.io".to_owned());
    }
    let is_host = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
    if host.is_empty() || !host.bytes().all(is_host) {
        return Err(failure(
            format!("{given:?} is not a registry"),
            "give its host, for example: invar login ghcr.io",
        ));
    }
    Ok(host.to_owned())
}

fn password_from(input: impl io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    input.take(LONGEST).read_to_string(&mut text)?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        bail!("the password is empty");
    }
    Ok(password.to_owned())
}

fn needs_terminal() -> anyhow::Error {
    failure(
        "there is no terminal to ask for the user and the password",
        "invar login -u USER --password-stdin HOST < FILE",
    )
}

fn ask_for_user() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        return Err(needs_terminal());
    }
    prompt("Username: ")?;
    let mut line = String::new();
    io::stdin().lock().take(LONGEST).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Asks without showing what is typed.
fn ask_for_password() -> anyhow::Result<String> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Err(needs_terminal());
    }
    prompt("Password: ")?;
    let before = tcgetattr(&input)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&input, OptionalActions::Flush, &silent)?;
    let mut line = String::new();
    let read = input.lock().take(LONGEST).read_line(&mut line);
    tcsetattr(&input, OptionalActions::Now, &before)?;
    printer::note("");
    read?;
    password_from(line.as_bytes())
}

fn prompt(text: &str) -> io::Result<()> {
    let mut out = io::stderr().lock();
    write!(out, "{text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_as_docker_names_them() {
        for (given, expected) in [
            (None, Some("docker.io")),
            (Some("https://index.docker.io/v1/"), Some("docker.io")),
            (Some("ghcr.io"), Some("ghcr.io")),
            (Some("https://ghcr.io/"), Some("ghcr.io")),
            (Some("127.0.0.1:5000"), Some("127.0.0.1:5000")),
            (Some("ghcr.io/team"), None),
            (Some("a b"), None),
            (Some(""), None),
        ] {
            assert_eq!(registry_name(given).ok().as_deref(), expected, "{given:?}");
        }
    }

    #[test]
    fn a_password_keeps_its_spaces_but_not_the_end_of_its_line() {
        assert_eq!(password_from(&b" a b \r\n"[..]).unwrap(), " a b ");
        assert!(password_from(&b"\n"[..]).is_err());
    }
}
