//! What a rollout asks of the world. Each is harmless when it was done already.

use super::observation::Role;

/// Something to be made so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A container of this role and number runs; one that ended is made anew.
    Run {
        /// Which revision it is of, and what for.
        role: Role,
        /// Its number among those of its role.
        index: u32,
    },
    /// It is gone.
    Remove {
        /// Which.
        role: Role,
        /// Its number.
        index: u32,
    },
    /// The gateway knows the role's revision with the addresses of its healthy containers.
    Register(Role),
    /// The gateway does not know it any more.
    Forget(Role),
    /// So much traffic, in parts of 10,000, goes to the new revision and to the baseline; with a
    /// lease, so that it ends when nobody renews it.
    Weigh {
        /// The new revision's.
        canary: u32,
        /// The fresh baseline's.
        baseline: u32,
    },
    /// The lease begins anew.
    Renew,
    /// No weights: what is not given away goes to the stable revision.
    EndTrial,
    /// All traffic to this role's revision.
    Switch(Role),
}
