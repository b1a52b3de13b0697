//! From the xDS client's publications to the workers: build, publish, apply listeners.

use std::collections::HashSet;
use std::sync::Arc;

use remora_xds::{ClientHandle, ResourceType, Update, types};

use super::ProxyControl;
use super::secret_files::SecretFiles;
use crate::admin::{Notes, Publication};
use crate::listener::ListenerManager;
use crate::listener::manager::OnBindError;
use crate::runtime::clock;
use crate::snapshot::build::{Applied, Builder};

/// What the proxy waits for before it is live.
pub(super) struct Awaited {
    /// CDS or LDS, whichever comes last.
    pub root: Option<ResourceType>,
    /// Static resources that refer to dynamic ones: each is published when those have come, or did not come in time.
    pub pins: HashSet<Arc<str>>,
}

impl Awaited {
    fn note(&mut self, update: &Update) {
        if self.root.is_some_and(|root| update.initialized.contains(&root)) {
            self.root = None;
        }
        let pinned = update.changes.iter().filter(|change| *change.ty == types::PINNED);
        for change in pinned {
            self.pins.remove(&change.name);
        }
    }

    fn is_over(&self) -> bool {
        self.root.is_none() && self.pins.is_empty()
    }
}

/// Runs until the client stops. The proxy is live once nothing is awaited any more.
pub(super) async fn follow(
    handle: ClientHandle,
    mut builder: Builder,
    manager: Arc<ListenerManager>,
    control: Arc<ProxyControl>,
    notes: Arc<Notes>,
    mut awaited: Awaited,
) {
    let Ok(mut updates) = handle.updates().await else {
        return;
    };
    let mut files = SecretFiles::new(builder.secrets());
    while updates.changed().await {
        let update = updates.take();
        awaited.note(&update);
        let (changes, started) = (update.changes.len(), clock::now());
        // Compiling a push must not hold up admin and health checks.
        let built = tokio::task::spawn_blocking(move || {
            let applied = builder.apply(update.changes);
            let generation = builder.publish().generation;
            (builder, applied, generation)
        })
        .await;
        let Ok((next, applied, generation)) = built else {
            tracing::error!("building the configuration panicked: the last one stays");
            return;
        };
        builder = next;
        files.follow();
        apply_listeners(&builder, &manager, applied);
        if changes > 0 {
            notes.published(Publication {
                generation,
                changes,
                build: clock::now().saturating_duration_since(started),
            });
        }
        if awaited.is_over() {
            control.set_live();
        }
    }
}

fn apply_listeners(builder: &Builder, manager: &ListenerManager, applied: Applied) {
    if !applied.listeners {
        return;
    }
    let listeners = builder
        .snapshot()
        .listeners
        .iter()
        .map(|(_, listener)| listener.clone());
    for error in manager
        .apply(listeners, OnBindError::ApplyOthers)
        .err()
        .into_iter()
        .flatten()
    {
        tracing::error!(%error, "listener not applied");
    }
}
