//! Clusters, their endpoints, and those that warm beside what stands under their name.
//!
//! A cluster with health checks is built when it comes (the checks are traffic that its owner has asked for), and is published when each of its
//! hosts has had one.

use std::sync::Arc;

use bytes::Bytes;
use remora_xds::{Resource, Source};

use super::{Builder, ClusterSlot};
use crate::config::cluster::ClusterNeeds;
use crate::config::sources::ResourceKey;
use crate::config::{Compiled, Problems, cluster};
use crate::snapshot::slot::Assignment;

impl Builder {
    pub(super) fn set_assignment(&mut self, key: &ResourceKey, resource: Option<Arc<Resource>>) -> Compiled<()> {
        // A removed assignment stays with its cluster until the cluster goes (spec A.7).
        let Some(resource) = resource else {
            self.assignments.remove(key);
            return Ok(());
        };
        let assignment = Assignment::new(resource);
        self.assignments.insert(key.clone(), assignment.clone());
        let own = Some(&key.name).filter(|name| is_own(key, name));
        let mut problems = Problems::default();
        for cluster in self.assigned.get(key).into_iter().flatten().chain(own) {
            for slot in self.slots(cluster).filter(|slot| wants(slot, key)) {
                problems.keep(slot.set_endpoints(assignment.clone()));
            }
        }
        problems.into_result()
    }

    pub(super) fn set_cluster(&mut self, name: &Arc<str>, resource: Option<Arc<Resource>>) -> Compiled<()> {
        let needed = match resource {
            None => None,
            Some(resource) => Some((cluster::needs(&resource.bytes)?, resource)),
        };
        self.forget_assigned(name);
        match needed {
            None => {
                let warmed = self.warming.remove(name).is_some();
                let served = self.snapshot.clusters.remove(name).is_some();
                if served {
                    self.clusters -= 1;
                }
                if served || warmed {
                    self.stats.cluster_removed.inc();
                }
            }
            Some((needs, resource)) => {
                let slot = self.slot(name, resource.bytes.clone(), Some(resource), &needs);
                let has_checks = slot.built().is_some_and(|cluster| !cluster.health_checks.is_empty());
                if has_checks && slot.built().is_some_and(|cluster| !cluster.is_warm()) {
                    self.warming.insert(name.clone(), slot);
                } else {
                    self.warming.remove(name);
                    self.inherit(&slot);
                    self.install(slot);
                }
            }
        }
        self.learn_assigned(name);
        self.note_warming();
        Ok(())
    }

    /// A cluster of the bootstrap. What it waits for holds up the start.
    pub(super) fn put_static(&mut self, name: &Arc<str>, bytes: Bytes, needs: &ClusterNeeds) {
        let slot = self.slot(name, bytes, None, needs);
        self.install(slot);
        self.learn_assigned(name);
    }

    /// Whether clusters are waited for at the start: those that warm, and those of the bootstrap that have come to their first hosts since.
    pub fn is_cold(&self) -> bool {
        let is_cold = |slot: &ClusterSlot| slot.built().is_some_and(|cluster| !cluster.is_warm());
        !self.warming.is_empty() || self.snapshot.clusters.iter().any(|(_, slot)| is_cold(slot))
    }

    /// Takes clusters that are warm into what is published next; how many.
    pub fn take_warm(&mut self) -> usize {
        let is_warm = |slot: &ClusterSlot| slot.built().is_none_or(|cluster| cluster.is_warm());
        let warm = self.warming.iter().filter(|(_, slot)| is_warm(slot));
        let warm: Vec<Arc<str>> = warm.map(|(name, _)| name.clone()).collect();
        for name in &warm {
            self.forget_assigned(name);
            if let Some(slot) = self.warming.remove(name) {
                self.install(slot);
            }
            self.learn_assigned(name);
        }
        self.note_warming();
        warm.len()
    }

    fn note_warming(&mut self) {
        if !(self.warming.is_empty() && self.snapshot.warming.is_empty()) {
            self.snapshot.warming = Arc::new(self.warming.keys().cloned().collect());
        }
        self.context.hosts.set_warming(self.warming.len() as u64);
    }

    /// The cluster with its newest endpoints, and counted.
    fn slot(
        &mut self,
        name: &Arc<str>,
        bytes: Bytes,
        resource: Option<Arc<Resource>>,
        needs: &ClusterNeeds,
    ) -> Arc<ClusterSlot> {
        let eds = needs.eds.as_ref();
        let key = eds.map(|(assigned, source)| self.context.sources.key_of(assigned, Some(source)));
        let assignment = key.as_ref().and_then(|key| self.assignments.get(key)).cloned();
        let mut slot = ClusterSlot::new(name.clone(), bytes, self.context.clone());
        slot.resource = resource;
        slot.assigned = key.filter(|key| !is_own(key, name)).map(Box::new);
        if let Some(assignment) = assignment {
            // An unbuilt slot takes any bytes.
            let _ = slot.set_endpoints(assignment);
        }
        // Nobody sends it requests, and others follow its hosts.
        let is_local = self.context.hosts.local().is_some_and(|local| local.name() == &**name);
        if needs.eager || is_local {
            // A failure is logged, and is the answer of whoever uses the cluster.
            let _ = slot.cluster();
        }
        match self.slots(name).next().is_some() {
            true => self.stats.cluster_modified.inc(),
            false => self.stats.cluster_added.inc(),
        }
        Arc::new(slot)
    }

    /// Hosts of the version before, for as long as names have to be asked for.
    fn inherit(&self, slot: &ClusterSlot) {
        let previous = self.snapshot.clusters.get(&slot.name);
        let previous = previous.and_then(|previous| previous.built());
        if let (Some(built), Some(previous)) = (slot.built(), previous) {
            built.inherit(previous);
        }
    }

    fn install(&mut self, slot: Arc<ClusterSlot>) {
        if self.snapshot.clusters.insert(slot.name.clone(), slot).is_none() {
            self.clusters += 1;
        }
    }

    /// All versions of a cluster: what is published, what warms.
    fn slots(&self, name: &str) -> impl Iterator<Item = &Arc<ClusterSlot>> {
        let published = self.snapshot.clusters.get(name);
        published.into_iter().chain(self.warming.get(name))
    }

    fn learn_assigned(&mut self, name: &Arc<str>) {
        for key in self.keys(name) {
            self.assigned.entry(key).or_default().push(name.clone());
        }
    }

    fn forget_assigned(&mut self, name: &str) {
        for key in self.keys(name) {
            if let Some(clusters) = self.assigned.get_mut(&key) {
                clusters.retain(|cluster| &**cluster != name);
                if clusters.is_empty() {
                    self.assigned.remove(&key);
                }
            }
        }
    }

    /// The assignments for the cluster that do not come over ADS under its own name, each once.
    fn keys(&self, name: &str) -> Vec<ResourceKey> {
        let assigned = self.slots(name).filter_map(|slot| slot.assigned.as_deref());
        let mut keys: Vec<ResourceKey> = assigned.cloned().collect();
        keys.dedup();
        keys
    }
}

/// Whether an assignment is what the cluster `name` has if it says nothing else.
fn is_own(key: &ResourceKey, name: &str) -> bool {
    key.source.as_deref() == Some(&Source::Ads) && &*key.name == name
}

fn wants(slot: &ClusterSlot, key: &ResourceKey) -> bool {
    match &slot.assigned {
        None => is_own(key, &slot.name),
        Some(assigned) => **assigned == *key,
    }
}
