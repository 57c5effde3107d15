//! `invar attach`

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use invar_engine::{Attached, Attachment, State};
use invar_sys::signal::{SIGINT, SIGQUIT, SIGTERM, SIGWINCH, SignalFd};

use crate::cli::Cli;
use crate::exit::{Advise as _, NOT_RUN, failure};
use crate::terminal::{self, Raw};
use crate::{engines, printer, privilege, signals};

/// See what a running container writes, type to it, and end with its exit code
///
/// What it wrote before is in its log. Signals are passed on; on a terminal, Ctrl-P Ctrl-Q leaves
/// and lets the container go on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Type nothing to it
    #[arg(long)]
    no_stdin: bool,

    /// Keep signals to this command: Ctrl-C leaves, and the container goes on
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sig_proxy: bool,

    /// Keys that leave
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = keys)]
    detach_keys: Keys,

    /// Name or id
    container: String,
}

/// Keys by their bytes.
#[derive(Debug, Clone)]
struct Keys(Vec<u8>);

/// `ctrl-p,ctrl-q`, `a,b`, `ctrl-@`; Docker's form.
fn keys(text: &str) -> Result<Keys, String> {
    let unclear =
        |key: &str| format!("{key:?} is not a key: write a letter, or ctrl- and a letter");
    if text.is_empty() {
        return Ok(Keys(Vec::new()));
    }
    let key = |key: &str| match (key.strip_prefix("ctrl-"), key.as_bytes()) {
        (None, [byte]) if byte.is_ascii() => Ok(*byte),
        (Some(of), _) => match of.as_bytes() {
            [byte @ b'a'..=b'z'] => Ok(byte - b'a' + 1),
            [byte @ b'@'..=b'_'] => Ok(byte - b'@'),
            _ => Err(unclear(key)),
        },
        _ => Err(unclear(key)),
    };
    text.split(',').map(key).collect::<Result<_, _>>().map(Keys)
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    attach(cli, args).exit_code(NOT_RUN)
}

fn attach(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let found = engines::find(cli.root(), &args.container)?;
    let (engine, container) = (&found.engine, &found.container);
    match container.state {
        State::Running => {}
        State::Paused => bail!("{} is paused: let it go on first", args.container),
        _ => {
            return Err(failure(
                format!("{} does not run", args.container),
                format!("start it attached: invar start -a {}", args.container),
            ));
        }
    }
    let types = !args.no_stdin && container.config.interactive;
    let on_terminal = container.config.tty && io::stdin().is_terminal();
    let resized = on_terminal
        .then(|| SignalFd::block(&[SIGWINCH]))
        .transpose()
        .context("could not take over the signals")?;
    let passed_on = signals::heeded(&[SIGINT, SIGQUIT, SIGTERM]);
    let signals = (args.sig_proxy && !on_terminal)
        .then(|| SignalFd::block(&passed_on))
        .transpose()
        .context("could not take over the signals")?;
    let attachment = Attachment {
        stdin: types
            .then(|| io::stdin().as_fd().try_clone_to_owned())
            .transpose()?,
        detach_keys: if io::stdin().is_terminal() {
            args.detach_keys.0.clone()
        } else {
            Vec::new()
        },
        resized,
    };
    if let Some(signals) = signals {
        pass_on(cli, container.id.as_str(), signals)?;
    }
    let raw = (on_terminal && types)
        .then(|| terminal::restore_on_signals().and_then(|()| Raw::enter()))
        .transpose()
        .context("could not set up the terminal")?;
    let left = engine.attach(&container.id, &attachment)?;
    drop(raw);
    if left == Attached::Detached {
        printer::note(format!("left {}; it goes on", args.container));
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(engine.wait(&container.id)?.code))
}

/// Sends the container what this command is sent, until the process ends.
fn pass_on(cli: &Cli, id: &str, signals: SignalFd) -> anyhow::Result<()> {
    let found = engines::find(cli.root(), &format!("embedded:{id}"))?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            // It may just have ended, which the other thread sees.
            found.engine.kill(&found.container.id, signal).ok();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_writes_them() {
        for (text, expected) in [
            ("ctrl-p,ctrl-q", Some(vec![16, 17])),
            ("a,ctrl-@", Some(vec![b'a', 0])),
            ("ctrl-[", Some(vec![27])),
            ("", Some(vec![])),
            ("alt-x", None),
            ("ctrl-é", None),
        ] {
            assert_eq!(keys(text).ok().map(|keys| keys.0), expected, "{text}");
        }
    }
}
