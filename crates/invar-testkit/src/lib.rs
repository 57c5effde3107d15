//! Real parts for the tests of every crate; nothing here is in the product.
//!
//! - [`rootfs`]: a busybox and a Debian root file system, made from Debian packages and cached.
//! - [`docker`]: a private Docker Engine in a temporary directory.
//! - [`podman`]: a Podman with storage of its own.
//! - [`registry`]: a private registry, with TLS and an account when asked for.
//! - [`invar`]: the binary under test with a state root of its own, emptied at the end.
//! - [`machine`]: network namespaces as machines of their own.
//!
//! A missing tool panics with what to install: a test never passes because it could not run.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "in tests a panic is the report"
)]

pub mod docker;
pub mod invar;
pub mod machine;
mod patience;
pub mod podman;
pub mod registry;
pub mod rootfs;
mod tool;

pub use patience::eventually;
pub use tool::{checked, require, require_root};
