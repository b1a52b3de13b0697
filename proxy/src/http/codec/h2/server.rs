//! The task of a downstream connection: it moves frames, starts a task for each stream, and decides when the connection ends.

mod endings;

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::keepalive::{Keepalive, Timer};
use super::options::H2Options;
use super::resets::ResetBucket;
use super::stream;
use super::wire::{Connection, Incoming, Reason};
use crate::http::service::{ConnectionEvent, Service};
use crate::listener::ConnectionInfo;
use crate::runtime::boxed::boxed;
use crate::runtime::clock;
use crate::runtime::drain::{DrainPhase, DrainSignal};
use crate::runtime::io::Io;
use crate::runtime::spawn::spawn;
pub(super) use endings::tell;

/// Serves a connection to its end. Its streams are tasks of their own, which learn of the connection's end and finish by themselves.
///
/// Returns when the peer has closed, the connection broke, or a drain is through: GOAWAY at [`DrainPhase::Draining`], an abrupt end at [`DrainPhase::Closed`].
///
/// # Cancel safety
///
/// Dropping the future closes the connection; every stream then records a downstream disconnect.
pub async fn serve<S: Service>(
    io: Io,
    service: Arc<S>,
    connection: Arc<ConnectionInfo>,
    options: &H2Options,
    mut drain: DrainSignal,
) {
    let mut h2 = Connection::server(io, options);
    let patience = options.idle_timeout.unwrap_or(Duration::MAX);
    tokio::select! {
        biased;
        is_there = poll_fn(|cx| h2.poll_handshake(cx)) => if !is_there {
            tracing::debug!(connection = connection.id, "http2 handshake failed");
            return;
        },
        () = closed(drain.clone()) => return,
        () = clock::sleep(patience) => return,
    }
    let mut driver = Driver::new(h2, service, connection, options, drain.clone());
    run(&mut driver, &mut drain).await;
    let Driver {
        h2, service, hangs_up, ..
    } = driver;
    let (Some(io), Some(limit)) = (h2.into_io(), options.delayed_close.filter(|_| !hangs_up)) else {
        return;
    };
    if endings::linger(io, limit).await {
        service.event(ConnectionEvent::DelayedClose);
    }
}

async fn run<S: Service>(driver: &mut Driver<S>, drain: &mut DrainSignal) {
    let mut awaited = Some(DrainPhase::Draining);
    loop {
        let Some(phase) = awaited else {
            return poll_fn(|cx| driver.poll(cx)).await;
        };
        tokio::select! {
            biased;
            () = poll_fn(|cx| driver.poll(cx)) => return,
            () = drain.reached(phase) => {}
        }
        if drain.phase() == DrainPhase::Closed {
            return driver.abort().await;
        }
        driver.leave();
        // An owner that is gone has said all that it will say.
        awaited = (phase == DrainPhase::Draining).then_some(DrainPhase::Closed);
    }
}

/// Completes when the drain is over. Its beginning is no reason to leave a handshake: a request may be on its way behind it.
async fn closed(mut drain: DrainSignal) {
    drain.reached(DrainPhase::Closed).await;
    if drain.phase() != DrainPhase::Closed {
        std::future::pending().await
    }
}

/// How long a connection that leaves is kept for its first stream.
const GRACE: Duration = Duration::from_secs(5);

/// What a connection and its streams tell each other.
pub(super) struct Shared {
    pub(super) options: H2Options,
    started: Instant,
    /// Those that have their tasks.
    streams: AtomicU32,
    /// Milliseconds since `started` when a stream last ended.
    last_end: AtomicU64,
    flooded: AtomicBool,
    /// We ended the connection, and why: what streams then see as a reset was none by the client.
    cut: OnceLock<Cut>,
    resets: Mutex<ResetBucket>,
}

/// Why we ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// It had to go.
    Local,
    /// The client broke the protocol: response-code details.
    Broken(&'static str),
}

/// A stream's presence on its connection.
pub(super) struct ActiveStream(Arc<Shared>);

impl ActiveStream {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }

    pub(super) fn options(&self) -> &H2Options {
        &self.0.options
    }

    /// Why we ended its connection, if we did.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.0.cut.get().copied()
    }

    /// Counts a reset by the peer; too many close the connection (`stream_reset_burst`, `stream_reset_rate`).
    pub(super) fn count_reset(&self) {
        if !self.0.resets.lock().take(clock::now()) {
            self.0.flooded.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        let elapsed = clock::now().saturating_duration_since(self.0.started).as_millis();
        self.0
            .last_end
            .store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Driver<S> {
    h2: Connection,
    service: Arc<S>,
    connection: Arc<ConnectionInfo>,
    shared: Arc<Shared>,
    opened: u32,
    /// Whether connections are asked to leave with their next answer.
    asked: DrainSignal,
    /// Asked to leave before its first stream came.
    leaving: bool,
    draining: bool,
    idle: Option<Timer>,
    max_age: Option<Timer>,
    keepalive: Option<Keepalive>,
    /// Runs while the client owes the rest of a header block (`request_headers_timeout`).
    headers: Option<Timer>,
    /// The header block came too late: whatever comes now is refused.
    late: bool,
    /// When to look whether the last stream has ended, and end the connection.
    ending: Option<Timer>,
    /// Until when the client may take our last words.
    closing: Option<Timer>,
    /// The client is not waited for at the end: it floods, or is not there.
    hangs_up: bool,
}

impl<S: Service> Driver<S> {
    fn new(
        h2: Connection,
        service: Arc<S>,
        connection: Arc<ConnectionInfo>,
        options: &H2Options,
        asked: DrainSignal,
    ) -> Self {
        let now = clock::now();
        let keepalive = options.keepalive.map(|keepalive| Keepalive::new(h2.ping(), keepalive));
        Self {
            h2,
            service,
            connection,
            opened: 0,
            asked,
            leaving: false,
            draining: false,
            idle: options.idle_timeout.map(Timer::after),
            max_age: options.max_connection_duration.map(Timer::after),
            keepalive,
            headers: None,
            late: false,
            ending: None,
            closing: None,
            hangs_up: false,
            shared: Arc::new(Shared {
                options: options.clone(),
                started: now,
                streams: AtomicU32::new(0),
                last_end: AtomicU64::new(0),
                flooded: AtomicBool::new(false),
                cut: OnceLock::new(),
                resets: Mutex::new(ResetBucket::new(options, now)),
            }),
        }
    }

    /// Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok(incoming))) => {
                    self.accept(incoming);
                    // More streams may have come with this one, and only a pending poll asks to be woken for them.
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(connection = self.connection.id, %error, "http2 connection failed");
                    self.failed(error);
                    self.closing.get_or_insert_with(|| Timer::after(GRACE));
                    continue;
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if self.shared.flooded.swap(false, Ordering::Relaxed) {
                tracing::debug!(connection = self.connection.id, "http2 stream reset flood");
                self.service.event(ConnectionEvent::ResetFlood);
                self.hangs_up = true;
                self.shut(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
            if let Some(timer) = &mut self.closing {
                return timer.poll(cx);
            }
            self.tell_malformed();
            let again = self.poll_idle(cx) | self.poll_max_age(cx) | self.poll_headers(cx) | self.poll_ending(cx);
            if self
                .keepalive
                .as_mut()
                .is_some_and(|keepalive| keepalive.poll(cx).is_ready())
            {
                tracing::debug!(connection = self.connection.id, "http2 keepalive timeout");
                let _ = self.shared.cut.set(Cut::Local);
                self.hangs_up = true;
                self.service.event(ConnectionEvent::KeepaliveTimeout);
                return Poll::Ready(());
            }
            if !again {
                return Poll::Pending;
            }
        }
    }

    fn accept(&mut self, mut incoming: Incoming) {
        if self.late {
            return incoming.respond.send_reset(Reason::REFUSED_STREAM);
        }
        self.opened += 1;
        let active = ActiveStream::new(&self.shared);
        let (service, connection) = (self.service.clone(), self.connection.clone());
        // Boxed: a task's future is moved several times on its way in and out of the runtime, and this one is kilobytes.
        spawn(
            "http2 stream",
            boxed(|| stream::run(service, connection, active, incoming)),
        );
        let is_last = self.shared.options.max_requests_per_connection == Some(self.opened);
        if self.leaving || is_last || self.asked.is_draining() {
            self.drain();
        }
    }

    /// A drain begins. A client that is told to go away before it has asked anything would only connect again, to hear the same: a connection
    /// without a stream so far is left to its first one, for a while.
    fn leave(&mut self) {
        if self.opened > 0 || self.draining {
            return self.drain();
        }
        self.leaving = true;
        self.max_age = Some(Timer::after(GRACE));
    }

    /// Two-step GOAWAY; the connection ends when its streams have.
    fn drain(&mut self) {
        if !self.draining && self.closing.is_none() {
            self.draining = true;
            self.idle = None;
            self.max_age = None;
            self.service.event(ConnectionEvent::GoawaySent);
            // The PING behind the GOAWAY tells when the client knows; it may never answer.
            self.ending = Some(Timer::after(self.shared.options.drain_timeout));
            self.h2.graceful_shutdown();
        }
    }

    /// Ends the connection with all its streams.
    fn shut(&mut self, reason: Reason) {
        let _ = self.shared.cut.set(Cut::Local);
        self.closing = Some(Timer::after(GRACE));
        self.service.event(ConnectionEvent::GoawaySent);
        self.h2.abrupt_shutdown(reason);
    }

    async fn abort(&mut self) {
        let _ = self.shared.cut.set(Cut::Local);
        self.hangs_up = true;
        self.service.event(ConnectionEvent::GoawaySent);
        self.h2.abrupt_shutdown(Reason::NO_ERROR);
        // Once, for the GOAWAY: a peer that does not read is not waited for.
        poll_fn(|cx| {
            let _ = self.h2.poll_end(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Whether the connection must be polled again because a drain began.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> bool {
        let (Some(timer), Some(timeout)) = (&mut self.idle, self.shared.options.idle_timeout) else {
            return false;
        };
        while timer.poll(cx).is_ready() {
            let now = clock::now();
            let active = self.shared.streams.load(Ordering::Relaxed) > 0;
            let last_end = Duration::from_millis(self.shared.last_end.load(Ordering::Relaxed));
            let due = if active { now } else { self.shared.started + last_end } + timeout;
            if due <= now {
                self.drain();
                return true;
            }
            timer.rearm(due);
        }
        false
    }

    fn poll_max_age(&mut self, cx: &mut Context<'_>) -> bool {
        let expired = self.max_age.as_mut().is_some_and(|timer| timer.poll(cx).is_ready());
        if expired {
            self.max_age = None;
            // The timer is also that of a connection that waits for its first stream before it leaves.
            if !self.leaving {
                self.service.event(ConnectionEvent::MaxDuration);
            }
            self.drain();
        }
        expired
    }
}
