//! `http.admin.`: the admin server's own connections and requests, as a connection manager counts its own.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use axum::serve::Listener;
use http::StatusCode;
use tokio::net::{TcpListener, UnixListener};

use super::log::Ends;
use crate::http::stats::{HcmStats, ListenerHttpStats};
use crate::runtime::clock;
use crate::runtime::io::Io;
use crate::telemetry::stats::Stats;

/// A socket whose connections are counted.
pub(super) struct Counting<L> {
    inner: L,
    stats: Arc<HcmStats>,
}

impl<L> Counting<L> {
    pub fn new(inner: L, stats: &Stats) -> Self {
        Self {
            inner,
            stats: stats.group("http.admin."),
        }
    }

    fn count(&self, io: Io) -> Io {
        let open = self.stats.open_connection(false);
        open.speaks_http1();
        io.metered(open)
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
