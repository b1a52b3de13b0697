//! The one timer of a connection.

use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};

use crate::runtime::clock;

/// Longer than any connection lives; keeps "no timeout" from being a special case.
pub(super) const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whether `deadline` has passed. The timer is only moved when it fires too early, so an unchanged far deadline is free.
pub(super) fn poll_deadline(
    mut timer: Pin<&mut tokio::time::Sleep>,
    deadline: Option<Instant>,
    cx: &mut Context<'_>,
) -> bool {
    let Some(deadline) = deadline else { return false };
    if timer.deadline() > deadline.into() {
        timer.as_mut().reset(deadline.into());
    }
    while timer.as_mut().poll(cx).is_ready() {
        if clock::now() >= deadline {
            timer.as_mut().reset((clock::now() + FAR).into());
            return true;
        }
        timer.as_mut().reset(deadline.into());
    }
    false
}
