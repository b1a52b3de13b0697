//! What a start waits for before it accepts: the names of static clusters (`wait_for_warm_on_init`), and the first checks of their hosts.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{ProxyControl, StartError};
use crate::cluster::Cluster;
use crate::listener::manager::OnBindError;
use crate::listener::{ListenerConfig, ListenerManager};
use crate::runtime::spawn::spawn;
use crate::snapshot::Snapshot;

/// The static listeners, and the clusters that hold them up.
pub(super) struct Warming {
    clusters: Vec<Arc<Cluster>>,
    listeners: Vec<Arc<ListenerConfig>>,
    manager: Arc<ListenerManager>,
}

impl Warming {
    /// Starts the listeners, or takes their addresses for as long as clusters are waited for.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub(super) fn begin(snapshot: &Snapshot, manager: &Arc<ListenerManager>) -> Result<Self, StartError> {
        let built = snapshot.clusters.iter().filter_map(|(_, slot)| slot.built());
        let warming = Self {
            clusters: built.filter(|cluster| !cluster.is_warm()).cloned().collect(),
            listeners: snapshot
                .listeners
                .iter()
                .map(|(_, listener)| listener.clone())
                .collect(),
            manager: manager.clone(),
        };
        if warming.is_over() {
            let listeners = warming.listeners.iter().cloned();
            manager
                .apply(listeners, OnBindError::ApplyNothing)
                .map_err(StartError::Bind)?;
            return Ok(warming);
        }
        for listener in &warming.listeners {
            let refused = |reason| StartError::Reserve(format!("listener '{}': {reason}", listener.name));
            manager.reserve(listener).map_err(refused)?;
        }
        Ok(warming)
    }

    /// Whether nothing is waited for.
    pub(super) fn is_over(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Waits until every name was asked for and every host checked, whatever came of it; then the listeners accept.
    pub(super) async fn finish(self) {
        if self.is_over() {
            return;
        }
        join_all(self.clusters.iter().map(|cluster| cluster.warm())).await;
        let applied = self.manager.apply(self.listeners, OnBindError::ApplyOthers);
        for error in applied.err().into_iter().flatten() {
            tracing::error!(%error, "listener not started");
        }
    }
}

/// Follows the control plane as soon as nothing is waited for; without one, the proxy is live then.
pub(super) fn go_on(
    warming: Warming,
    follow: Option<impl Future<Output = ()> + Send + 'static>,
    control: &Arc<ProxyControl>,
) -> Option<tokio::task::JoinHandle<()>> {
    let control = control.clone();
    match follow {
        // What is waited for may need secrets of the control plane: who follows it starts the listeners, too.
        Some(follow) => Some(spawn("configuration", follow)),
        None if warming.is_over() => {
            control.set_live();
            None
        }
        None => Some(spawn("static listeners", async move {
            warming.finish().await;
            control.set_live();
        })),
    }
}
