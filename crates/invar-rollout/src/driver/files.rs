//! Configs and secrets as files that containers see, named by their content: a changed secret is
//! another path, and so another revision.

use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use sha2::{Digest as _, Sha256};

use super::store::{Result, RolloutError};

/// Secrets live in memory only.
const SECRETS: &str = "/run/invar/secrets";

/// Writes a config under the state root, or a secret into memory, and returns its path. The same
/// content is the same file. A secret's name says nothing of its content without the root's key.
pub fn place_file(root: &Path, content: &[u8], is_secret: bool) -> Result<PathBuf> {
    let directory = if is_secret {
        let of_root = Sha256::digest(root.as_os_str().as_encoded_bytes());
        PathBuf::from(SECRETS).join(hex(&of_root[..6]))
    } else {
        root.join("configs")
    };
    make_directory(&directory)?;
    let mut digest = Sha256::new();
    if is_secret {
        digest.update(key(root)?);
    }
    digest.update(content);
    let name = format!("content-{}", hex(&digest.finalize()));
    let path = directory.join(name);
    if !path.exists() {
        // Every program of the container may read it; nobody else gets into the directory.
        write_new(&path, content, 0o444)?;
    }
    Ok(path)
}

/// A key of this root, made when it is not there.
fn key(root: &Path) -> Result<Vec<u8>> {
    let path = root.join("secrets.key");
    if !path.exists() {
        write_new(&path, &rand_bytes()?, 0o600)?;
    }
    fs::read(&path).map_err(io("read", &path))
}

fn rand_bytes() -> Result<[u8; 32]> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 32];
    fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(io("read", path))?;
    Ok(bytes)
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io("create", path))
}

/// Whole or not at all; who comes second finds the first one's file.
fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&unfinished)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
    written.map_err(io("write", &unfinished))?;
    match fs::hard_link(&unfinished, path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(io("create", path)(error));
        }
        _ => {}
    }
    fs::remove_file(&unfinished).map_err(io("remove", &unfinished))
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> RolloutError + 'a {
    move |source| RolloutError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String succeeds");
        text
    })
}
