//! Read buffers of one thread, so that idle connections hold none and busy ones need no allocator.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of a buffer: a head, or a small body with it.
pub(crate) const SIZE: usize = 8 * 1024;
/// Buffers that wait for use.
const MOST: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(crate) fn take() -> BytesMut {
    let free = FREE.with_borrow_mut(Vec::pop);
    free.unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Takes a buffer out of use. Its memory is used again unless it is too large or parts of it are
/// still held.
pub(crate) fn give(buffer: &mut BytesMut) {
    let mut buffer = std::mem::take(buffer);
    buffer.clear();
    if buffer.capacity() <= 2 * SIZE && buffer.try_reclaim(SIZE) {
        FREE.with_borrow_mut(|free| {
            if free.len() < MOST {
                free.push(buffer);
            }
        });
    }
}
