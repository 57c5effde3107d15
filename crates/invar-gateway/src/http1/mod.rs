//! HTTP/1.1, strictly (RFC 9112): what two programs could read in two ways is refused, not repaired.
//!
//! Invar speaks HTTP/1.1 itself, on top of `httparse`, because three promises need to see every
//! byte: a message that a container could frame otherwise is never passed on, a request is known to
//! be unsent when a kept connection turns out dead, and an idle connection holds no buffer.
//!
//! ```text
//! client ─▶ front (buffers, deadline) ─ head ─▶ Request ─▶ http::forward ─▶ Response ─ outbox ─▶ client
//!                 └── request body: decode ──────────────────────┘
//! ```

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod framing;
pub(crate) mod front;
pub(crate) mod head;
pub(crate) mod outbox;
pub(crate) mod serve;
