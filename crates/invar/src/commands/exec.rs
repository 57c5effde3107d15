//! `invar exec`

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use invar_engine::{ExecConfig, User};

use crate::attached;
use crate::cli::Cli;
use crate::container_config::{Host, environment_variable};
use crate::exit::{Advise as _, NOT_RUN, failure};
use crate::terminal::{self, Raw};
use crate::{engines, privilege};

/// Run one more program in a running container
///
/// Ends with the program's exit code; 125 when Invar failed, 126 and 127 when the program cannot
/// be executed or is not there.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "invar exec [OPTIONS] CONTAINER PROGRAM [ARGUMENT]...",
    after_help = EXAMPLES
)]
pub(crate) struct Args {
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,

    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,

    /// Set an environment variable; NAME alone takes its value from this environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Working directory of the program
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,

    /// Run as this user: NAME, UID, or either with :GROUP or :GID
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Container by name or id; then the program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CONTAINER")]
    words: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  invar exec web ps                         a program of the container's image
  invar exec -it web sh                     a shell in it
  invar exec -i web sh -c 'wc -c' < file    input from a file";

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    execute(cli, args).exit_code(NOT_RUN)
}

fn execute(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    terminal::require(args.tty, args.interactive)?;
    if let Some(path) = args
        .workdir
        .as_deref()
        .filter(|path| !path.starts_with('/'))
    {
        bail!("--workdir {path:?} is not an absolute path");
    }
    let [container, program @ ..] = args.words.as_slice() else {
        bail!("no container was named");
    };
    if program.is_empty() {
        return Err(failure(
            format!("nothing to run in {container}"),
            format!("name a program, for example: invar exec -it {container} sh"),
        ));
    }
    let found = engines::find(cli.root(), container)?;
    let exec = ExecConfig {
        args: program.to_vec(),
        env: environment(args, &found.container.config.env)?,
        cwd: args.workdir.as_ref().map(Into::into),
        user: args.user.clone().map(User),
        tty: args.tty,
        interactive: args.interactive,
        quiet: false,
    };
    let raw = (args.tty && args.interactive)
        .then(|| terminal::restore_on_signals().and_then(|()| Raw::enter()))
        .transpose()
        .context("could not set up the terminal")?;
    let code = attached::with_code(found.engine.exec(&found.container.id, &exec))?;
    drop(raw);
    Ok(ExitCode::from(code))
}

/// What the flags add; a terminal is named `xterm` unless the container says otherwise.
fn environment(args: &Args, of_container: &[String]) -> anyhow::Result<Vec<String>> {
    let host = Host::here()?;
    let mut env = Vec::new();
    if args.tty
        && !of_container
            .iter()
            .any(|setting| setting.starts_with("TERM="))
    {
        env.push("TERM=xterm".to_owned());
    }
    for setting in &args.env {
        let setting = environment_variable(setting, &host)?;
        // NAME alone, and the caller does not have it.
        if setting.contains('=') {
            env.push(setting);
        }
    }
    Ok(env)
}
