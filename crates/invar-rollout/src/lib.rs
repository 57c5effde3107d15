//! Ships services by replacement: a container is never changed, traffic moves to a fresh one.
//!
//! ```text
//!  compose.yaml ──compose──▶ Project ──(image, rules of `run`)──▶ Definition ──▶ revision
//!                                                                     │
//!                     plan: what is replaced, and why ◀───────────────┤
//!                                                                     ▼
//!       driver:  observe ─▶ machine::step ─▶ store ─▶ act ─▶ …   engine · gateway
//!                              └─ judge: worse · well · not enough
//! ```
//!
//! Invariants, and where they are kept:
//! - A service never ends without a healthy revision (`machine`, tested against a model that dies at
//!   any point).
//! - What is done was stored before (`driver::drive`); what is stored is enough to go on.
//! - A new revision is never called worse by chance more than once in twenty rollouts (`judge`).
//! - A rollback restores the whole revision, not the image alone ([`Definition`]).
//!
//! It knows no engine by name, resolves no image and reads no evidence.
#![forbid(unsafe_code)]

pub mod compose;
mod definition;
pub mod driver;
pub mod history;
pub mod judge;
pub mod machine;
mod plan;

pub use definition::Definition;
pub use plan::{Change, Plan, differences, plan};
