//! What runs and where: entrypoint, command and working directory.

use std::path::{Component, Path, PathBuf};

use anyhow::bail;
use oci_spec::image::Config;

/// Entrypoint and command combined by Docker's rule; `None` when nothing is left to run.
///
/// A given command replaces the image's command. A given entrypoint replaces the image's
/// entrypoint *and* its command, because that command was written for the other program.
pub(super) fn args(
    entrypoint: Option<&str>,
    command: &[String],
    image_entrypoint: Option<&[String]>,
    image_command: Option<&[String]>,
) -> Option<Vec<String>> {
    let mut args: Vec<String> = match entrypoint {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
        None => image_entrypoint.unwrap_or_default().to_vec(),
    };
    if command.is_empty() && entrypoint.is_none() {
        args.extend_from_slice(image_command.unwrap_or_default());
    } else {
        args.extend_from_slice(command);
    }
    args.first()
        .is_some_and(|program| !program.is_empty())
        .then_some(args)
}

/// The working directory: the caller's, the image's, or `/`.
pub(super) fn working_directory(given: Option<&str>, config: &Config) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return match absolute(path) {
            Some(path) => Ok(path),
            None => bail!("--workdir {path:?} is not an absolute path"),
        };
    }
    match config.working_dir().as_deref() {
        None | Some("") => Ok(PathBuf::from("/")),
        // Images of old builders have a relative one; it always meant "below the root".
        Some(path) => Ok(absolute(path).unwrap_or_else(|| clean(&Path::new("/").join(path)))),
    }
}

/// An absolute path without `.`, `..` and doubled slashes; `None` when it is not absolute.
pub(super) fn absolute(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    path.is_absolute().then(|| clean(path))
}

/// Resolves `.` and `..` by text alone; `..` at the root stays at the root.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}
