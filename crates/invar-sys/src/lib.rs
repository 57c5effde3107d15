//! The kernel as Invar needs it: the only crate with unsafe code and raw system calls.
//!
//! Each module turns one kernel facility into values and errors with meaning; nothing here knows
//! what an image or a container is. Safe wrappers of rustix are preferred, libc is used only where
//! rustix has none, and every unsafe block says why it is sound.
#![allow(unsafe_code, reason = "the one crate that talks to the kernel")]

pub mod copy;
pub mod devices;
pub mod fanotify;
pub mod handle;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod network;
pub mod probe;
pub mod process;
pub mod signal;
pub mod signal_names;
pub mod together;
pub mod tree;
pub mod userns;
mod workshop;
