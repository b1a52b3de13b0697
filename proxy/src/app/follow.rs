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
use crate::runtime::spawn::contained;
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
        let started = clock::now();
        // Sorting and compiling a push must not hold up admin and health checks.
        let built = tokio::task::spawn_blocking(move || {
            let update = updates.take();
            awaited.note(&update);
            let changes = update.changes.len();
            let applied = builder.apply(update.changes);
            // What one change breaks is contained in `apply`; nothing of that may end the following of the control plane.
            let generation = contained(|| builder.publish().generation);
            ((builder, updates, awaited), changes, applied, generation)
        })
        .await;
        let Ok((kept, changes, applied, generation)) = built else {
            tracing::error!("the runtime ends: no more configuration is followed");
            return;
        };
        (builder, updates, awaited) = kept;
        files.follow();
        for line in &applied.unusable {
            notes.unusable(line.clone());
        }
        let applied = contained(|| apply_listeners(&builder, &manager, &applied)).and(generation);
        match applied {
            Ok(generation) if changes > 0 => notes.published(Publication {
                generation,
                changes,
                build: clock::now().saturating_duration_since(started),
            }),
            Ok(_) => {}
            Err(panic) => {
                tracing::error!(%panic, "the configuration could not be put to use: the last one stays");
                notes.unusable(format!("a whole push: {panic}"));
            }
        }
        control.note_change();
        if awaited.is_over() {
            control.set_live();
        }
    }
}

fn apply_listeners(builder: &Builder, manager: &ListenerManager, applied: &Applied) {
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
