//! Carries a rollout out, so that a `kill -9` at any point loses nothing.
//!
//! ```text
//!  observe ──▶ step ──▶ store (one transaction) ──▶ act ──▶ again
//!     ▲                                              │
//!  engine, gateway, orders ◀─────────────────────────┘
//! ```
//!
//! One driver at a time has a service: a lock on a file. Whoever else has something to say leaves an
//! order in the store. What a killed driver began, the next one goes on with.

mod drive;
mod endpoint;
mod failpoint;
mod files;
mod follow;
mod gateway;
mod heal;
mod health;
mod live;
mod rollback;
mod store;
mod upkeep;

pub use drive::{Driver, Outcome, Report};
pub use endpoint::endpoint;
pub use files::place_file;
pub use follow::Follower;
pub use heal::Heal;
pub use live::Alarm;
pub use rollback::Rollback;
pub use store::{Result, RolloutError, Store, StoredService};
