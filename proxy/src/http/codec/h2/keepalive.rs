//! Keepalive PINGs and the connection's other timer, the idle timeout.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};
use tokio::time::Sleep;

use super::options::KeepaliveOptions;
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
    ping_pong: PingPong,
    timer: Timer,
    options: KeepaliveOptions,
    waiting: bool,
}

impl Keepalive {
    pub(super) fn new(ping_pong: Option<PingPong>, options: Option<KeepaliveOptions>) -> Option<Self> {
        let options = options?;
        Some(Self {
            ping_pong: ping_pong?,
            timer: Timer::after(options.interval),
            options,
            waiting: false,
        })
    }

    /// Ready when the peer did not answer in time, or the connection cannot PING any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting {
                match self.ping_pong.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.waiting = false;
                        self.timer.rearm(clock::now() + self.options.interval);
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return self.timer.poll(cx),
                }
            }
            if self.timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.ping_pong.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            self.waiting = true;
            self.timer.rearm(clock::now() + self.options.timeout);
        }
    }
}
