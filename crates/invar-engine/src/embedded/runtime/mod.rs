//! How a container's configuration becomes running processes: the OCI specification, the system
//! call filter, and the step that executes the program.

pub(super) mod inside;
pub(super) mod program;
pub(super) mod seccomp;
pub(super) mod spec;
