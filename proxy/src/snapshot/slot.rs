//! A cluster as it arrived: bytes now, the runtime form when first used (D5).

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use remora_xds::stats::Watching;
use remora_xds::{Resource, Source};

use crate::cluster::Cluster;
use crate::cluster::discovery::Discovery;
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
    /// Has the updates of its endpoints counted, once it is built.
    watching: OnceLock<Box<Watching>>,
}

/// A `ClusterLoadAssignment`, and when it came: that is when its time begins (`endpoint_stale_after`), whenever it is first used.
#[derive(Clone)]
pub struct Assignment {
    pub resource: Arc<Resource>,
    pub arrived: Instant,
}

impl Assignment {
    /// One that comes now.
    pub fn new(resource: Arc<Resource>) -> Self {
        Self {
            resource,
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
            watching: OnceLock::new(),
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
        endpoints.as_ref().map(|assignment| assignment.resource.bytes.clone())
    }

    /// Replaces the endpoints; equal bytes change nothing, but make endpoints young again that age.
    ///
    /// # Errors
    /// The assignment cannot be used; the old one stays. Never after [`config::endpoint::check`](crate::config::endpoint::check).
    pub fn set_endpoints(&self, assignment: Assignment) -> Compiled<()> {
        let mut endpoints = self.endpoints.lock();
        let bytes = &assignment.resource.bytes;
        let is_same = endpoints.as_ref().is_some_and(|known| known.resource.bytes == *bytes);
        if is_same && !crate::config::endpoint::age(bytes) {
            return Ok(());
        }
        if let Some(cluster) = self.built.get() {
            let stays = update(cluster, &assignment)?;
            // Equal bytes were counted when they came.
            if stays && !is_same {
                cluster.stats.subscription().counters.had_no_effect();
            }
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
            self.subscribe(&cluster);
            if let Some(assignment) = &*endpoints {
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

impl ClusterSlot {
    /// From now on the updates of the cluster's endpoints are counted.
    fn subscribe(&self, cluster: &Cluster) {
        let key = self.assigned.as_deref();
        let source = key.map_or(Some(&Source::Ads), |key| key.source.as_deref());
        let (Discovery::Eds, Some(source)) = (&cluster.discovery, source) else {
            return;
        };
        let counters = &cluster.stats.subscription().counters;
        // A file is not asked; each reading of it is an attempt.
        if !matches!(source, Source::Path(_)) {
            counters.subscribed();
        }
        let name = key.map_or(&self.name, |key| &key.name);
        self.watching
            .get_or_init(|| Box::new(self.context.xds.watch(source, name, counters.clone())));
    }
}

impl Drop for ClusterSlot {
    fn drop(&mut self) {
        if let Some(cluster) = self.built.get() {
            cluster.retire();
        }
    }
}

/// Returns whether the hosts stay as they are.
fn update(cluster: &Cluster, assignment: &Assignment) -> Compiled<bool> {
    let stays = cluster.update_endpoints_of(&assignment.resource.bytes, assignment.arrived)?;
    // It may have come before the first use.
    cluster.stats.subscription().counters.catch_up(&assignment.resource);
    Ok(stays)
}

#[cfg(test)]
mod tests;
