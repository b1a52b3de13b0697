//! When a connection between two requests leaves a draining listener.
//!
//! Not at once: a request may be on its way, and its client could not tell whether it was taken. The next response says `connection: close`;
//! a connection that no request comes over is closed after a grace, or when the drain ends.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};

use crate::runtime::clock;
use crate::runtime::drain::{DrainPhase, DrainSignal};

/// Envoy's default of `drain_timeout`. Over HTTP/2 a ping takes its place: when it comes back, the client knows that the connection leaves.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// One connection's view of its drain.
pub(super) struct Leave {
    signal: DrainSignal,
    /// The next phase that matters: first `Draining`, then `Closed`.
    next: Pin<Box<dyn Future<Output = ()> + Send>>,
    since: Option<Instant>,
    grace: Duration,
    /// `next` knows whom to wake.
    watched: bool,
}

impl Leave {
    pub fn new(signal: &DrainSignal, grace: Duration) -> Self {
        Self {
            signal: signal.clone(),
            next: Box::pin(reached(signal.clone(), DrainPhase::Draining)),
            since: None,
            grace,
            watched: false,
        }
    }

    /// Whether the drain is over. Wakes when that, or [`Leave::deadline`], changes.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.watched = true;
        if self.since.is_none() && self.next.as_mut().poll(cx).is_ready() {
            self.since = Some(clock::now());
            self.next = Box::pin(reached(self.signal.clone(), DrainPhase::Closed));
        }
        self.since.is_some() && (self.signal.phase() == DrainPhase::Closed || self.next.as_mut().poll(cx).is_ready())
    }

    /// As [`Leave::poll_over`], for a connection with a request under way: as long as nothing drains it costs a look.
    pub fn poll_over_when_busy(&mut self, cx: &mut Context<'_>) -> bool {
        if self.watched && self.since.is_none() && self.signal.is_quiet() {
            return false;
        }
        self.poll_over(cx)
    }

    /// When an idle connection leaves; none while there is no drain.
    pub fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.grace)
    }
}

/// A drain whose owner is gone gets no further than `Draining`.
async fn reached(mut signal: DrainSignal, phase: DrainPhase) {
    signal.reached(phase).await;
    if signal.phase() < phase {
        std::future::pending::<()>().await;
    }
}
