//! When connections to a host have to go.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

use super::{HealthFlag, HostState};

#[derive(Default)]
pub struct Drains {
    /// See [`HostState::drain_epoch`].
    epoch: AtomicU32,
    /// For those who want to know when that goes up; there once somebody does.
    told: OnceLock<Box<Notify>>,
}

impl HostState {
    /// Goes up each time all pooled connections to the host have to go (ejection, failed health check). A pool notes the epoch
    /// when it connects and lets a connection of an older epoch finish its streams, then closes it.
    pub fn drain_epoch(&self) -> u32 {
        self.drains.epoch.load(Ordering::Relaxed)
    }

    pub(in crate::cluster) fn drain_connections(&self) {
        self.drains.epoch.fetch_add(1, Ordering::SeqCst);
        if let Some(drained) = self.drains.told.get() {
            drained.notify_waiters();
        }
    }

    /// Completes when a health check or outlier detection finds (or has found) the host ill after the epoch `since`; at once if it has
    /// already.
    ///
    /// # Cancel safety
    /// Can be called anew at any time.
    pub async fn failed_since(&self, since: u32) {
        let drained = self.drains.told.get_or_init(Box::default);
        loop {
            let mut told = std::pin::pin!(drained.notified());
            // From here on nothing is missed.
            told.as_mut().enable();
            let is_older = self.drains.epoch.load(Ordering::SeqCst) != since;
            // Hosts that come or go close connections too, but not these.
            if is_older && (self.has(HealthFlag::FailedActiveHc) || self.has(HealthFlag::FailedOutlierCheck)) {
                return;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn failures_are_told_apart_from_other_reasons() {
        let state = Arc::new(HostState::new());
        let since = state.drain_epoch();
        let mut failed = Box::pin(state.failed_since(since));
        assert!(futures_util::poll!(&mut failed).is_pending());
        // Hosts have changed.
        state.drain_connections();
        assert!(futures_util::poll!(&mut failed).is_pending());
        state.set(HealthFlag::FailedActiveHc, true);
        state.drain_connections();
        assert!(futures_util::poll!(&mut failed).is_ready());
        // Who comes later hears of the next time.
        let mut later = Box::pin(state.failed_since(state.drain_epoch()));
        assert!(futures_util::poll!(&mut later).is_pending());
        state.drain_connections();
        assert!(futures_util::poll!(&mut later).is_ready());
    }
}
