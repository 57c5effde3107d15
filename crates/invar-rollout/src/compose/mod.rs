//! `compose.yaml`, read by a model of our own.
//!
//! ```text
//!  files ──▶ yaml (bounded tree, every value with its place) ──▶ references replaced
//!        ──▶ include · extends · profiles ──▶ Project, and a warning for each key without effect
//! ```
//!
//! Tolerant: a key that Invar does not know stops nothing and is named with its path. Strict where
//! silence would lie: a value of the wrong kind, a missing file or an unknown service is an error
//! with its line and column.

mod deploy;
mod env_file;
mod error;
mod extension;
mod fields;
mod grants;
mod health;
mod interpolate;
mod load;
mod merge;
mod model;
mod networks;
mod order;
mod ports;
mod scalars;
mod service;
mod volumes;
mod words;
mod yaml;

pub use error::{ComposeError, Position, Result, Warning};
pub use load::{Options, load, parse};
pub use model::{
    Condition, Dependency, Deploy, DriftPolicy, Extension, FailureAction, Gate, GrantedFile,
    Healthcheck, NamedVolume, NetworkMode, Port, PortProtocol, Project, ProjectNetwork,
    RolloutPolicy, Service, Volume, VolumeSource,
};

#[cfg(test)]
mod tests;
