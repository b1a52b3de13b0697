//! Requests in flight, for the gauges of their cluster and host.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Cluster, Host, HostState};

/// A request in flight, for the cluster's and the host's gauges; over when dropped.
pub struct ActiveRequest {
    cluster: Arc<Cluster>,
    host: Arc<HostState>,
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
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_active.dec();
        self.host.rq_active.fetch_sub(1, Ordering::Relaxed);
    }
}
