//! One thread a container that answers whether a file may be executed or opened.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use fs_err as fs;
use invar_drift::Glob;
use invar_sys::fanotify::{Gate, Request, mask};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Stat, fstat};

use crate::counts::add;
use crate::error::{Result, SensorError};
use crate::event::{Place, What};
use crate::guard::{TICK, Trust, is_settled};
use crate::intent;
use crate::mounted::{self, is_overlay};
use crate::outlet::{Deed, Outlet};
use crate::proof::{Image, Proof};
use crate::target::Target;

const BUFFER: usize = 64 * 1024;

/// A running gate; dropping it ends the thread, and everything is let through.
#[derive(Debug)]
pub(crate) struct Running {
    group: Arc<Gate>,
    end: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// The group, as long as the gate runs: holding it longer would keep processes waiting.
    pub(crate) fn group(&self) -> Weak<Gate> {
        Arc::downgrade(&self.group)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The counter of an eventfd that is written once cannot be full.
        rustix::io::write(&self.end, &1_u64.to_ne_bytes()).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// What a gate decides by.
struct Keeper {
    group: Arc<Gate>,
    outlet: Arc<Outlet>,
    place: Arc<Place>,
    image: Image,
    init: u32,
    block: bool,
    has_root: bool,
    allow: Arc<Vec<Glob>>,
    /// The kernel's guard, which is told of what was compared.
    trust: Option<Arc<Trust>>,
    /// Where the host sees the root; the kernel names files so that come in from there.
    merged: Vec<u8>,
}

enum Verdict {
    /// Of the image.
    Allowed,
    /// Of the image, and asking again is of no use until it changes.
    Settled,
    Foreign(What, String),
}

/// Marks what a container can write to and begins to answer.
pub(crate) fn start(
    target: &Target,
    place: &Arc<Place>,
    allow: &Arc<Vec<Glob>>,
    trust: Option<Arc<Trust>>,
    outlet: &Arc<Outlet>,
) -> Result<Running> {
    let group = if target.block {
        Gate::open()
    } else {
        Gate::observing()
    };
    let group = Arc::new(group.map_err(|source| SensorError::Group { source })?);
    let end = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| SensorError::Group {
        source: errno.into(),
    })?;
    let thread_error = |source| SensorError::Thread { source };
    let keeper = Keeper {
        group: Arc::clone(&group),
        outlet: Arc::clone(outlet),
        place: Arc::clone(place),
        image: Image {
            lower: target.lower.try_clone().map_err(thread_error)?,
        },
        init: target.init,
        block: target.block,
        has_root: target.upper.is_some(),
        allow: Arc::clone(allow),
        trust,
        merged: merged(target),
    };
    let places = mounted::places(target)?;
    let ended = end.try_clone().map_err(thread_error)?;
    // Before the marks: from the first of them on, somebody may wait.
    let thread = std::thread::Builder::new()
        .name("gate".to_owned())
        .spawn(move || keeper.keep(ended.as_fd()))
        .map_err(thread_error)?;
    let running = Running {
        group,
        end,
        thread: Some(thread),
    };
    let mask = if target.block {
        mask::EXECUTE | mask::OPEN
    } else {
        mask::EXECUTED
    };
    for marked in places {
        let done = running.group.mark(marked.scope, mask, marked.at.as_fd());
        done.map_err(|source| SensorError::Mark {
            container: target.place.name.clone(),
            place: marked.name,
            source,
        })?;
    }
    Ok(running)
}

/// Docker and Podman mount the root beside the upper directory.
fn merged(target: &Target) -> Vec<u8> {
    let beside = target.upper.as_ref().and_then(|upper| {
        let parent = upper.path.parent()?;
        Some(parent.join("merged").into_os_string().into_vec())
    });
    beside.unwrap_or_default()
}

impl Keeper {
    fn keep(&self, end: BorrowedFd<'_>) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut fds = [
                PollFd::new(&*self.group, PollFlags::IN),
                PollFd::from_borrowed_fd(end, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            if !fds[1].revents().is_empty() {
                return;
            }
            let Ok((requests, lost)) = self.group.requests(&mut buffer) else {
                continue;
            };
            add(&self.outlet.tally.overflows, lost);
            for request in requests {
                self.handle(&request);
            }
        }
    }

    fn handle(&self, request: &Request) {
        let is_own = request.pid == std::process::id();
        let path = self.path(request.file.as_fd());
        let verdict = if is_own {
            Verdict::Allowed
        } else {
            self.judge(request, &path)
        };
        if let Verdict::Settled = verdict {
            // Memory is short: it will be asked again.
            self.group.skip(mask::OPEN, request.file.as_fd()).ok();
        }
        let Verdict::Foreign(what, reason) = verdict else {
            self.answer(request, true);
            if request.mask & mask::OPEN == 0 && !is_own {
                self.outlet.remember(request.pid, self.init, &path);
            }
            return;
        };
        let deed = Deed {
            container: Arc::clone(&self.place),
            what,
            path,
            from: None,
            pid: request.pid,
            reason: Some(reason),
        };
        // Told before it is answered: while it waits, its process cannot end.
        self.outlet.tell(deed, self.init);
        self.answer(request, !what.is_blocked());
    }

    fn answer(&self, request: &Request, allow: bool) {
        if request.waits() {
            // Nobody waits any more when it was killed meanwhile.
            self.group.answer(request, allow).ok();
        }
    }

    fn judge(&self, request: &Request, path: &[u8]) -> Verdict {
        let file = request.file.as_fd();
        let opens = request.mask & mask::OPEN != 0;
        // Before the content is read: what changes meanwhile has another time then.
        let stat = self.trust.as_ref().and_then(|_| fstat(file).ok());
        let why = if self.has_root && is_overlay(file) {
            match self.image.prove(file, path) {
                Proof::Untouched if opens => return Verdict::Settled,
                Proof::Untouched => return Verdict::Allowed,
                Proof::SameContent => {
                    self.trust_copy(file, path, stat);
                    return Verdict::Allowed;
                }
                Proof::Changed => "its content is not the image's",
                Proof::Added => "the image does not have it",
            }
        } else {
            "it lies on a volume or tmpfs"
        };
        if self.allow.iter().any(|glob| glob.fits(path)) {
            if let (Some(trust), Some(stat)) = (&self.trust, stat) {
                trust.put(file, &stat);
            }
            return Verdict::Allowed;
        }
        if opens {
            return match intent::to_run(file, path, request.pid) {
                Some(kind) => Verdict::Foreign(What::OpenBlocked, format!("{kind}: {why}")),
                None => Verdict::Allowed,
            };
        }
        let what = if self.block {
            What::ExecBlocked
        } else {
            What::Exec
        };
        Verdict::Foreign(what, why.to_owned())
    }

    /// Tells the kernel's guard of a file whose content was the image's when it had these times.
    fn trust_copy(&self, file: BorrowedFd<'_>, path: &[u8], mut stat: Option<Stat>) {
        let Some(trust) = &self.trust else {
            return;
        };
        if !stat.as_ref().is_some_and(is_settled) {
            std::thread::sleep(TICK);
            stat = fstat(file).ok().filter(is_settled);
            if self.image.prove(file, path) != Proof::SameContent {
                return;
            }
        }
        if let Some(stat) = &stat {
            trust.put(file, stat);
        }
    }

    /// The file's path as the container names it.
    fn path(&self, file: BorrowedFd<'_>) -> Vec<u8> {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = fs::read_link(link).map(|path| path.into_os_string().into_vec());
        let path = path.unwrap_or_default();
        match path.strip_prefix(self.merged.as_slice()) {
            Some(rest) if !self.merged.is_empty() && rest.starts_with(b"/") => rest.to_vec(),
            _ => path,
        }
    }
}
