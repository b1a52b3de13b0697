//! A cluster as it arrived: bytes now, the runtime form when first used (D5).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::config::{BuildContext, Compiled};

/// One named cluster of a snapshot. Its configuration never changes (a changed one is another slot), its endpoints do.
pub struct ClusterSlot {
    pub name: Arc<str>,
    pub config: Bytes,
    context: Arc<BuildContext>,
    /// The newest endpoint assignment. Held while building, so that a cluster is never seen without it.
    endpoints: Mutex<Option<Bytes>>,
    built: OnceLock<Arc<Cluster>>,
}

impl ClusterSlot {
    /// `config` is an encoded `Cluster` that [`config::cluster::needs`](crate::config::cluster::needs) has let pass.
    pub fn new(name: Arc<str>, config: Bytes, context: Arc<BuildContext>) -> Self {
        Self {
            name,
            config,
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
        self.endpoints.lock().clone()
    }

    /// Replaces the endpoints by an encoded `ClusterLoadAssignment`; equal bytes change nothing, but make endpoints young again that age.
    ///
    /// # Errors
    /// The assignment cannot be used; the old one stays. Never after [`config::endpoint::check`](crate::config::endpoint::check).
    pub fn set_endpoints(&self, assignment: Bytes) -> Compiled<()> {
        let mut endpoints = self.endpoints.lock();
        if endpoints.as_ref() == Some(&assignment) && !crate::config::endpoint::age(&assignment) {
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

fn update(cluster: &Cluster, assignment: &[u8]) -> Compiled<()> {
    cluster.update_endpoints(assignment)?;
    cluster.stats.update_attempt.inc();
    cluster.stats.update_success.inc();
    Ok(())
}

#[cfg(test)]
mod tests;
