//! The one place where this crate starts tasks and reads the clock.

use std::future::Future;

use tokio::task::JoinHandle;

/// Starts a task on the current runtime.
#[allow(clippy::disallowed_methods)]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Now, on the runtime's clock (so that a paused test clock holds here too).
#[allow(clippy::disallowed_methods)]
pub fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
