//! The gateway moves traffic between revisions of a service without dropping a request.
//!
//! ```text
//!  clients ──▶ listener ──▶ worker (a thread: own runtime, sockets, pool)
//!                              │ connection: TLS? HTTP/1.1, HTTP/2 or TCP
//!                              ▼
//!                           http::forward ── traffic: route ─▶ service ─▶ claim ─▶ endpoint
//!                              │
//!                              ▼
//!                           upstream: kept connections ──▶ containers
//!
//!  control socket ──▶ gateway (main thread): apply · switch · canary · drain · hand over
//!                              ├── state file, leases, health checks, certificates
//!                              └── swaps one pointer; workers never wait for it
//! ```
//! Invariants, and where they are kept:
//! - After a switch answers, no request is on its way to the old revision uncounted
//!   (`traffic::service`, the claim).
//! - A request is sent again only when not one byte of it was sent, or when its method allows it and
//!   the policy says so (`upstream`, `http::forward`).
//! - A message that two programs could frame differently is refused (`http1`).
//! - Whatever a stranger can make the gateway hold or wait for has a limit ([`limits`]).
//! - One wrong item of a configuration never takes others down (`traffic::table`).
//! - A canary that nobody renews ends (`gateway::leases`).
//!
//! It does not judge revisions, know containers or resolve names: it is told addresses.
#![forbid(unsafe_code)]

mod access_log;
mod acme;
mod buffers;
mod clock;
pub mod config;
mod connection;
pub mod control;
mod deadline;
mod error;
mod gateway;
mod health;
mod http;
mod http1;
mod lease;
pub mod limits;
mod listener;
mod metrics;
mod random;
mod state;
mod stream;
mod tcp;
mod tls;
mod traffic;
mod tunnel;
mod upgrade;
mod upstream;
mod websocket;
mod worker;

pub use error::{GatewayError, Result};
pub use gateway::{Options, run};
pub use metrics::{LATENCY_BOUNDS, RevisionCounts};
