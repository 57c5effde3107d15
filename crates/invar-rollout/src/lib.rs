//! Ships services by replacement.
#![forbid(unsafe_code)]

pub mod compose;
pub mod judge;
pub mod machine;
