//! How a codec ends a request that waits for too long: it polls the pipeline once more, and the respond stage answers in the place of what it waits for.

use std::cell::RefCell;

use super::failure::Failure;

thread_local! {
    static CUT: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// Polls a pipeline that is to give up with `failure`.
pub(super) fn with<T>(failure: Failure, poll: impl FnOnce() -> T) -> T {
    CUT.replace(Some(failure));
    let polled = poll();
    CUT.take();
    polled
}

/// What the pipeline that is being polled has to give up with, if it has to.
pub(super) fn take() -> Option<Failure> {
    CUT.take()
}
