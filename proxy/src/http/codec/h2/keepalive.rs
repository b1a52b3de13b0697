//! Keepalive PINGs and the connection's other timer, the idle timeout.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::options::KeepaliveOptions;
use super::wire::Ping;
use crate::runtime::clock;

/// A timer that is made when it is needed and re-armed in place.
pub(super) struct Timer(Pin<Box<Sleep>>);

impl Timer {
    pub(super) fn after(duration: Duration) -> Self {
        Self(Box::pin(tokio::time::sleep(duration)))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }

    pub(super) fn rearm(&mut self, at: Instant) {
        self.0.as_mut().reset(tokio::time::Instant::from_std(at));
    }
}

/// Sends a PING each interval and expects its answer in time.
pub(super) struct Keepalive {
    ping: Ping,
    timer: Timer,
    options: KeepaliveOptions,
    waiting: bool,
}

impl Keepalive {
    pub(super) fn new(ping: Ping, options: KeepaliveOptions) -> Self {
        Self {
            ping,
            timer: Timer::after(options.interval),
            options,
            waiting: false,
        }
    }

    /// Ready when the peer did not answer in time, or the connection cannot PING any more. To be polled behind the connection, which reads the answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting {
                if !self.ping.is_answered() {
                    return self.timer.poll(cx);
                }
                self.waiting = false;
                self.timer.rearm(clock::now() + self.options.interval);
            }
            if self.timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !self.ping.send() {
                return Poll::Ready(());
            }
            self.waiting = true;
            self.timer.rearm(clock::now() + self.options.timeout);
        }
    }
}
