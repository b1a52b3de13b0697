//! Clusters, their endpoints, and those that warm beside what stands under their name.
//!
//! A cluster with health checks is built when it comes (the checks are traffic that its owner has asked for), and is published when each of its
//! hosts has had one.

use std::sync::Arc;

use bytes::Bytes;
use remora_proto::wire;

use super::{Builder, ClusterSlot};
use crate::config::{Compiled, cluster};
use crate::snapshot::slot::Assignment;

impl Builder {
    pub(super) fn set_assignment(&mut self, name: &Arc<str>, bytes: Option<Bytes>) -> Compiled<()> {
        // A removed assignment stays with its cluster until the cluster goes (spec A.7).
        let Some(bytes) = bytes else {
            self.assignments.remove(name);
            return Ok(());
        };
        let assignment = Assignment::new(bytes);
        self.assignments.insert(name.clone(), assignment.clone());
        let others = self.service_names.get(&**name).into_iter().flatten();
        for cluster in others.chain([name]) {
            for slot in self.slots(cluster).filter(|slot| service_of(slot) == &**name) {
                slot.set_endpoints(assignment.clone())?;
            }
        }
        Ok(())
    }

    pub(super) fn set_cluster(&mut self, name: &Arc<str>, bytes: Option<Bytes>) -> Compiled<()> {
        let eager = match &bytes {
            None => false,
            Some(bytes) => cluster::needs(bytes)?.eager,
        };
        self.forget_service_names(name);
        match bytes {
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
            Some(bytes) => {
                let slot = self.slot(name, bytes, eager);
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
        self.learn_service_names(name);
        self.note_warming();
        Ok(())
    }

    /// A cluster of the bootstrap. What it waits for holds up the start.
    pub(super) fn put_static(&mut self, name: &Arc<str>, bytes: Bytes, eager: bool) {
        let slot = self.slot(name, bytes, eager);
        self.install(slot);
        self.learn_service_names(name);
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
            self.forget_service_names(name);
            if let Some(slot) = self.warming.remove(name) {
                self.install(slot);
            }
            self.learn_service_names(name);
        }
        self.note_warming();
        warm.len()
    }

    fn note_warming(&self) {
        self.context.hosts.set_warming(self.warming.len() as u64);
    }

    /// The cluster with its newest endpoints, and counted.
    fn slot(&mut self, name: &Arc<str>, bytes: Bytes, eager: bool) -> Arc<ClusterSlot> {
        let service = service_name(&bytes).unwrap_or(name);
        let assignment = self.assignments.get(service).cloned();
        let slot = ClusterSlot::new(name.clone(), bytes, self.context.clone());
        if let Some(assignment) = assignment {
            // An unbuilt slot takes any bytes.
            let _ = slot.set_endpoints(assignment);
        }
        // Nobody sends it requests, and others follow its hosts.
        let is_local = self.context.hosts.local().is_some_and(|local| local.name() == &**name);
        if eager || is_local {
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

    fn learn_service_names(&mut self, name: &Arc<str>) {
        for service in self.services(name) {
            self.service_names.entry(service).or_default().push(name.clone());
        }
    }

    fn forget_service_names(&mut self, name: &str) {
        for service in self.services(name) {
            if let Some(clusters) = self.service_names.get_mut(&service) {
                clusters.retain(|cluster| &**cluster != name);
                if clusters.is_empty() {
                    self.service_names.remove(&service);
                }
            }
        }
    }

    /// The names of assignments for the cluster that are not its own, each once.
    fn services(&self, name: &str) -> Vec<String> {
        let services = self.slots(name).map(|slot| service_of(slot).to_owned());
        let mut services: Vec<String> = services.filter(|service| *service != name).collect();
        services.dedup();
        services
    }
}

/// What the cluster's assignment is called.
fn service_of(slot: &ClusterSlot) -> &str {
    service_name(&slot.config).unwrap_or(&slot.name)
}

/// `Cluster.eds_cluster_config.service_name`, if it is set.
fn service_name(cluster: &[u8]) -> Option<&str> {
    const EDS_CLUSTER_CONFIG: u32 = 3;
    const SERVICE_NAME: u32 = 2;
    let config = wire::bytes_field(cluster, EDS_CLUSTER_CONFIG).ok()??;
    let name = wire::bytes_field(config, SERVICE_NAME).ok()??;
    std::str::from_utf8(name).ok().filter(|name| !name.is_empty())
}
