//! Coalesced publication: a follower wakes up to the union of what changed since it last looked.

use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::resource::{Resource, Source};
use crate::types::ResourceType;

/// One name whose published version changed.
#[derive(Clone, Debug)]
pub struct Change {
    pub ty: ResourceType,
    /// Names are one source's: another one may call something else so.
    pub source: Arc<Source>,
    pub name: Arc<str>,
    /// `None`: it is gone.
    pub resource: Option<Arc<Resource>>,
}

/// Everything that changed since the follower's last [`Updates::take`], in an order that is safe to apply one by one: what is
/// referred to before what refers to it; removals last, but those of listeners before new listeners.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Goes up with every publication of the store.
    pub generation: u64,
    pub changes: Vec<Change>,
    /// Every root that is initialised by now: all it named at first is published, or did not come in time.
    pub initialized: Vec<ResourceType>,
}

/// Type URL, source and name.
type Name = (&'static str, Arc<Source>, Arc<str>);
type Pending = HashMap<Name, (ResourceType, Option<Arc<Resource>>), foldhash::fast::RandomState>;

/// A follower of the store. It never holds the store up: what it does not take is coalesced.
pub struct Updates {
    pending: Arc<Mutex<Pending>>,
    state: watch::Receiver<State>,
}

#[derive(Clone, Default)]
struct State {
    generation: u64,
    initialized: Vec<ResourceType>,
}

impl Updates {
    /// Completes when there is something new to [`take`](Self::take); false when the client has stopped.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost.
    pub async fn changed(&mut self) -> bool {
        self.state.changed().await.is_ok()
    }

    /// What changed since the last call. A new follower first gets everything.
    pub fn take(&mut self) -> Update {
        // The state first: a publication that falls between the two wakes the follower once more.
        let state = self.state.borrow_and_update().clone();
        let taken = std::mem::take(&mut *self.pending.lock());
        let changes = taken.into_iter().map(|((_, source, name), (ty, resource))| Change {
            ty,
            source,
            name,
            resource,
        });
        let mut changes: Vec<_> = changes.collect();
        changes.sort_by(|a, b| position(a).cmp(&position(b)).then_with(|| a.name.cmp(&b.name)));
        Update {
            generation: state.generation,
            changes,
            initialized: state.initialized,
        }
    }
}

/// Where a change stands in an update.
fn position(change: &Change) -> (u8, u8) {
    let rank = change.ty.rank;
    match (change.resource.is_some(), change.ty.removals_first) {
        (true, _) => (0, rank * 2 + 1),
        (false, true) => (0, rank * 2),
        (false, false) => (1, u8::MAX - rank),
    }
}

fn entry(change: Change) -> (Name, (ResourceType, Option<Arc<Resource>>)) {
    let name = (change.ty.url, change.source, change.name);
    (name, (change.ty, change.resource))
}

#[derive(Default)]
pub(super) struct Publisher {
    followers: Vec<Weak<Mutex<Pending>>>,
    state: watch::Sender<State>,
}

impl Publisher {
    pub(super) fn attach(&mut self, all: impl Iterator<Item = Change>) -> Updates {
        let pending: Pending = all.map(entry).collect();
        let mut state = self.state.subscribe();
        state.mark_changed();
        let pending = Arc::new(Mutex::new(pending));
        self.followers.push(Arc::downgrade(&pending));
        Updates { pending, state }
    }

    pub(super) fn publish(&mut self, changes: Vec<Change>) {
        self.followers.retain(|follower| follower.strong_count() > 0);
        for follower in self.followers.iter().filter_map(Weak::upgrade) {
            let mut pending = follower.lock();
            pending.extend(changes.iter().cloned().map(entry));
        }
        self.state.send_modify(|state| state.generation += 1);
    }

    pub(super) fn initialized(&mut self, ty: ResourceType) {
        self.state.send_modify(|state| {
            state.generation += 1;
            state.initialized.push(ty);
        });
    }
}
