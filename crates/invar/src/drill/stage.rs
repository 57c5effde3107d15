//! Where the drill plays: a state root of its own that is gone afterwards, whatever happens.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use fs_err as fs;
use invar_engine::embedded::EmbeddedEngine;
use invar_engine::{Engine, State};
use invar_image::ImageStore;
use invar_sys::signal::{SIGHUP, SIGINT, SIGTERM, SignalFd};

use super::report::Step;
use crate::printer;

/// Where it is made unless `TMPDIR` says otherwise; not `/tmp`, which may be a tmpfs: an upper
/// directory needs the extended attributes of a real file system.
const PLACE: &str = "/var/tmp";
/// How long a page server may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The stage. Dropping it removes every container and then the directory.
pub(super) struct Stage {
    root: PathBuf,
    engine: Arc<EmbeddedEngine>,
    keep: bool,
    /// The signal that ends the drill early; 0 while there is none.
    interrupted: Arc<AtomicU8>,
}

impl Stage {
    pub(super) fn set_up(keep: bool) -> anyhow::Result<Self> {
        let interrupted = Arc::new(AtomicU8::new(0));
        // Held from before there is anything to clear away.
        let signals = SignalFd::block(&[SIGHUP, SIGINT, SIGTERM])?;
        let directory = tempfile::Builder::new()
            .prefix("invar-drill-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(std::env::var_os("TMPDIR").unwrap_or_else(|| PLACE.into()))
            .context("could not make a place for the drill")?;
        let engine = Arc::new(EmbeddedEngine::open(directory.path())?);
        let stage = Self {
            root: directory.keep(),
            engine,
            keep,
            interrupted,
        };
        stage.listen(signals);
        Ok(stage)
    }

    /// Ends what the drill waits for when the user wants it to end; the drill itself clears up.
    fn listen(&self, signals: SignalFd) {
        let engine = Arc::clone(&self.engine);
        let interrupted = Arc::clone(&self.interrupted);
        std::thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                let number = u8::try_from(signal).unwrap_or(u8::MAX);
                interrupted.store(number, Ordering::SeqCst);
                remove_containers(&*engine).ok();
            }
        });
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A name that nothing else on this machine has, for what leaves the stage.
    pub(super) fn name(&self) -> String {
        let name = self.root.file_name().unwrap_or_default();
        // Names of images have no capital letters.
        let name = name.to_string_lossy().to_ascii_lowercase();
        format!("{name}-{}", std::process::id())
    }

    pub(super) fn engine(&self) -> &Arc<EmbeddedEngine> {
        &self.engine
    }

    pub(super) fn images(&self) -> &ImageStore {
        self.engine.images()
    }

    /// The exit code of a drill that was interrupted, as shells count it.
    pub(super) fn interrupted(&self) -> Option<u8> {
        match self.interrupted.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal.saturating_add(128)),
        }
    }

    /// Fails once the user wants it to end; asked before each thing that takes long.
    pub(super) fn go_on(&self) -> anyhow::Result<()> {
        if self.interrupted().is_some() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Clears up and states what is left; with `--keep`, where it is.
    pub(super) fn clear_all(&self, step: &mut Step) -> anyhow::Result<()> {
        if self.keep {
            stop_containers(&*self.engine)?;
            let root = self.root.display();
            step.show(&format!(
                "kept: invar --root {root} ps -a; {root} is yours to remove"
            ));
            return Ok(());
        }
        self.clear()?;
        step.claim(!self.root.exists(), "no file stays behind");
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let is_mounted = mounts.contains(&*self.root.to_string_lossy());
        step.claim(!is_mounted, "no mount stays behind");
        Ok(())
    }

    pub(super) fn clear(&self) -> anyhow::Result<()> {
        remove_containers(&*self.engine)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            match invar_sys::tree::remove(&self.root) {
                // A shim that is just ending, or the thread that ends the drill early, still wrote
                // or removed something.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound
                    ) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                removed => {
                    return removed
                        .with_context(|| format!("could not remove {}", self.root.display()));
                }
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep || !self.root.exists() {
            return;
        }
        if let Err(error) = self.clear() {
            printer::note(format!("could not clear everything away: {error:#}"));
            printer::hint(&format!("remove it: rm -rf {}", self.root.display()));
        }
    }
}

fn remove_containers(engine: &dyn Engine) -> anyhow::Result<()> {
    for container in engine.list()? {
        engine.remove(&container.id, true)?;
    }
    Ok(())
}

/// Ends the processes and keeps the files.
fn stop_containers(engine: &dyn Engine) -> anyhow::Result<()> {
    for container in engine.list()? {
        if matches!(container.state, State::Running | State::Paused) {
            engine.stop(&container.id, STOP_TIMEOUT)?;
        }
    }
    Ok(())
}
