//! Requests in flight, for the gauges of their cluster and host.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Cluster, Host, HostState};
use crate::http::outcome::Outcome;

/// A request in flight, for the cluster's and the host's gauges; over when dropped.
pub struct ActiveRequest {
    cluster: Arc<Cluster>,
    host: Arc<HostState>,
    /// Whether it went well, only the trailers will tell.
    awaits_trailers: bool,
}

impl ActiveRequest {
    pub fn start(cluster: &Arc<Cluster>, host: &Arc<Host>) -> Self {
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        host.state.rq_total.fetch_add(1, Ordering::Relaxed);
        host.state.rq_active.fetch_add(1, Ordering::Relaxed);
        Self {
            cluster: cluster.clone(),
            host: host.state.clone(),
            awaits_trailers: false,
        }
    }

    /// The head of its response is there: what that tells counts for the host.
    pub fn answered(mut self, host: &Host, outcome: Outcome, now: Instant) -> Self {
        self.awaits_trailers = outcome.success.is_none();
        self.cluster.observe_response(host, outcome, now);
        self
    }

    /// The host for which the trailers count, if they do.
    pub fn judged_by_trailers(&self) -> Option<&Arc<HostState>> {
        self.awaits_trailers.then_some(&self.host)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_active.dec();
        self.host.rq_active.fetch_sub(1, Ordering::Relaxed);
    }
}
