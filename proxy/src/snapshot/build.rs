//! From resource changes to the next snapshot.
//!
//! In: static resources once, then changes in a safe order (what is referred to comes before what refers). Out: one publication per batch; what did not
//! change is shared with the one before. Runs on a blocking thread: nothing here may be waited for by a worker.

mod clusters;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use remora_xds::{Change, Resource, ResourceType, types};

use super::slot::Assignment;
use super::{ClusterSlot, Snapshot};
use crate::cluster::host::HostRegistry;
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
    assignments: HashMap<ResourceKey, Assignment>,
    /// The clusters of assignments that do not come over ADS under their cluster's own name.
    assigned: HashMap<ResourceKey, Vec<Arc<str>>>,
    /// Clusters whose hosts have not all had their first check; what stands under their names serves until then.
    warming: HashMap<Arc<str>, Arc<ClusterSlot>>,
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
            warming: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// Where delivered secrets go.
    pub fn secrets(&self) -> Arc<crate::tls::SecretStore> {
        self.context.secrets.clone()
    }

    /// Where clusters say that they are warm.
    pub fn hosts(&self) -> Arc<HostRegistry> {
        self.context.hosts.clone()
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
        self.put_static(&Arc::from(needs.name.as_str()), bytes, &needs);
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
            let ty = change.ty;
            let key = ResourceKey {
                source: Some(change.source),
                name: change.name,
            };
            let name = &key.name;
            let result = match contained(|| self.apply_one(ty, &key, change.resource, &mut applied.listeners)) {
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
        resource: Option<Arc<Resource>>,
        listeners: &mut bool,
    ) -> Compiled<()> {
        let bytes = resource.as_ref().map(|resource| resource.bytes.clone());
        if *ty == types::SECRET {
            self.context.secrets.deliver(key, bytes.as_ref())
        } else if *ty == types::ASSIGNMENT {
            self.set_assignment(key, resource)
        } else if *ty == types::CLUSTER {
            self.set_cluster(&key.name, resource)
        } else if *ty == types::ROUTE {
            self.set_routes(key, bytes)
        } else if *ty == types::LISTENER {
            *listeners = true;
            self.set_listener(&key.name, resource)
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

    fn set_routes(&mut self, key: &ResourceKey, bytes: Option<Bytes>) -> Compiled<()> {
        match bytes {
            None => {
                let last = Arc::make_mut(&mut self.snapshot.routes).remove(key);
                if let Some(last) = last {
                    self.context.last_routes.keep(key, last);
                }
            }
            Some(bytes) => {
                let table = RouteTable::parse(bytes, &self.context)?;
                Arc::make_mut(&mut self.snapshot.routes).insert(key.clone(), Arc::new(table));
            }
        }
        Ok(())
    }

    fn set_listener(&mut self, name: &Arc<str>, resource: Option<Arc<Resource>>) -> Compiled<()> {
        match resource {
            None => {
                self.snapshot.listeners.remove(name);
            }
            Some(resource) => {
                let mut config = listener::compile(&resource.bytes, &self.context)?;
                config.resource = Some(resource);
                self.snapshot.listeners.insert(name.clone(), Arc::new(config));
            }
        }
        Ok(())
    }
}

/// Owner names of static listeners whose references are pinned start with this.
pub const LISTENER_OWNER: &str = "listener/";
