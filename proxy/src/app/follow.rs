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

/// What came of one batch of changes, or of clusters that have become warm.
struct Done {
    /// Changes of the control plane, and clusters that were warm.
    changes: usize,
    applied: Applied,
    generation: Result<u64, String>,
}

/// Runs until the client stops. The proxy is live once nothing is awaited any more. `held`: static listeners are to be started, as soon as the
/// clusters are warm that they wait for.
pub(super) async fn follow(
    handle: ClientHandle,
    mut builder: Builder,
    manager: Arc<ListenerManager>,
    control: Arc<ProxyControl>,
    notes: Arc<Notes>,
    mut awaited: Awaited,
    mut held: bool,
) {
    let Ok(mut updates) = handle.updates().await else {
        return;
    };
    let mut files = SecretFiles::new(builder.secrets());
    let hosts = builder.hosts();
    // The first listeners come after the first clusters: until those are warm, listeners are held.
    let mut is_live = false;
    loop {
        let has_news = tokio::select! {
            goes_on = updates.changed() => match goes_on {
                true => true,
                false => return,
            },
            () = hosts.warmed() => false,
        };
        let started = clock::now();
        // Sorting and compiling a push must not hold up admin and health checks.
        let built = tokio::task::spawn_blocking(move || {
            let update = has_news.then(|| updates.take());
            let done = build(&mut builder, &mut awaited, update);
            (builder, updates, awaited, done)
        })
        .await;
        let Ok((kept, rest, still_awaited, done)) = built else {
            tracing::error!("the runtime ends: no more configuration is followed");
            return;
        };
        (builder, updates, awaited) = (kept, rest, still_awaited);
        files.follow();
        for line in &done.applied.unusable {
            notes.unusable(line.clone());
        }
        let waits = !is_live && builder.is_cold();
        held |= done.applied.listeners;
        let applied = match held && !waits {
            true => contained(|| apply_listeners(&builder, &manager)),
            false => Ok(()),
        };
        held &= waits;
        match applied.and(done.generation) {
            Ok(generation) if done.changes > 0 => notes.published(Publication {
                generation,
                changes: done.changes,
                build: clock::now().saturating_duration_since(started),
            }),
            Ok(_) => {}
            Err(panic) => {
                tracing::error!(%panic, "the configuration could not be put to use: the last one stays");
                notes.unusable(format!("a whole push: {panic}"));
            }
        }
        if done.changes > 0 {
            control.note_change();
        }
        if awaited.is_over() && !waits {
            is_live = true;
            control.set_live();
        }
    }
}

fn build(builder: &mut Builder, awaited: &mut Awaited, update: Option<Update>) -> Done {
    let (mut changes, mut applied) = (0, Applied::default());
    if let Some(update) = update {
        awaited.note(&update);
        changes = update.changes.len();
        applied = builder.apply(update.changes);
    }
    changes += builder.take_warm();
    // What one change breaks is contained in `apply`; nothing of that may end the following of the control plane.
    let generation = match changes {
        0 => Ok(builder.snapshot().generation),
        _ => contained(|| builder.publish().generation),
    };
    Done {
        changes,
        applied,
        generation,
    }
}

fn apply_listeners(builder: &Builder, manager: &ListenerManager) {
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
