//! Streams to a control plane in the statistics of the cluster that they go through, as those of Envoy's own gRPC clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::cluster::{Cluster, Host};
use crate::http::codec::h1::client::Closed;
use crate::http::codec::h2::Outcome;
use crate::http::codec::h2::client::ClientHooks;
use crate::http::failure::Failure;
use crate::pool::home::count_destroyed;
use crate::runtime::clock;
use crate::runtime::io::Account;

/// A request that waits for a connection; given up if it is dropped before it is told otherwise.
pub(super) struct Pending {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    started: Instant,
    is_over: bool,
}

impl Pending {
    pub(super) fn new(cluster: Arc<Cluster>, host: Arc<Host>) -> Self {
        cluster.stats.upstream_rq_pending_total.inc();
        cluster.stats.upstream_rq_pending_active.inc();
        host.state.rq_pending_active.fetch_add(1, Ordering::Relaxed);
        Self {
            cluster,
            host,
            started: clock::now(),
            is_over: false,
        }
    }

    /// The connection is there.
    pub(super) fn connected(mut self) -> Arc<Counted> {
        self.is_over = true;
        let (cluster, host) = (self.cluster.clone(), self.host.clone());
        let stats = &cluster.stats;
        stats.upstream_cx_connect_ms.record(millis(self.started));
        stats.upstream_cx_total.inc();
        stats.upstream_cx_http2_total.inc();
        stats.upstream_cx_active.inc();
        host.state.cx_total.fetch_add(1, Ordering::Relaxed);
        host.state.cx_active.fetch_add(1, Ordering::Relaxed);
        Arc::new(Counted {
            cluster,
            host,
            opened: clock::now(),
            requests: AtomicU64::new(0),
            is_silent: AtomicBool::new(false),
        })
    }

    /// There will be none. One that never was is a connection all the same, and the request is answered for its sake.
    pub(super) fn failed(mut self, failure: &Failure) {
        self.is_over = true;
        let (stats, host) = (&self.cluster.stats, &self.host);
        stats.upstream_cx_total.inc();
        stats.upstream_cx_http2_total.inc();
        stats.upstream_cx_connect_fail.inc();
        host.state.cx_total.fetch_add(1, Ordering::Relaxed);
        host.state.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
        let is_late = *failure == Failure::ConnectTimeout;
        if is_late {
            stats.upstream_cx_connect_timeout.inc();
        }
        let how = Closed {
            remote: !is_late && !matches!(failure, Failure::BindFailure(_)),
            ..Closed::default()
        };
        count_destroyed(stats, how);
        stats.upstream_rq_pending_failure_eject.inc();
        count_failure(&self.cluster, host, failure);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_pending_active.dec();
        self.host.state.rq_pending_active.fetch_sub(1, Ordering::Relaxed);
        if !self.is_over {
            self.cluster.stats.upstream_rq_cancelled.inc();
        }
    }
}

/// A connection in the cluster's statistics, and the requests on it.
pub(super) struct Counted {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    opened: Instant,
    requests: AtomicU64,
    /// Its peer does not answer: it is we who end it.
    is_silent: AtomicBool,
}

impl Counted {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.cluster.stats.upstream_rq_total.inc();
        self.host.state.rq_total.fetch_add(1, Ordering::Relaxed);
    }

    /// The head of a response.
    pub(super) fn answered(&self, status: u16) {
        self.cluster.stats.count_response(status, true, false);
    }

    /// There was none.
    pub(super) fn failed(&self, failure: &Failure) {
        count_failure(&self.cluster, &self.host, failure);
    }

    /// A response that has ended, which our request never does before: the rest of that is taken back.
    pub(super) fn ended(&self, is_success: bool) {
        self.cluster.stats.upstream_rq_tx_reset.inc();
        self.cluster.stats.http2().tx_reset.inc();
        self.host.state.count_outcome(is_success);
    }

    /// A response that was cut.
    pub(super) fn broke(&self) {
        self.host.state.count_outcome(false);
    }
}

/// What fails without an answer is answered by us, as the router does it.
fn count_failure(cluster: &Cluster, host: &Arc<Host>, failure: &Failure) {
    cluster
        .stats
        .count_response(failure.status(false).as_u16(), true, false);
    cluster.observe_failure(host, failure, clock::now());
}

impl Account for Counted {
    fn received(&self, bytes: u64) {
        self.cluster.stats.upstream_cx_rx_bytes_total.add(bytes);
    }

    fn sent(&self, bytes: u64) {
        self.cluster.stats.upstream_cx_tx_bytes_total.add(bytes);
    }
}

impl ClientHooks for Counted {
    fn stream_began(&self) {
        self.cluster.stats.upstream_rq_active.inc();
        self.cluster.stats.http2().streams_active.inc();
        self.host.state.rq_active.fetch_add(1, Ordering::Relaxed);
    }

    fn stream_ended(&self, outcome: Outcome) {
        let stats = &self.cluster.stats;
        stats.upstream_rq_active.dec();
        stats.http2().streams_active.dec();
        self.host.state.rq_active.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Outcome::Complete => {}
            Outcome::Cancelled => {
                stats.upstream_rq_tx_reset.inc();
                stats.http2().tx_reset.inc();
            }
            Outcome::Reset => {
                stats.upstream_rq_rx_reset.inc();
                stats.http2().rx_reset.inc();
            }
            Outcome::Refused => stats.http2().rx_reset.inc(),
            // With its connection.
            Outcome::Failed => stats.upstream_rq_pending_failure_eject.inc(),
        }
    }

    fn worn_out(&self) {
        self.cluster.stats.upstream_cx_max_requests.inc();
    }

    fn ping_unanswered(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
        self.cluster.stats.http2().keepalive_timeout.inc();
    }

    fn closed(&self, failure: Option<Failure>) {
        let stats = &self.cluster.stats;
        stats.upstream_cx_active.dec();
        self.host.state.cx_active.fetch_sub(1, Ordering::Relaxed);
        let is_ours = matches!(failure, Some(Failure::LocalReset | Failure::ProtocolError(_)));
        let how = Closed {
            remote: !is_ours && !self.is_silent.load(Ordering::Relaxed),
            protocol_error: matches!(failure, Some(Failure::ProtocolError(_))),
            active: failure.is_some(),
            announced: false,
        };
        count_destroyed(stats, how);
        stats.upstream_cx_length_ms.record(millis(self.opened));
        stats.upstream_rq_per_cx.record(self.requests.load(Ordering::Relaxed));
    }
}

fn millis(since: Instant) -> u64 {
    let passed = clock::now().saturating_duration_since(since);
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}
