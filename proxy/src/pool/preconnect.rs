//! Connections before they are needed: `preconnect_policy`.
//!
//! A pool that serves (or has waiting) so many streams is to have room for as many times the ratio: looked at whenever a stream comes. The
//! predictive ratio does the same for the cluster as a whole, ahead of the stream that comes, at the hosts that are likely to be next.
//! Counts are those of this thread, as Envoy's are.

use std::sync::Arc;

use super::{Asked, Offer, PoolKey, connect, local, room};
use crate::cluster::host::Health;
use crate::cluster::{Cluster, Host};
use crate::http::exchange::Protocol;

/// `PreconnectPolicy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preconnect {
    /// 1 is no connection more than streams need.
    pub per_upstream: f64,
    /// 0 when unset: nothing is predicted.
    pub predictive: f64,
}

/// Connections that one stream may cause, Envoy's bound.
const AT_ONCE: usize = 3;

/// Streams of a pool (or of all of a cluster's), and how many its connections could carry.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Served, or waiting to be.
    pub streams: u64,
    /// Of connections that are up or on their way.
    pub capacity: u64,
}

impl Load {
    /// Envoy's `shouldConnect`; `coming` streams are expected besides.
    fn is_short(self, ratio: f64, coming: u64) -> bool {
        (self.streams + coming) as f64 * ratio > self.capacity as f64
    }

    fn plus(self, other: Self) -> Self {
        Self {
            streams: self.streams + other.streams,
            capacity: self.capacity.saturating_add(other.capacity),
        }
    }
}

/// A stream is about to go to a host that was picked: the hosts after it may need connections.
pub(super) fn predict(cluster: &Arc<Cluster>, picked: PoolKey, downstream: Protocol, asked: Asked<'_>) {
    let Some(policy) = cluster.preconnect.filter(|policy| policy.predictive > 0.0) else {
        return;
    };
    for ahead in 0..AT_ONCE {
        let all = room::keys(cluster.id)
            .iter()
            .map(load)
            .fold(Load::default(), Load::plus);
        if !all.is_short(policy.predictive, 1) {
            return;
        }
        let Some(host) = cluster.peek(ahead, &mut || fastrand::u64(..)) else {
            return;
        };
        let (key, offer) = super::key_of(cluster, &host, picked.high_priority, downstream, asked, picked.source);
        let key = PoolKey {
            downstream: picked.downstream,
            ..key
        };
        if host.state.health() != Health::Healthy || !load(&key).is_short(policy.predictive, 1) {
            return;
        }
        if !connect::ahead(key, cluster, &host, offer) {
            return;
        }
    }
}

/// A stream has come to the pool: are there connections for the next ones?
pub(super) fn keep_ahead(key: &PoolKey, cluster: &Arc<Cluster>, host: &Arc<Host>, offer: Offer<'_>) {
    let Some(policy) = cluster.preconnect.filter(|policy| policy.per_upstream > 1.0) else {
        return;
    };
    for _ in 0..AT_ONCE {
        // A host that is not well shall not work for streams that may never come.
        if host.state.health() != Health::Healthy || !load(key).is_short(policy.per_upstream, 0) {
            return;
        }
        if !connect::ahead(*key, cluster, host, offer) {
            return;
        }
    }
}

fn load(key: &PoolKey) -> Load {
    let room = room::occupancy(key);
    let (idle, active, carried, shared) = local::occupancy(key);
    if room::is_exclusive(key) {
        // Those that nobody uses or waits for are idle, or were opened ahead.
        let spare = u64::from(room.ahead) + idle;
        return Load {
            streams: u64::from(room.connections).saturating_sub(spare) + u64::from(room.waiting),
            capacity: u64::from(room.connections),
        };
    }
    // What a connection on its way will carry is not known yet; it will do for the streams that wait now.
    let coming = u64::from(room.connections).saturating_sub(shared);
    Load {
        streams: active + u64::from(room.pending),
        capacity: carried.saturating_add(coming.saturating_mul(ASSUMED_STREAMS)),
    }
}

/// Envoy takes a connection for that until the peer's SETTINGS say otherwise.
const ASSUMED_STREAMS: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_short_as_envoy_counts_it() {
        let load = |streams, capacity| Load { streams, capacity };
        // Without a policy: one connection per stream.
        assert!(load(1, 0).is_short(1.0, 0) && !load(1, 1).is_short(1.0, 0));
        // 1.5: the first stream has a spare connection, the third makes five.
        assert!(load(1, 1).is_short(1.5, 0) && !load(1, 2).is_short(1.5, 0));
        assert!(load(3, 4).is_short(1.5, 0) && !load(3, 5).is_short(1.5, 0));
        // Predicting counts the stream that comes.
        assert!(load(0, 1).is_short(2.0, 1) && !load(0, 2).is_short(2.0, 1));
    }
}
