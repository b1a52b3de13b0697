//! One upstream connection in the books, and the bytes that pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::TcpStats;
use crate::cluster::{ActiveRequest, Cluster, Host};
use crate::http::codec::h1::client::Closed;
use crate::http::exchange::ByteCounts;
use crate::pool::home::count_destroyed;
use crate::pool::place::{Place, Queued};
use crate::runtime::clock;
use crate::runtime::drain::DrainSignal;
use crate::tcp::copy::{Meter, Side};

/// What an upstream connection counts as, for as long as it lives.
pub(super) struct Lease {
    pub(super) cluster: Arc<Cluster>,
    pub(super) started: Instant,
    kind: Kind,
}

enum Kind {
    /// Of our own: this is where it is counted.
    Connection(Box<Connection>),
    /// A request over a pooled connection, which is counted by the pool.
    Request { _active: ActiveRequest },
}

/// A connection of our own: a request waits for it, and has it for as long as it stands.
struct Connection {
    host: Arc<Host>,
    /// Until it stands.
    queued: Option<Queued>,
    request: Option<ActiveRequest>,
    /// [`HostState::drain_epoch`](crate::cluster::HostState::drain_epoch) when it was wanted.
    epoch: u32,
    /// The host has ended it; else we did.
    by_host: AtomicBool,
    _place: Place,
}

impl Lease {
    pub(super) fn connection(queued: Queued, place: Place, cluster: &Arc<Cluster>, host: &Arc<Host>) -> Self {
        cluster.stats.upstream_cx_total.inc();
        cluster.stats.upstream_cx_active.inc();
        host.state.cx_total.fetch_add(1, Ordering::Relaxed);
        host.state.cx_active.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            host: host.clone(),
            queued: Some(queued),
            request: None,
            epoch: host.state.drain_epoch(),
            by_host: AtomicBool::new(false),
            _place: place,
        };
        Self::new(cluster, Kind::Connection(Box::new(connection)))
    }

    /// The connection stands: a TCP tunnel is one request to Envoy's books too.
    pub(super) fn established(&mut self) {
        if let Kind::Connection(connection) = &mut self.kind {
            connection.request = Some(ActiveRequest::start(&self.cluster, &connection.host));
            connection.queued = None;
        }
    }

    /// Completes when the host is found to be ill, where connections are closed then (`close_connections_on_host_health_failure`). Those that
    /// belong to a pool of HTTP are not: they take no more requests.
    pub(super) async fn host_fails(&self) {
        match &self.kind {
            Kind::Connection(connection) if self.cluster.closes_on_host_failure => {
                connection.host.state.failed_since(connection.epoch).await;
            }
            _ => std::future::pending().await,
        }
    }

    /// It is the host that ends it.
    pub(super) fn ends_by_host(&self) {
        if let Kind::Connection(connection) = &self.kind {
            connection.by_host.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn request(cluster: &Arc<Cluster>, host: &Arc<Host>) -> Self {
        let _active = ActiveRequest::start(cluster, host);
        Self::new(cluster, Kind::Request { _active })
    }

    fn new(cluster: &Arc<Cluster>, kind: Kind) -> Self {
        Self {
            cluster: cluster.clone(),
            started: clock::now(),
            kind,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Kind::Connection(connection) = &self.kind else {
            return;
        };
        let stats = &self.cluster.stats;
        stats.upstream_cx_active.dec();
        let active = connection.request.is_some();
        if !active {
            stats.upstream_rq_pending_failure_eject.inc();
        }
        let remote = connection.by_host.load(Ordering::Relaxed);
        let closed = Closed {
            remote,
            active,
            protocol_error: false,
            announced: false,
        };
        count_destroyed(stats, closed);
        let length = clock::now().saturating_duration_since(self.started);
        stats
            .upstream_cx_length_ms
            .record(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        connection.host.state.cx_active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts what passes, in the proxy's, the cluster's and the connection's books.
pub(super) struct Bytes<'a> {
    stats: &'a TcpStats,
    lease: &'a Lease,
    /// Whether the connection is asked to leave, where that is looked at (`check_drain_close`).
    asks: Option<DrainSignal>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(stats: &'a TcpStats, lease: &'a Lease, asks: Option<DrainSignal>) -> Self {
        Self {
            stats,
            lease,
            asks,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    pub(super) fn report(&self, counts: &mut ByteCounts) {
        counts.received = self.received.load(Ordering::Relaxed);
        counts.sent = self.sent.load(Ordering::Relaxed);
    }
}

impl Meter for Bytes<'_> {
    fn leaves(&self) -> bool {
        self.asks.as_ref().is_some_and(DrainSignal::is_draining)
    }

    fn passed(&self, from: Side, bytes: u64) {
        let cluster = &self.lease.cluster.stats;
        let (total, ours, theirs) = match from {
            Side::Downstream => (
                &self.received,
                &self.stats.downstream_cx_rx_bytes_total,
                &cluster.upstream_cx_tx_bytes_total,
            ),
            Side::Upstream => (
                &self.sent,
                &self.stats.downstream_cx_tx_bytes_total,
                &cluster.upstream_cx_rx_bytes_total,
            ),
        };
        // One task writes it; the atomic only makes the future `Send`.
        total.store(total.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        ours.add(bytes);
        if matches!(self.lease.kind, Kind::Connection(_)) {
            theirs.add(bytes);
        }
    }
}
