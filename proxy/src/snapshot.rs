//! What the workers serve from: one immutable [`Snapshot`] behind one `ArcSwap`.
//!
//! In: consistent resource sets from `xds::store` and static ones. Out: listeners, route tables and clusters by name. Publishing shares
//! everything that did not change; a cluster or virtual host is built by the first request that needs it.

pub mod build;
pub mod last_routes;
pub mod sharded;
pub mod slot;

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

pub use sharded::ShardedMap;
pub use slot::ClusterSlot;

use crate::cluster::Cluster;
use crate::config::sources::ResourceKey;
use crate::listener::ListenerConfig;
use crate::route::RouteTable;

/// One consistent configuration. Cheap to clone: shards are shared.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Goes up with every publication.
    pub generation: u64,
    pub listeners: ShardedMap<Arc<ListenerConfig>>,
    /// Few next to clusters: a mesh has one for each port.
    pub routes: Arc<HashMap<ResourceKey, Arc<RouteTable>>>,
    pub clusters: ShardedMap<Arc<ClusterSlot>>,
    /// Names of clusters whose newest version warms: what stands under them in `clusters`, if anything, is an older one.
    pub warming: Arc<HashSet<Arc<str>>>,
}

impl Snapshot {
    /// The cluster called `name`, built now if this is its first use. `None`: there is no such cluster (or it still warms).
    pub fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.get(name)?.cluster()
    }
}

/// The cell that publications go into and workers read from.
pub type SnapshotCell = arc_swap::ArcSwap<Snapshot>;
