//! Host states by cluster and host, and the clusters that want to be maintained.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::Cluster;
use super::host::{HostKey, HostState};
use super::lb::LocalCluster;
use crate::runtime::clock;

/// Host states by (cluster name, host); an entry lives as long as somebody holds its state. Also where clusters that were
/// built anywhere announce themselves to [`maintain`](super::maintain::maintain).
#[derive(Default)]
pub struct HostRegistry {
    states: Mutex<HashMap<Arc<str>, HashMap<HostKey, Weak<HostState>>>>,
    enrolled: Mutex<Vec<Weak<Cluster>>>,
    changed: tokio::sync::Notify,
    warmed: tokio::sync::Notify,
    /// How many clusters warm beside what is published.
    warming: AtomicU64,
    local: OnceLock<LocalCluster>,
}

impl HostRegistry {
    /// The states of `hosts` in the cluster called `cluster`, in their order; new ones where none is held any more.
    pub fn states(&self, cluster: &Arc<str>, hosts: impl Iterator<Item = HostKey>) -> Vec<Arc<HostState>> {
        let mut clusters = self.states.lock();
        let states = clusters.entry(cluster.clone()).or_default();
        states.retain(|_, state| state.strong_count() > 0);
        let mut found = Vec::with_capacity(hosts.size_hint().0);
        for host in hosts {
            if let Some(state) = states.get(&host).and_then(Weak::upgrade) {
                found.push(state);
                continue;
            }
            let state = Arc::new(HostState::new());
            states.insert(host, Arc::downgrade(&state));
            found.push(state);
        }
        found
    }

    /// Forgets a cluster whose host states are all gone.
    pub(super) fn sweep(&self, cluster: &str) {
        let mut clusters = self.states.lock();
        if let Some(states) = clusters.get_mut(cluster) {
            states.retain(|_, state| state.strong_count() > 0);
            if states.is_empty() {
                clusters.remove(cluster);
            }
        }
    }

    /// Hands a cluster that needs timers, DNS or health checks to the maintenance task, once. Callable from any thread.
    pub fn enroll(&self, cluster: &Arc<Cluster>) {
        if let Some(local) = &cluster.lb.local
            && !cluster.follows.swap(true, Ordering::Relaxed)
        {
            local.follow(cluster, clock::now());
        }
        if !cluster.needs_maintenance() || cluster.enrolled.swap(true, Ordering::Relaxed) {
            return;
        }
        self.enrolled.lock().push(Arc::downgrade(cluster));
        self.changed.notify_one();
    }

    /// Some cluster waits for nothing any more.
    pub(super) fn note_warm(&self) {
        self.warmed.notify_one();
    }

    /// Completes when some cluster was found warm since the last call; for the one task that publishes clusters. Cancel safe.
    pub async fn warmed(&self) {
        self.warmed.notified().await;
    }

    pub fn set_warming(&self, clusters: u64) {
        self.warming.store(clusters, Ordering::Relaxed);
    }

    /// See [`Self::set_warming`].
    pub fn warming(&self) -> u64 {
        self.warming.load(Ordering::Relaxed)
    }

    /// Names the local cluster; the first call counts.
    pub fn set_local(&self, local: LocalCluster) {
        let _ = self.local.set(local);
    }

    /// The cluster of sidecars like this one, if the bootstrap names it.
    pub fn local(&self) -> Option<&LocalCluster> {
        self.local.get()
    }

    pub(super) fn take_enrolled(&self) -> Vec<Weak<Cluster>> {
        std::mem::take(&mut *self.enrolled.lock())
    }

    /// Completes when something was enrolled since the last call. Cancel safe.
    pub(super) async fn enrolled(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::io::Address;

    #[test]
    fn a_state_lives_as_long_as_somebody_holds_it() {
        let registry = HostRegistry::default();
        let name: Arc<str> = Arc::from("c");
        let host = || std::iter::once((Address::Ip(([127, 0, 0, 1], 80).into()), 0));
        let first = registry.states(&name, host());
        let again = registry.states(&name, host());
        let elsewhere = registry.states(&Arc::from("d"), host());
        assert!(Arc::ptr_eq(&first[0], &again[0]));
        assert!(!Arc::ptr_eq(&first[0], &elsewhere[0]));
        let twin = registry.states(&name, host().map(|(address, _)| (address, 1)));
        assert!(!Arc::ptr_eq(&first[0], &twin[0]));
        let id = first[0].id;
        drop((first, again));
        assert_ne!(registry.states(&name, host())[0].id, id);
        registry.sweep("c");
        drop((elsewhere, twin));
        registry.sweep("d");
        registry.sweep("c");
        assert!(registry.states.lock().is_empty());
    }
}
