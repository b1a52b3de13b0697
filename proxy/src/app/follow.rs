//! From the xDS client's publications to the workers: build, publish, apply listeners.

use std::sync::Arc;

use remora_xds::{ClientHandle, ResourceType};

use super::ProxyControl;
use super::secret_files::SecretFiles;
use crate::listener::ListenerManager;
use crate::listener::manager::OnBindError;
use crate::snapshot::build::{Applied, Builder};

/// Runs until the client stops. The proxy is live once `last_root` is initialised.
pub(super) async fn follow(
    handle: ClientHandle,
    mut builder: Builder,
    manager: Arc<ListenerManager>,
    control: Arc<ProxyControl>,
    last_root: ResourceType,
) {
    let Ok(mut updates) = handle.updates().await else {
        return;
    };
    let mut files = SecretFiles::new(builder.secrets());
    while updates.changed().await {
        let update = updates.take();
        let initialized = update.initialized.contains(&last_root);
        // Compiling a push must not hold up admin and health checks.
        let built = tokio::task::spawn_blocking(move || {
            let applied = builder.apply(update.changes);
            builder.publish();
            (builder, applied)
        })
        .await;
        let Ok((next, applied)) = built else {
            tracing::error!("building the configuration panicked: the last one stays");
            return;
        };
        builder = next;
        files.follow();
        apply_listeners(&builder, &manager, applied);
        if initialized {
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
