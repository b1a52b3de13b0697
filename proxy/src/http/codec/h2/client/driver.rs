//! The task of a connection; and the connection, which a request that comes first has a look at as well.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::super::body::upstream_failure;
use super::super::keepalive::{Keepalive, Timer};
use super::super::wire::Connection;
use super::Shared;
use crate::http::failure::Failure;

/// What is read from and written to.
pub(super) struct Line {
    connection: Connection,
    /// The task's; `None` before its first turn.
    waker: Option<Waker>,
}

impl Line {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            waker: None,
        }
    }
}

impl Shared {
    /// Reads what the peer has said and the task has not had a turn to hear: it may be that it takes no more requests.
    pub(super) fn hear(&self) {
        if !self.rope.is_rung() {
            return;
        }
        // Somebody who has it hears for us.
        let Some(mut line) = self.line.try_lock() else {
            return;
        };
        let Some(line) = line.as_mut() else { return };
        let Some(waker) = line.waker.clone() else {
            return;
        };
        // What is to be written waits for the task, which comes in this turn.
        if line.connection.hear(&mut Context::from_waker(&waker)).is_ready() {
            self.unavailable.store(true, Ordering::Relaxed);
        }
        waker.wake();
    }
}

/// The task of a connection.
pub(super) struct Driver {
    pub(super) keepalive: Option<Keepalive>,
    pub(super) max_age: Option<Timer>,
    pub(super) settled: bool,
    pub(super) shared: Arc<Shared>,
}

impl Driver {
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Failure>> {
        let mut line = self.shared.line.lock();
        let Some(line) = line.as_mut() else {
            return Poll::Ready(None);
        };
        if !line.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            line.waker = Some(cx.waker().clone());
        }
        let end = line.connection.poll(cx).map(|end| end.err().map(upstream_failure));
        if end.is_pending() && !self.settled {
            self.settled = line.connection.is_settled();
            if self.settled {
                self.shared.settled.notify_waiters();
            }
        }
        end
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let end = match this.poll_line(cx) {
            Poll::Ready(end) => end,
            Poll::Pending => {
                this.shared.driver.register(cx.waker());
                if this.max_age.as_mut().is_some_and(|timer| timer.poll(cx).is_ready()) {
                    this.max_age = None;
                    this.shared.unavailable.store(true, Ordering::Relaxed);
                }
                let dead = this
                    .keepalive
                    .as_mut()
                    .is_some_and(|keepalive| keepalive.poll(cx).is_ready());
                if dead {
                    if let Some(hooks) = &this.shared.hooks {
                        hooks.ping_unanswered();
                    }
                    Some(Failure::ConnectionTermination)
                } else if this.shared.cut.load(Ordering::Relaxed) {
                    Some(Failure::LocalReset)
                } else {
                    return Poll::Pending;
                }
            }
        };
        this.shared.unavailable.store(true, Ordering::Relaxed);
        this.shared.settled.notify_waiters();
        if let Some(hooks) = &this.shared.hooks {
            hooks.closed(end);
        }
        Poll::Ready(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The connection goes with its task, whoever holds a handle. Not under the lock: its streams are told.
        let line = self.shared.line.lock().take();
        drop(line);
    }
}
