//! How the agent is asked and told: lines of JSON on a unix socket (docs/formats/agent-api.md).

pub mod client;
pub mod protocol;
pub(crate) mod server;
