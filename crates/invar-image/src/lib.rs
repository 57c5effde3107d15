#![forbid(unsafe_code)]
//! Images: references, the content store, layers and read-only views.

mod error;
pub mod state;

pub use error::{ImageError, Result};
