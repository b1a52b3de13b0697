//! `http.admin.` and `listener.admin.`: the admin server's own connections and requests, as a connection manager and a listener count theirs.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use axum::serve::Listener;
use http::StatusCode;
use tokio::net::{TcpListener, UnixListener};

use super::log::Ends;
use crate::http::stats::{HcmStats, ListenerHttpStats, OpenConnection};
use crate::listener::stats::{ListenerStats, WorkerStats};
use crate::runtime::clock;
use crate::runtime::io::{Account, Io};
use crate::telemetry::stats::Stats;

/// A socket whose connections are counted.
pub(super) struct Counting<L> {
    inner: L,
    stats: Arc<HcmStats>,
    listener: Arc<ListenerStats>,
    thread: Arc<WorkerStats>,
}

impl<L> Counting<L> {
    pub fn new(inner: L, stats: &Stats) -> Self {
        Self {
            inner,
            stats: stats.group("http.admin."),
            listener: stats.group("listener.admin."),
            thread: stats.group("listener.admin.main_thread."),
        }
    }

    fn count(&self, io: Io) -> Io {
        let open = self.stats.open_connection(None);
        open.speaks_http1();
        self.listener.downstream_pre_cx_active.touch();
        self.listener.connections_accepted_per_socket_event.record(1);
        self.listener.downstream_cx_total.inc();
        self.listener.downstream_cx_active.inc();
        self.thread.downstream_cx_total.inc();
        self.thread.downstream_cx_active.inc();
        io.metered(Arc::new(Counted {
            open,
            listener: self.listener.clone(),
            thread: self.thread.clone(),
            since: clock::now(),
        }))
    }
}

/// A connection in the books of the manager and of the listener.
struct Counted {
    open: Arc<OpenConnection>,
    listener: Arc<ListenerStats>,
    thread: Arc<WorkerStats>,
    since: Instant,
}

impl Account for Counted {
    fn received(&self, bytes: u64) {
        self.open.received(bytes);
    }

    fn sent(&self, bytes: u64) {
        self.open.sent(bytes);
    }

    fn unsent(&self, before: u64, now: u64) {
        self.open.unsent(before, now);
    }

    fn ended_by_peer(&self) {
        self.open.ended_by_peer();
    }

    fn ended_by_us(&self) {
        self.open.ended_by_us();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.listener.downstream_cx_active.dec();
        self.listener.downstream_cx_destroy.inc();
        self.thread.downstream_cx_active.dec();
        let lived = clock::now().saturating_duration_since(self.since).as_millis();
        self.listener
            .downstream_cx_length_ms
            .record(u64::try_from(lived).unwrap_or(u64::MAX));
    }
}

impl Listener for Counting<TcpListener> {
    type Io = Io;
    type Addr = Ends;

    async fn accept(&mut self) -> (Io, Ends) {
        let (stream, remote) = Listener::accept(&mut self.inner).await;
        let ends = Ends::of_tcp(stream.local_addr().ok(), remote);
        (self.count(Io::Tcp(stream)), ends)
    }

    fn local_addr(&self) -> io::Result<Ends> {
        let local = self.inner.local_addr()?;
        Ok(Ends::of_tcp(Some(local), local))
    }
}

impl Listener for Counting<UnixListener> {
    type Io = Io;
    type Addr = Ends;

    async fn accept(&mut self) -> (Io, Ends) {
        let (stream, _) = Listener::accept(&mut self.inner).await;
        let ends = Ends::of_unix(stream.local_addr().ok());
        (self.count(Io::Unix(stream)), ends)
    }

    fn local_addr(&self) -> io::Result<Ends> {
        self.inner.local_addr().map(|local| Ends::of_unix(Some(local)))
    }
}

/// A request under way; one that is dropped without an answer is only no longer active.
pub(super) struct CountedRequest {
    stats: Arc<HcmStats>,
    of_listener: Arc<ListenerHttpStats>,
    started: Instant,
}

impl CountedRequest {
    /// Admin requests are rare: the groups are looked up by each.
    pub fn begin(stats: &Stats) -> Self {
        let stats = CountedRequest {
            stats: stats.group("http.admin."),
            of_listener: stats.group("listener.admin.http.admin."),
            started: clock::now(),
        };
        stats.stats.downstream_rq_total.inc();
        stats.stats.downstream_rq_http1_total.inc();
        stats.stats.downstream_rq_active.inc();
        stats
    }

    pub fn answer(self, status: StatusCode) {
        self.stats.count_answer(status, &self.of_listener);
        let took = clock::now().saturating_duration_since(self.started);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.stats.downstream_rq_time.record(millis);
    }
}

impl Drop for CountedRequest {
    fn drop(&mut self) {
        self.stats.downstream_rq_active.dec();
    }
}
