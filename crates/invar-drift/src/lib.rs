//! A container compared with its image: what was added, changed and deleted.
#![forbid(unsafe_code)]
