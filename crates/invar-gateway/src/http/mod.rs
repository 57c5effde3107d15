//! What happens to a request, whatever version of HTTP it came in.

pub(crate) mod body;
mod extended_connect;
pub(crate) mod fields;
pub(crate) mod flight;
pub(crate) mod forward;
pub(crate) mod http2;
pub(crate) mod mirror;
pub(crate) mod own;
