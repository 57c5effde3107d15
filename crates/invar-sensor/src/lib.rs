//! Sees changes and executions in containers as they happen, and refuses what is not of the image.
//!
//! ```text
//!  container's root, tmpfs, volumes ──gate──▶ is this very file of the image? ──▶ run / refuse
//!  file system below all upper dirs ──files─▶ which container, which path?    ──▶ change
//!                                                        │
//!                        Event: what, path, container, actor, severity ◀── /proc
//! ```
//!
//! All of it is fanotify(7), which needs no BPF. A *gate* is one thread and one group a container,
//! so that a busy one holds up no other for longer than a look at an actor; *files* is one thread for all, because the kernel tells
//! names only of the file system that backs the upper directories.
//!
//! Invariants: a file counts as the image's only on proof taken from the open file itself, never
//! because a name is absent somewhere; every queue and table is bounded, what does not fit is
//! counted, and a walk of the upper directory then tells what was missed. When the process ends,
//! fanotify lets everything through again, and it does not stop code that never passes an open.
//!
//! Where the kernel runs LSM programs, the *guard* refuses too, from what overlayfs itself knows of
//! an inode: also memfd and what is mapped, and when pinned, after the process has ended. The gate
//! has then the part of telling it which changed files have the image's content.
#![forbid(unsafe_code)]

mod actor;
mod counts;
mod error;
mod event;
mod files;
mod gate;
mod guard;
mod intent;
mod known;
mod mounted;
mod outlet;
mod places;
mod proof;
mod queue;
mod sensor;
mod target;

pub use actor::{Actor, Ancestor, Session};
pub use counts::Counts;
pub use error::{Result, SensorError};
pub use event::{Event, Place, What};
pub use guard::{PINS, lift, probe};
pub use sensor::{Events, Guarding, Sensor, Settings};
pub use target::{Target, UpperDirectory};
