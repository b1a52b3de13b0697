//! Requests in flight, for the gauges of their cluster and host.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::bugs::{Bug, planted};
use super::{Cluster, Host, HostState};
use crate::http::outcome::Outcome;

/// A request in flight, for the cluster's and the host's gauges; over when dropped.
pub struct ActiveRequest {
    cluster: Arc<Cluster>,
    host: Arc<HostState>,
    /// What its answer's head tells of the host, for as long as nobody has decided what becomes of the answer.
    outcome: Option<Outcome>,
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
            outcome: None,
        }
    }

    /// The head of its response is there.
    pub fn answered(mut self, host: &Host, outcome: Outcome, now: Instant) -> Self {
        self.outcome = Some(outcome);
        self.cluster.observe_response(host, outcome, now);
        self
    }

    /// The answer is the one for the client: it counts for the host. Where only its trailers will tell how, gives the host that waits for them.
    pub fn stands(&mut self) -> Option<&Arc<HostState>> {
        match self.outcome.take()?.success {
            Some(success) => {
                self.host.count_outcome(success);
                None
            }
            None => Some(&self.host),
        }
    }

    /// Another attempt takes the place of the answer: whatever its status, the host has failed.
    pub fn superseded(&mut self) {
        if self.outcome.take().is_some() {
            self.host.count_outcome(false);
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_active.dec();
        if !planted(Bug::ActiveLeaks) {
            self.host.rq_active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
