//! Where a request goes, decided without a lock.
//!
//! ```text
//! RouteTable (one atomic pointer) ── host, path ──▶ Service ── Traffic (one atomic pointer)
//!                                                                 │ rules, bucket, weights
//!                                                                 ▼
//!                                     Claim (counted in flight) ◀─ Revision ── Endpoint …
//! ```
//! A claim counts itself into the revision first and looks at the service's generation again: when
//! traffic was switched in between, it gives back what it took and chooses anew. So after a switch
//! no request can still be on its way to the old revision without being counted there.

pub(crate) mod cookie;
pub(crate) mod endpoint;
pub(crate) mod revision;
pub(crate) mod route;
pub(crate) mod service;
pub(crate) mod table;
