//! How long a stream may wait: the time limits that are looked at while nothing can be done, with one timer, set up at the first wait.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};

use crate::runtime::clock;

/// A stream's one timer.
#[derive(Default)]
pub(super) struct Patience(Option<Pin<Box<tokio::time::Sleep>>>);

impl Patience {
    /// Whether `deadline` is over; if not, the task is woken when it is.
    pub(super) fn is_over(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let timer = self
            .0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        if timer.deadline() != deadline.into() {
            timer.as_mut().reset(deadline.into());
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

/// `limit` after `since`; none where there is no limit.
pub(super) fn after(since: Instant, limit: Option<Duration>) -> Option<Instant> {
    since.checked_add(limit?)
}

/// When something last went out of a stream, to tell an idle one from a slow one.
pub(super) struct Progress {
    bytes: u64,
    at: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            bytes: 0,
            at: clock::now(),
        }
    }

    /// The time of the last change of `bytes`.
    pub(super) fn since(&mut self, bytes: u64) -> Instant {
        if bytes != self.bytes {
            self.bytes = bytes;
            self.at = clock::now();
        }
        self.at
    }
}
