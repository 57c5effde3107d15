//! What the sensor needs to know of a container, whoever runs it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use invar_drift::{Glob, Namespace};

use crate::event::Place;

/// A running container.
#[derive(Debug)]
pub struct Target {
    /// Which one.
    pub place: Place,
    /// Its first process as the host numbers it.
    pub init: u32,
    /// The image as it started from it: one merged, read-only directory.
    pub lower: OwnedFd,
    /// What it writes; `None` for a read-only root.
    pub upper: Option<UpperDirectory>,
    /// Where its overlay keeps its marks.
    pub namespace: Namespace,
    /// Whether what is not of the image is refused, and not only told of.
    pub block: bool,
    /// Paths that may run in it although they are not of the image, beside those of the sensor.
    pub allow: Vec<Glob>,
}

/// An overlay's upper directory.
#[derive(Debug)]
pub struct UpperDirectory {
    /// The directory itself.
    pub dir: OwnedFd,
    /// Where it is on the host.
    pub path: PathBuf,
}
