//! How the gateway is told what to do: lines of JSON on a unix socket
//! (docs/formats/gateway-control.md).

pub mod client;
pub mod protocol;
pub(crate) mod server;
