//! Removing what nobody uses: `invar container prune`, `invar system prune`.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use invar_engine::{Container, State};
use invar_image::ImageStore;
use jiff::Timestamp;

use crate::cli::Cli;
use crate::exit::{FAILED, failure};
use crate::{engines, exit, printer, privilege, times};

/// Which containers go.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,

    /// Only those: until=TIME (made before it), label=NAME[=VALUE], label!=NAME[=VALUE]
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter)]
    filter: Vec<Filter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Until(Timestamp),
    Label(String, Option<String>),
    NotLabel(String, Option<String>),
}

fn filter(text: &str) -> Result<Filter, String> {
    let label = |text: &str| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), None),
    };
    if let Some(time) = text.strip_prefix("until=") {
        return times::parse(time).map(Filter::Until);
    }
    if let Some(text) = text.strip_prefix("label!=") {
        let (name, value) = label(text);
        return Ok(Filter::NotLabel(name, value));
    }
    if let Some(text) = text.strip_prefix("label=") {
        let (name, value) = label(text);
        return Ok(Filter::Label(name, value));
    }
    Err("filter by until=TIME, label=NAME[=VALUE] or label!=NAME[=VALUE]".to_owned())
}

impl Filter {
    fn has(&self, container: &Container) -> bool {
        let labels = &container.config.labels;
        let is_labelled = |name: &String, value: &Option<String>| {
            labels
                .get(name)
                .is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        match self {
            Self::Until(time) => container.created_at < *time,
            Self::Label(name, value) => is_labelled(name, value),
            Self::NotLabel(name, value) => !is_labelled(name, value),
        }
    }
}

/// Removes containers that do not run.
pub(crate) fn containers(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    ask(
        args,
        "every container that does not run, with what it wrote",
    )?;
    remove_containers(cli, args)
}

/// Removes containers that do not run, then content that no image needs.
pub(crate) fn everything(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    ask(
        args,
        "every container that does not run, with what it wrote, and content that no image needs",
    )?;
    let code = remove_containers(cli, args)?;
    let pruned = ImageStore::open(cli.root())?.prune()?;
    printer::line(format!(
        "removed {} files, {}",
        pruned.objects,
        printer::size(pruned.bytes)
    ))?;
    Ok(code)
}

fn remove_containers(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let engine = engines::open(cli.root(), "embedded")?;
    let mut code = ExitCode::SUCCESS;
    for container in engine.list()? {
        let has_ended = matches!(container.state, State::Created | State::Exited(_));
        if !has_ended || !args.filter.iter().all(|filter| filter.has(&container)) {
            continue;
        }
        // Without force: one that was started in the meantime stays.
        match engine.remove(&container.id, false) {
            Ok(()) => printer::line(container.id.as_str())?,
            Err(error) => {
                exit::report(&error.into());
                code = ExitCode::from(FAILED);
            }
        }
    }
    Ok(code)
}

fn ask(args: &Args, what: &str) -> anyhow::Result<()> {
    if args.force {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(failure(
            format!("this removes {what}"),
            "say that it is meant: --force",
        ));
    }
    printer::note(format!("This removes {what}. Go on? [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(failure("nothing was removed", "answer y, or say --force")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_docker_writes_them() {
        let text = |text: &str| text.to_owned();
        for (given, expected) in [
            ("label=a", Filter::Label(text("a"), None)),
            ("label=a=b=c", Filter::Label(text("a"), Some(text("b=c")))),
            ("label!=a", Filter::NotLabel(text("a"), None)),
        ] {
            assert_eq!(filter(given), Ok(expected), "{given}");
        }
        assert!(matches!(filter("until=1h"), Ok(Filter::Until(_))));
        assert!(filter("until=never").is_err() && filter("name=x").is_err());
    }
}
