//! The agent: watches every container of a host, decides by policy, and responds without a human.
//!
//! ```text
//!  engines ──discover──▶ sensor ──events──▶ decide (policy, phase) ──▶ incident ──▶ response
//!                                              │                        │            │ in order:
//!                                              ▼                        ▼            │ quarantine or
//!                                      journal (agent.db) ◀──── each step first ─────┘ freeze, capture,
//!                                              │                                       replace
//!                                              └──▶ alerts: stdout · syslog · webhook (spooled)
//! ```
//!
//! Invariants: a step of a response is in the journal before it is done, so an agent that was killed
//! goes on with it when it starts again; one container has at most one incident; a service whose
//! fresh container is attacked again and again is not replaced for ever. Killing the agent stops no
//! container unless the policy asks for that (`on_agent_loss`). What was lost on the way is counted and
//! told.
//!
//! The agent does not decide what is bad (`invar-drift` does), nor how evidence is taken or a
//! container replaced (`invar-evidence`); it decides whether, when and in which order.
#![forbid(unsafe_code)]

mod agent;
pub mod alert;
pub mod api;
mod attribution;
mod discovery;
mod error;
mod journal;
pub mod learn;
mod metrics;
pub mod policy;
mod respond;
mod warden;

pub use agent::{Agent, Settings};
pub use attribution::{Attribution, Sureness, attributions, witness};
pub use discovery::{Host, target};
pub use error::{AgentError, Result};
pub use journal::{Incident, Journal};
pub use warden::{Watch, keep_watch};
