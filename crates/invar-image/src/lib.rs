//! Images: references, the content store, layers and read-only views.
//!
//! ```text
//! import, load, pull ─▶ layers ─▶ objects (each file once) ─▶ view (EROFS) ─▶ row in state.db
//!                          └────▶ recipe for the layer's exact bytes ─▶ save, push
//! ```
//!
//! - Nothing is visible before every digest matched and every byte is on disk.
//! - No path of a layer or an archive ever reaches the host; see [`Limits`] for what bounds them.
//! - An image is named by the digest of its configuration; a tag is only a way to find it.
//!
//! [`registry`] speaks to registries. Nothing here runs anything.
#![forbid(unsafe_code)]

mod archive;
mod compression;
mod digest;
mod error;
mod fsck;
#[cfg(fuzzing)]
pub mod fuzzing;
mod import;
mod layer;
mod limits;
mod load;
mod objects;
mod plain;
mod platform;
mod prune;
mod reference;
pub mod registry;
mod save;
mod sources;
pub mod state;
mod store;
mod tar;
mod view;

pub use digest::Digest;
pub use error::{ImageError, Result};
pub use fsck::{Checked, Damage, KernelChecks};
pub use import::ImportOptions;
pub use limits::Limits;
pub use oci_spec::image::{Config, ImageConfiguration};
pub use platform::Platform;
pub use prune::Pruned;
pub use reference::Reference;
pub use store::{Image, ImageId, ImageStore, Removed};
pub use view::{
    ImageView, KernelCheck, VERIFIED_VARIABLE, VIEW_VARIABLE, Verification, ViewForm, try_erofs,
};
