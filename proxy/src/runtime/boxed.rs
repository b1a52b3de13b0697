//! Large futures in boxes, without a copy.

use std::pin::Pin;

/// The future that `make` makes, in a box. `Box::pin(future)` makes it on the stack and copies its kilobytes, which are not even set yet, into the
/// box; here the place is there first, and only what the future begins with is written to it.
#[inline(always)]
pub fn boxed<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}
