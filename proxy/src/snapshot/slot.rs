//! A cluster as it arrived: bytes now, the runtime form when first used (D5).
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::cluster::Cluster;

/// One named cluster of a snapshot.
pub struct ClusterSlot {
    pub name: Arc<str>,
    pub config: Bytes,
    pub built: OnceLock<Arc<Cluster>>,
}

impl ClusterSlot {
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.built.get().cloned()
    }
}
