//! Waiting for what must come, with an end.

use std::future::Future;
use std::time::Duration;

use remora::runtime::clock;

/// How long anything may take before a test gives up on it. Long, because machines are slow; never asserted on.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition without an event is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// `future`, or a panic that names what did not come.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("gave up waiting for {what}"),
    }
}

/// Looks until `found` has something.
pub async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(value) = found().await {
                return value;
            }
            clock::sleep(LOOK).await;
        }
    })
    .await
}
