//! Where a connection belongs: its pool, and everything that is counted while it lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::room::{self, Slot};
use super::{Origin, PoolKey, Wanted, local};
use crate::cluster::{Cluster, ClusterStats, Host};
use crate::http::codec::h1::client::Closed;
use crate::http::codec::{h1, h2};
use crate::http::failure::Failure;
use crate::runtime::clock;
use crate::runtime::io::Account;

/// One connection's home; dropped counts are given back exactly once.
pub(super) struct ConnectionHome {
    pub key: PoolKey,
    pub cluster: Arc<Cluster>,
    pub host: Arc<Host>,
    idle_timeout: Option<Duration>,
    pub origin: Arc<Origin>,
    opened: Instant,
    closed: AtomicBool,
    /// Whether its old age was counted.
    worn: AtomicBool,
    /// Sent over it so far.
    requests: AtomicU64,
    /// Whether its request (HTTP/1) has a place among the cluster's.
    is_placed: AtomicBool,
    /// Streams of HTTP/2 so far.
    begun: AtomicU32,
    /// Bytes of the last read: Envoy's gauge of what is buffered holds them until the next.
    last_read: AtomicU64,
    /// Streams of HTTP/2 that have not ended.
    streams: AtomicU32,
    /// When the last of them ended, in milliseconds since it was opened.
    last_end: AtomicU64,
    /// [`HostState::drain_epoch`](crate::cluster::HostState::drain_epoch) when it was opened.
    epoch: u32,
    _slot: Slot,
}

impl ConnectionHome {
    /// Counts a connection that is up.
    pub fn open(key: PoolKey, cluster: &Arc<Cluster>, host: &Arc<Host>, origin: Origin, slot: Slot) -> Arc<Self> {
        let stats = &cluster.stats;
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        host.state.cx_total.fetch_add(1, Ordering::Relaxed);
        host.state.cx_active.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            key,
            cluster: cluster.clone(),
            host: host.clone(),
            idle_timeout: cluster.http.idle_timeout,
            origin: Arc::new(origin),
            opened: clock::now(),
            closed: AtomicBool::new(false),
            worn: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            is_placed: AtomicBool::new(false),
            begun: AtomicU32::new(0),
            last_read: AtomicU64::new(0),
            streams: AtomicU32::new(0),
            last_end: AtomicU64::new(0),
            epoch: host.state.drain_epoch(),
            _slot: slot,
        })
    }

    /// Whether requests may still use the connection: its cluster is still in use, its host still one of the cluster's and did not fail since
    /// it was opened, and it is not worn out.
    pub fn is_wanted(&self) -> bool {
        self.is_usable() && self.host.state.is_member() && !self.cluster.is_retired()
    }

    /// Whether a request that chose this host may use the connection. The host may have left since: then nobody else will choose it.
    pub fn is_usable(&self) -> bool {
        !self.is_worn() && self.host.state.drain_epoch() == self.epoch
    }

    /// Whether it is older than `max_connection_duration`.
    pub fn is_worn(&self) -> bool {
        let limit = self.cluster.http.max_connection_duration;
        limit.is_some_and(|limit| clock::now().saturating_duration_since(self.opened) >= limit)
    }

    /// Counts, once, that it has come to its `max_connection_duration`, if it has.
    pub fn count_if_worn(&self) {
        if self.is_worn() && !self.worn.swap(true, Ordering::Relaxed) {
            self.cluster.stats.upstream_cx_max_duration_reached.inc();
        }
    }

    /// A request goes over it; whether it is the first.
    pub fn count_request(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Takes a place among the cluster's requests (`max_requests`), counted if there is none. A tunnel of bytes is no request.
    fn admit(&self) -> bool {
        if self.key.protocol == Wanted::Raw {
            return true;
        }
        let is_admitted = self.cluster.breakers.begin_request(room::priority(&self.key));
        if !is_admitted {
            self.cluster.stats.upstream_rq_active_overflow.inc();
        }
        is_admitted
    }

    /// As [`Self::admit`], for the only request on the connection: its place is given back with the connection.
    pub fn admit_only(&self) -> bool {
        let is_admitted = self.admit();
        self.is_placed
            .store(is_admitted && self.key.protocol != Wanted::Raw, Ordering::Relaxed);
        is_admitted
    }

    fn end_only(&self) {
        if self.is_placed.swap(false, Ordering::Relaxed) {
            self.end();
        }
    }

    fn end(&self) {
        self.cluster.breakers.end_request(room::priority(&self.key));
    }

    /// Whether it may not be idle any longer at `now`, when it has been since `since`.
    pub fn is_expired(&self, now: Instant, since: Instant) -> bool {
        self.idle_timeout
            .is_some_and(|limit| now.saturating_duration_since(since) >= limit)
    }

    /// Since when it has had no stream, if it has none; of HTTP/2.
    pub fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.streams.load(Ordering::Relaxed) == 0;
        is_idle.then(|| self.opened + Duration::from_millis(self.last_end.load(Ordering::Relaxed)))
    }

    fn stream_ended(&self) {
        if self.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            let passed = clock::now().saturating_duration_since(self.opened).as_millis();
            self.last_end
                .store(u64::try_from(passed).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    fn close(&self, how: Closed) {
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        let stats = &self.cluster.stats;
        stats.upstream_cx_active.dec();
        count_destroyed(stats, how);
        stats
            .upstream_cx_length_ms
            .record(self.opened.elapsed().as_millis() as u64);
        stats.upstream_rq_per_cx.record(self.requests.load(Ordering::Relaxed));
        self.host.state.cx_active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Account for ConnectionHome {
    fn received(&self, bytes: u64) {
        let stats = &self.cluster.stats;
        stats.upstream_cx_rx_bytes_total.add(bytes);
        let before = self.last_read.swap(bytes, Ordering::Relaxed);
        stats.upstream_cx_rx_bytes_buffered.replace(before, bytes);
    }

    fn unsent(&self, before: u64, now: u64) {
        let stats = &self.cluster.stats;
        stats.upstream_cx_tx_bytes_buffered.replace(before, now);
        match (before, now) {
            (0, _) => stats.upstream_flow_control_backed_up_total.inc(),
            (_, 0) => stats.upstream_flow_control_drained_total.inc(),
            _ => {}
        }
    }

    fn sent(&self, bytes: u64) {
        self.cluster.stats.upstream_cx_tx_bytes_total.add(bytes);
    }
}

impl Drop for ConnectionHome {
    fn drop(&mut self) {
        self.close(Closed::default());
        let buffered = self.last_read.load(Ordering::Relaxed);
        self.cluster.stats.upstream_cx_rx_bytes_buffered.sub(buffered);
    }
}

/// Counts the end of a connection, as Envoy's `ActiveClient` does.
pub(crate) fn count_destroyed(stats: &ClusterStats, how: Closed) {
    stats.upstream_cx_destroy.inc();
    if how.remote {
        stats.upstream_cx_destroy_remote.inc();
    } else {
        stats.upstream_cx_destroy_local.inc();
    }
    if how.protocol_error {
        stats.upstream_cx_protocol_error.inc();
    }
    if how.announced {
        stats.upstream_cx_close_notify.inc();
    }
    if how.active {
        stats.upstream_cx_destroy_with_active_rq.inc();
        if how.remote {
            stats.upstream_cx_destroy_remote_with_active_rq.inc();
        } else {
            stats.upstream_cx_destroy_local_with_active_rq.inc();
        }
    }
}

/// A place among the cluster's requests for a stream that is about to begin. From then on it is the stream's.
pub struct Place {
    home: Arc<ConnectionHome>,
    is_streams: bool,
}

impl Place {
    /// `None` if there is none; counted.
    pub(super) fn take(home: &Arc<ConnectionHome>) -> Option<Self> {
        home.admit().then(|| Self {
            home: home.clone(),
            is_streams: false,
        })
    }

    pub(super) fn origin(&self) -> &Arc<Origin> {
        &self.home.origin
    }

    /// Runs a step of the sending, in which the stream may begin; nothing but this stream does then.
    pub(super) fn step<T>(&mut self, step: impl FnOnce() -> T) -> T {
        if self.is_streams {
            return step();
        }
        let before = self.home.begun.load(Ordering::Relaxed);
        let result = step();
        self.is_streams = self.home.begun.load(Ordering::Relaxed) != before;
        result
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_streams {
            self.home.end();
        }
    }
}

/// A HTTP/1 connection knows its home through this.
pub(super) struct H1Home(pub Arc<ConnectionHome>);

impl h1::client::Home for H1Home {
    fn release(&self, mut connection: Box<h1::ClientConnection>) {
        // Before the connection goes to a request that waits, and may need the place.
        self.0.end_only();
        let limit = self.0.cluster.http.max_requests_per_connection;
        if limit.is_some_and(|limit| connection.requests >= u64::from(limit)) {
            self.0.cluster.stats.upstream_cx_max_requests.inc();
            return;
        }
        self.0.count_if_worn();
        if !self.0.is_wanted() {
            return;
        }
        connection.idle_since = clock::now();
        local::put_idle(self.0.clone(), connection);
    }

    fn closed(&self, how: Closed) {
        self.0.end_only();
        self.0.close(how);
    }
}

/// A HTTP/2 connection tells its home that it is over.
pub(super) struct H2Home(pub Arc<ConnectionHome>);

impl h2::client::ClientHooks for H2Home {
    fn stream_began(&self) {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.streams.fetch_add(1, Ordering::Relaxed);
        self.0.cluster.stats.http2().streams_active.inc();
    }

    fn stream_ended(&self, outcome: h2::Outcome) {
        self.0.end();
        self.0.stream_ended();
        let stats = &self.0.cluster.stats;
        stats.http2().streams_active.dec();
        match outcome {
            h2::Outcome::Complete | h2::Outcome::Failed => {}
            h2::Outcome::Cancelled => {
                stats.upstream_rq_tx_reset.inc();
                stats.http2().tx_reset.inc();
            }
            h2::Outcome::Reset => {
                stats.upstream_rq_rx_reset.inc();
                stats.http2().rx_reset.inc();
            }
            h2::Outcome::Refused => stats.http2().rx_reset.inc(),
        }
        room::wake(&self.0.key);
    }

    fn worn_out(&self) {
        self.0.cluster.stats.upstream_cx_max_requests.inc();
    }

    fn ping_unanswered(&self) {
        self.0.cluster.stats.http2().keepalive_timeout.inc();
    }

    fn closed(&self, failure: Option<Failure>) {
        self.0.close(Closed {
            remote: !matches!(failure, Some(Failure::LocalReset | Failure::ProtocolError(_))),
            protocol_error: matches!(failure, Some(Failure::ProtocolError(_))),
            active: failure.is_some(),
            announced: false,
        });
    }
}
