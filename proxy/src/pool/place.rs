//! A place for a connection that whoever wants it makes himself (`tcp_proxy`): within the same breakers and in the same line as requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::room::{self, Slot};
use crate::cluster::breaker::{Permit, RoutingPriority};
use crate::cluster::{Cluster, Host};
use crate::http::failure::Failure;
use crate::tcp::connect::OriginalSource;

/// One connection's place, given back on drop.
pub struct Place {
    _slot: Slot,
}

/// Somebody who wants a connection to the host and has none yet.
pub struct Queued {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    _permit: Permit,
}

/// A place for a connection to `host`. Where there is none, waits until another connection of this thread to it ends; the first one always has
/// a place.
///
/// # Errors
/// [`Failure::QueueOverflow`] when so many wait that nobody else may; counted.
///
/// # Cancel safety
/// Dropping the future gives up the place in line.
pub async fn place(
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    source: Option<OriginalSource>,
) -> Result<(Queued, Place), Failure> {
    let key = super::raw_key(cluster, host, false, None, source);
    let Some(permit) = cluster.breakers.try_pending(RoutingPriority::Default) else {
        cluster.stats.upstream_rq_pending_overflow.inc();
        return Err(Failure::QueueOverflow);
    };
    let queued = Queued::new(cluster, host, permit);
    let mut waited = false;
    loop {
        if let Some(slot) = room::claim(&key, cluster, host)? {
            return Ok((queued, Place { _slot: slot }));
        }
        // Connections without a protocol are never given back, so that there is nothing to get but the turn.
        drop(room::wait(&key, waited).comes().await);
        waited = true;
    }
}

impl Queued {
    fn new(cluster: &Arc<Cluster>, host: &Arc<Host>, permit: Permit) -> Self {
        cluster.stats.upstream_rq_pending_total.inc();
        cluster.stats.upstream_rq_pending_active.inc();
        host.state.rq_pending_active.fetch_add(1, Ordering::Relaxed);
        Self {
            cluster: cluster.clone(),
            host: host.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_pending_active.dec();
        self.host.state.rq_pending_active.fetch_sub(1, Ordering::Relaxed);
    }
}
