//! The only place that reads a clock. Paused tokio time is honoured, so layers are tested without waiting.

use std::time::{Duration, Instant, SystemTime};

/// Monotonic now. Follows tokio's paused clock inside a paused runtime.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall-clock now, for log lines, certificates and dates only.
#[allow(clippy::disallowed_methods)]
pub fn system_now() -> SystemTime {
    SystemTime::now()
}

/// The wall-clock time of a monotonic one.
pub fn wall_of(instant: Instant) -> SystemTime {
    system_now() - now().saturating_duration_since(instant)
}

/// Completes after `duration`; cancel safe.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}
