//! Cheap randomness for choices that no one must be able to predict across restarts but that are
//! no secrets: which of two endpoints, which bucket a visitor falls into.

use std::cell::Cell;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

fn seed() -> u64 {
    // RandomState is keyed from the kernel's randomness once per thread.
    RandomState::new().build_hasher().finish() | 1
}

/// A number below `limit`; 0 when `limit` is 0.
pub(crate) fn below(limit: u64) -> u64 {
    let next = STATE.with(|state| {
        // xorshift64*
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    });
    scale(next, limit)
}

/// `value` of the full range of 64 bits brought down to 0..`limit`, keeping the order.
pub(crate) fn scale(value: u64, limit: u64) -> u64 {
    let wide = (u128::from(value) * u128::from(limit)) >> 64;
    u64::try_from(wide).unwrap_or(0)
}
