//! How one revision takes the place of another: a pure function from what is known and what is
//! seen to what is known next and what must be made so.
//!
//! ```text
//!  Starting ─▶ Trial 1 … n ─▶ Completing ─▶ Switching ─▶ Watching ─▶ Promoted
//!      │          │  (canary)      │  (manual: waits)        │
//!      └──────────┴──────┬─────────┴─────────────────────────┘
//!                        ▼ worse · crash · drift · abort
//!               Held (pause) ─▶ Reverting ─▶ RolledBack
//! ```
//!
//! [`step`] first decides whether the phase changes, then says what the phase it is in then *needs*:
//! actions compare with what is seen and are harmless when done twice. So a driver that stored the
//! new state and died before, between or after the actions gets the same ones again.

mod action;
mod needs;
mod observation;
mod state;
mod step;
#[cfg(test)]
mod tests;

pub use action::Action;
pub use observation::{Observation, Order, Replica, ReplicaState, Role, Traffic};
pub use state::{Decision, Phase, Rollout, Spec};
pub use step::{Step, step};

pub(crate) use needs::millis;
pub(crate) use state::WHOLE;
