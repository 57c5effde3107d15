//! Container engines behind one trait.
//!
//! ```text
//!  ContainerConfig ──create──▶ Container ──open_root──▶ RootFs (lower, upper as directory handles)
//!                                  │
//!                        start · stop · pause · exec · logs · wait · remove
//! ```
//!
//! [`Engine`] is the only seam: `embedded` runs containers itself, a small shim process each;
//! other engines drive a daemon. What the rest of Invar needs to know of a container is
//! [`Container`] and [`RootFs`]; nothing above this crate sees how a container came to be.
//!
//! Invariants: a container's configuration never changes after `create`; two containers of one
//! [`Revision`] are interchangeable. This crate does not compare, capture or judge containers.
#![forbid(unsafe_code)]

mod config;
mod container;
pub mod docker;
pub mod embedded;
mod engine;
mod error;
pub mod files;
mod usage;

pub use config::{
    AppArmor, ContainerConfig, HealthCheck, HostEntry, Membership, Mount, MountKind, Network,
    Networking, Protocol, PublishedPort, Resources, Restart, User, UserNamespace,
};
pub use container::{
    Container, ContainerId, ContainerName, Endpoint, ExitStatus, Health, HealthResult,
    HealthStatus, Revision, RootFs, State, Upper,
};
pub use engine::{Attached, Attachment, Engine, ExecConfig, LogOptions, LogStream, Stdio, Update};
pub use error::{EngineError, Result};
pub use usage::{Usage, usage};
