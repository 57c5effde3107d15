//! `invar cp`

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use invar_engine::files::{self, Copied, CopyOptions, Place, Side};

use crate::cli::Cli;
use crate::exit::failure;
use crate::{engines, printer, privilege};

/// Copy files between a container and this machine
///
/// CONTAINER:PATH is a place in a container, - a tar stream. A directory is copied as a whole, or
/// with /. at its end what is in it. Links in a container end at its root, whatever is exchanged
/// meanwhile; devices and sockets are left out. Without -a everything belongs to root afterwards,
/// and nothing is setuid.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Keep owners and every permission bit
    #[arg(short, long)]
    archive: bool,

    /// Copy what a link at the end of the source points to
    #[arg(short = 'L', long)]
    follow_link: bool,

    /// Say nothing of what was copied
    #[arg(short, long)]
    quiet: bool,

    /// CONTAINER:PATH, PATH, or - for a tar stream
    source: String,

    /// CONTAINER:PATH, PATH, or - for a tar stream
    target: String,
}

const EXAMPLES: &str = "\
Examples:
  invar cp web:/etc/nginx/nginx.conf .      a file out of it
  invar cp site/. web:/srv                  what is in a directory into it
  invar cp web:/var/log - | tar -t          as a tar stream";

/// An end of the copy as it was written.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Stream,
    Host(&'a Path),
    Container(&'a str, &'a Path),
}

/// Docker's rule: what has a colon names a container, unless it begins with `/` or `.`.
fn parse(text: &str) -> End<'_> {
    if text == "-" {
        return End::Stream;
    }
    if text.starts_with(['/', '.']) {
        return End::Host(Path::new(text));
    }
    // An engine's name comes before a colon too: `docker:web:/etc`.
    let engine = ["embedded:", "docker:", "podman:"]
        .iter()
        .find(|engine| text.starts_with(**engine) && text[engine.len()..].contains(':'))
        .map_or(0, |engine| engine.len());
    match text[engine..].find(':') {
        None => End::Host(Path::new(text)),
        Some(colon) => {
            let (name, path) = text.split_at(engine + colon);
            End::Container(name, Path::new(&path[1..]))
        }
    }
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let options = CopyOptions {
        keep_owners: args.archive,
    };
    let open = |name: &str| -> anyhow::Result<Side> {
        let found = engines::find(cli.root(), name)?;
        Ok(Side::Container(
            found.engine.open_files(&found.container.id)?,
        ))
    };
    let copied = match (parse(&args.source), parse(&args.target)) {
        (End::Container(name, path), End::Stream) => {
            if io::stdout().is_terminal() {
                bail!("a tar stream does not belong on a terminal: send it to a file or a program");
            }
            let source = existing(&open(name)?, path, args.follow_link)?;
            let mut out = io::stdout().lock();
            let copied = files::write_tar(&source, &mut out)?;
            out.flush()?;
            copied
        }
        (End::Stream, End::Container(name, path)) => {
            let side = open(name)?;
            side.require_writable()?;
            files::read_tar(&mut io::stdin(), &side, path, options)?
        }
        (End::Container(name, from), End::Host(to)) => {
            between(args, &open(name)?, from, &Side::Host, to, options)?
        }
        (End::Host(from), End::Container(name, to)) => {
            let side = open(name)?;
            side.require_writable()?;
            between(args, &Side::Host, from, &side, to, options)?
        }
        (End::Container(..), End::Container(..)) => {
            return Err(failure(
                "copying between two containers is not possible at once",
                format!("invar cp {} - | invar cp - {}", args.source, args.target),
            ));
        }
        _ => {
            return Err(failure(
                "neither the source nor the target is in a container",
                "write CONTAINER:PATH for the one that is",
            ));
        }
    };
    tell(args, &copied);
    Ok(ExitCode::SUCCESS)
}

fn tell(args: &Args, copied: &Copied) {
    for name in &copied.left_out {
        let name = printer::escape(name.as_encoded_bytes());
        printer::note(format!(
            "left out, because it is a device or a socket: {name}"
        ));
    }
    if !args.quiet {
        printer::note(format!(
            "copied {} {}, {}",
            copied.entries,
            if copied.entries == 1 {
                "entry"
            } else {
                "entries"
            },
            printer::size(copied.bytes)
        ));
    }
}

fn existing(side: &Side, path: &Path, follow: bool) -> anyhow::Result<Place> {
    let place = side.resolve(path, follow)?;
    if !place.exists() {
        bail!(
            "{} is not there",
            printer::escape(path.as_os_str().as_encoded_bytes())
        );
    }
    Ok(place)
}

fn between(
    args: &Args,
    from_side: &Side,
    from: &Path,
    to_side: &Side,
    to: &Path,
    options: CopyOptions,
) -> anyhow::Result<Copied> {
    let source = existing(from_side, from, args.follow_link)?;
    let target = target(&source, to_side, to)?;
    Ok(files::copy(&source, &target, options)?)
}

/// Where exactly it goes, by Docker's rules.
fn target(source: &Place, side: &Side, path: &Path) -> anyhow::Result<Place> {
    let shown = printer::escape(path.as_os_str().as_encoded_bytes()).into_owned();
    let wants_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let place = side.resolve(&without_slash(path), true)?;
    match (place.is_directory(), source.is_directory()) {
        // What is in it, when its name says so; otherwise itself.
        (true, _) => match source.file_name() {
            Some(name) => Ok(place.child(name)?),
            None => Ok(place),
        },
        (false, _) if wants_directory => bail!("{shown} is not a directory"),
        (false, true) if place.exists() => {
            bail!("{shown} is a file: a directory cannot take its place")
        }
        (false, _) => Ok(place),
    }
}

fn without_slash(path: &Path) -> PathBuf {
    // Components drop a slash at the end, but also the `.` that means something.
    match path.to_str() {
        Some(text) if text.len() > 1 => PathBuf::from(text.trim_end_matches('/')),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_as_docker_does() {
        let container = |name, path| End::Container(name, Path::new(path));
        for (text, expected) in [
            ("-", End::Stream),
            ("web:/etc", container("web", "/etc")),
            ("web:etc", container("web", "etc")),
            ("docker:web:/etc", container("docker:web", "/etc")),
            ("docker:/etc", container("docker", "/etc")),
            ("/a:b", End::Host(Path::new("/a:b"))),
            ("./a:b", End::Host(Path::new("./a:b"))),
            ("file", End::Host(Path::new("file"))),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
