//! Evidence: capture, seal and verify what was found in a container.
#![forbid(unsafe_code)]
