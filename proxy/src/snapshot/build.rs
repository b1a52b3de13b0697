//! From resource changes to the next snapshot.
//!
//! In: static resources once, then changes in a safe order (what is referred to comes before what refers). Out: one publication per batch; what did not
//! change is shared with the one before. Runs on a blocking thread: nothing here may be waited for by a worker.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use remora_proto::wire;
use remora_xds::{Change, ResourceType, Source, types};

use super::{ClusterSlot, Snapshot};
use crate::config::sources::ResourceKey;
use crate::config::{BuildContext, Compiled, Problems, cluster, listener};
use crate::listener::ListenerConfig;
use crate::route::RouteTable;
use crate::runtime::spawn::contained;
use crate::telemetry::server::ClusterManagerStats;

/// Owns the configuration that is being built; workers see what it publishes.
pub struct Builder {
    context: Arc<BuildContext>,
    snapshot: Snapshot,
    /// The newest endpoint assignments, also of clusters that are not here (yet).
    assignments: HashMap<ResourceKey, Bytes>,
    /// The clusters of assignments that do not come over ADS under their cluster's own name.
    assigned: HashMap<ResourceKey, Vec<Arc<str>>>,
    /// Static listeners that wait for what they refer to.
    waiting: HashMap<Arc<str>, Arc<ListenerConfig>>,
    /// Clusters in the snapshot that is being built.
    clusters: u64,
    stats: Arc<ClusterManagerStats>,
}

/// What a batch did, for whoever acts on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Some listener came, changed or went.
    pub listeners: bool,
    /// What was accepted and could not be used after all, and why: our bugs, for people to see.
    pub unusable: Vec<String>,
}

impl Builder {
    pub fn new(context: Arc<BuildContext>) -> Self {
        Self {
            stats: context.stats.group("cluster_manager."),
            clusters: 0,
            context,
            snapshot: Snapshot::default(),
            assignments: HashMap::new(),
            assigned: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// Where delivered secrets go.
    pub fn secrets(&self) -> Arc<crate::tls::SecretStore> {
        self.context.secrets.clone()
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Adds a cluster of the bootstrap.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn add_cluster(&mut self, bytes: Bytes) -> Compiled<cluster::ClusterNeeds> {
        let needs = cluster::needs(&bytes)?;
        if self.snapshot.clusters.get(&needs.name).is_some() {
            return Err(Problems::one("name", format!("duplicate cluster '{}'", needs.name)));
        }
        self.put_cluster(Arc::from(needs.name.as_str()), bytes, &needs);
        Ok(needs)
    }

    /// Adds a listener of the bootstrap; `hold`: it is not served before [`Self::release`].
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn add_listener(&mut self, bytes: &[u8], hold: bool) -> Compiled<Arc<ListenerConfig>> {
        let config = Arc::new(listener::compile(bytes, &self.context)?);
        let name = config.name.clone();
        if self.snapshot.listeners.get(&name).is_some() || self.waiting.contains_key(&name) {
            return Err(Problems::one("name", format!("duplicate listener '{name}'")));
        }
        if hold {
            self.waiting.insert(name, config.clone());
        } else {
            self.snapshot.listeners.insert(name, config.clone());
        }
        Ok(config)
    }

    /// What the held listener refers to is there. Says whether there was one.
    pub fn release(&mut self, name: &str) -> bool {
        let Some(config) = self.waiting.remove(name) else {
            return false;
        };
        self.snapshot.listeners.insert(config.name.clone(), config);
        true
    }

    /// Applies one batch of changes, in its order. A resource that was accepted does not fail here; if one does, by a panic even, its last good
    /// form stays, the log says so, and the rest of the batch goes on.
    pub fn apply(&mut self, changes: Vec<Change>) -> Applied {
        let mut applied = Applied::default();
        for change in changes {
            let bytes = change.resource.map(|resource| resource.bytes.clone());
            let (ty, key) = (
                change.ty,
                ResourceKey {
                    source: Some(change.source),
                    name: change.name,
                },
            );
            let name = &key.name;
            let result = match contained(|| self.apply_one(ty, &key, bytes, &mut applied.listeners)) {
                Ok(result) => result.map_err(|problems| problems.to_string()),
                Err(panic) => Err(panic),
            };
            if let Err(problems) = result {
                tracing::error!(kind = ty.url, %name, problems, "an accepted resource cannot be used");
                applied.unusable.push(format!("{} {name}: {problems}", ty.short));
            }
        }
        applied
    }

    /// `listeners` becomes true if some listener came, changed or went.
    fn apply_one(
        &mut self,
        ty: ResourceType,
        key: &ResourceKey,
        bytes: Option<Bytes>,
        listeners: &mut bool,
    ) -> Compiled<()> {
        if *ty == types::SECRET {
            self.context.secrets.deliver(key, bytes.as_ref())
        } else if *ty == types::ASSIGNMENT {
            self.set_assignment(key, bytes)
        } else if *ty == types::CLUSTER {
            self.set_cluster(&key.name, bytes)
        } else if *ty == types::ROUTE {
            self.set_routes(key, bytes)
        } else if *ty == types::LISTENER {
            *listeners = true;
            self.set_listener(&key.name, bytes)
        } else if *ty == types::PINNED {
            *listeners |= key
                .name
                .strip_prefix(LISTENER_OWNER)
                .is_some_and(|name| self.release(name));
            Ok(())
        } else {
            Ok(())
        }
    }

    /// Makes what was built so far visible to the workers.
    pub fn publish(&mut self) -> Arc<Snapshot> {
        self.snapshot.generation += 1;
        self.stats.active_clusters.set(self.clusters);
        let snapshot = Arc::new(self.snapshot.clone());
        self.context.snapshot.store(snapshot.clone());
        snapshot
    }

    fn set_assignment(&mut self, key: &ResourceKey, bytes: Option<Bytes>) -> Compiled<()> {
        // A removed assignment stays with its cluster until the cluster goes (spec A.7).
        let Some(bytes) = bytes else {
            self.assignments.remove(key);
            return Ok(());
        };
        self.assignments.insert(key.clone(), bytes.clone());
        let own = self.snapshot.clusters.get(&key.name);
        if let Some(slot) = own.filter(|slot| is_own(key) && names_own(&key.name, &slot.config)) {
            slot.set_endpoints(bytes.clone())?;
        }
        for cluster in self.assigned.get(key).into_iter().flatten() {
            if let Some(slot) = self.snapshot.clusters.get(cluster) {
                slot.set_endpoints(bytes.clone())?;
            }
        }
        Ok(())
    }

    fn set_cluster(&mut self, name: &Arc<str>, bytes: Option<Bytes>) -> Compiled<()> {
        self.forget_assigned(name);
        match bytes {
            None => {
                if self.snapshot.clusters.remove(name).is_some() {
                    self.stats.cluster_removed.inc();
                    self.clusters -= 1;
                }
            }
            Some(bytes) => {
                let needs = cluster::needs(&bytes)?;
                self.put_cluster(name.clone(), bytes, &needs);
            }
        }
        Ok(())
    }

    fn put_cluster(&mut self, name: Arc<str>, bytes: Bytes, needs: &cluster::ClusterNeeds) {
        let eds = needs.eds.as_ref();
        let key = eds.map(|(assigned, source)| self.context.sources.key_of(assigned, Some(source)));
        let assignment = key.as_ref().and_then(|key| self.assignments.get(key)).cloned();
        let slot = ClusterSlot::new(name.clone(), bytes, self.context.clone());
        if let Some(assignment) = assignment {
            // An unbuilt slot takes any bytes.
            let _ = slot.set_endpoints(assignment);
        }
        // Nobody sends it requests, and others follow its hosts.
        let is_local = self.context.hosts.local().is_some_and(|local| local.name() == &*name);
        if needs.eager || is_local {
            let built = slot.cluster();
            let previous = self.snapshot.clusters.get(&name).and_then(|previous| previous.built());
            if let (Some(built), Some(previous)) = (built, previous) {
                built.inherit(previous);
            }
        }
        if let Some(key) = key.filter(|key| !is_own(key) || key.name != name) {
            self.assigned.entry(key).or_default().push(name.clone());
        }
        if self.snapshot.clusters.insert(name, Arc::new(slot)).is_some() {
            self.stats.cluster_modified.inc();
        } else {
            self.stats.cluster_added.inc();
            self.clusters += 1;
        }
    }

    fn forget_assigned(&mut self, name: &str) {
        let slot = self.snapshot.clusters.get(name);
        let Some(slot) = slot.filter(|slot| !names_own(name, &slot.config)) else {
            return;
        };
        let needs = cluster::needs(&slot.config).ok();
        let Some((assigned, source)) = needs.and_then(|needs| needs.eds) else {
            return;
        };
        let key = self.context.sources.key_of(&assigned, Some(&source));
        if let Some(clusters) = self.assigned.get_mut(&key) {
            clusters.retain(|cluster| &**cluster != name);
            if clusters.is_empty() {
                self.assigned.remove(&key);
            }
        }
    }

    fn set_routes(&mut self, key: &ResourceKey, bytes: Option<Bytes>) -> Compiled<()> {
        match bytes {
            None => {
                Arc::make_mut(&mut self.snapshot.routes).remove(key);
            }
            Some(bytes) => {
                let table = RouteTable::parse(bytes, &self.context)?;
                Arc::make_mut(&mut self.snapshot.routes).insert(key.clone(), Arc::new(table));
            }
        }
        Ok(())
    }

    fn set_listener(&mut self, name: &Arc<str>, bytes: Option<Bytes>) -> Compiled<()> {
        match bytes {
            None => {
                self.snapshot.listeners.remove(name);
            }
            Some(bytes) => {
                let config = listener::compile(&bytes, &self.context)?;
                self.snapshot.listeners.insert(name.clone(), Arc::new(config));
            }
        }
        Ok(())
    }
}

/// Owner names of static listeners whose references are pinned start with this.
pub const LISTENER_OWNER: &str = "listener/";

/// Whether an assignment is of the cluster that is called as it is, if that one says nothing else.
fn is_own(key: &ResourceKey) -> bool {
    key.source.as_deref() == Some(&Source::Ads)
}

/// Whether the cluster `name` wants the assignment of that name, over ADS.
fn names_own(name: &str, cluster: &[u8]) -> bool {
    // `Cluster.eds_cluster_config`, its `service_name` and `eds_config`, and `ads` of that.
    const EDS_CLUSTER_CONFIG: u32 = 3;
    const EDS_CONFIG: u32 = 1;
    const SERVICE_NAME: u32 = 2;
    const ADS: u32 = 3;
    fn field(message: Option<&[u8]>, number: u32) -> Option<&[u8]> {
        wire::bytes_field(message?, number).ok().flatten()
    }
    let config = field(Some(cluster), EDS_CLUSTER_CONFIG);
    let service = field(config, SERVICE_NAME).unwrap_or_default();
    let is_ads = field(field(config, EDS_CONFIG), ADS).is_some();
    is_ads && (service.is_empty() || service == name.as_bytes())
}
