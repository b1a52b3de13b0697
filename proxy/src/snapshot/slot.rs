//! A cluster as it arrived: bytes now, the runtime form when first used (D5).

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::config::sources::ResourceKey;
use crate::config::{BuildContext, Compiled};
use crate::runtime::clock;

/// One named cluster of a snapshot. Its configuration never changes (a changed one is another slot), its endpoints do.
pub struct ClusterSlot {
    pub name: Arc<str>,
    pub config: Bytes,
    /// Its endpoint assignment, if that does not come over ADS under its own name.
    pub assigned: Option<Box<ResourceKey>>,
    /// What the control plane sent; `None` for a cluster of the bootstrap.
    pub resource: Option<Arc<remora_xds::Resource>>,
    context: Arc<BuildContext>,
    /// The newest endpoint assignment. Held while building, so that a cluster is never seen without it.
    endpoints: Mutex<Option<Assignment>>,
    built: OnceLock<Arc<Cluster>>,
}

/// An encoded `ClusterLoadAssignment`, and when it came: that is when its time begins (`endpoint_stale_after`), whenever it is first used.
#[derive(Clone)]
pub struct Assignment {
    pub bytes: Bytes,
    pub arrived: Instant,
}

impl Assignment {
    /// One that comes now.
    pub fn new(bytes: Bytes) -> Self {
        Self {
            bytes,
            arrived: clock::now(),
        }
    }
}

impl ClusterSlot {
    /// `config` is an encoded `Cluster` that [`config::cluster::needs`](crate::config::cluster::needs) has let pass.
    pub fn new(name: Arc<str>, config: Bytes, context: Arc<BuildContext>) -> Self {
        Self {
            name,
            config,
            assigned: None,
            resource: None,
            context,
            endpoints: Mutex::default(),
            built: OnceLock::new(),
        }
    }

    /// The cluster, built now if this is its first use.
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        match self.built.get() {
            Some(cluster) => Some(cluster.clone()),
            None => self.build(),
        }
    }

    /// The cluster if somebody has used it; never builds it.
    pub fn built(&self) -> Option<&Arc<Cluster>> {
        self.built.get()
    }

    /// The endpoint assignment as it arrived.
    pub fn endpoints(&self) -> Option<Bytes> {
        let endpoints = self.endpoints.lock();
        endpoints.as_ref().map(|assignment| assignment.bytes.clone())
    }

    /// Replaces the endpoints; equal bytes change nothing, but make endpoints young again that age.
    ///
    /// # Errors
    /// The assignment cannot be used; the old one stays. Never after [`config::endpoint::check`](crate::config::endpoint::check).
    pub fn set_endpoints(&self, assignment: Assignment) -> Compiled<()> {
        let mut endpoints = self.endpoints.lock();
        let is_same = endpoints.as_ref().is_some_and(|known| known.bytes == assignment.bytes);
        if is_same && !crate::config::endpoint::age(&assignment.bytes) {
            if let Some(cluster) = self.built.get() {
                cluster.stats.update_attempt.inc();
                cluster.stats.update_success.inc();
                cluster.stats.update_no_rebuild.inc();
            }
            return Ok(());
        }
        if let Some(cluster) = self.built.get() {
            update(cluster, &assignment)?;
            // These endpoints may be the first with a time limit.
            self.context.hosts.enroll(cluster);
        }
        *endpoints = Some(assignment);
        Ok(())
    }

    fn build(&self) -> Option<Arc<Cluster>> {
        let endpoints = self.endpoints.lock();
        if let Some(cluster) = self.built.get() {
            return Some(cluster.clone());
        }
        let built = crate::config::cluster::compile(&self.config, &self.context).and_then(|cluster| {
            if let Some(assignment) = &*endpoints {
                // Envoy counts the subscription itself as an attempt.
                cluster.stats.update_attempt.inc();
                update(&cluster, assignment)?;
            }
            Ok(Arc::new(cluster))
        });
        match built {
            Ok(cluster) => {
                self.context.hosts.enroll(&cluster);
                Some(self.built.get_or_init(|| cluster).clone())
            }
            Err(problems) => {
                tracing::error!(cluster = %self.name, %problems, "cluster cannot be built");
                None
            }
        }
    }
}

impl Drop for ClusterSlot {
    fn drop(&mut self) {
        if let Some(cluster) = self.built.get() {
            cluster.retire();
        }
    }
}

fn update(cluster: &Cluster, assignment: &Assignment) -> Compiled<()> {
    cluster.update_endpoints_of(&assignment.bytes, assignment.arrived)?;
    cluster.stats.update_attempt.inc();
    cluster.stats.update_success.inc();
    Ok(())
}

#[cfg(test)]
mod tests;
