//! One resource type on one stream: what is wanted, what the server knows of that, what is held.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;

use super::request::{Body, Names};
use crate::bugs::{Bug, planted};
use crate::types::ResourceType;

/// Per-type half of a [`Mux`](super::mux::Mux). SotW and delta share what is wanted; the rest is marked.
pub(crate) struct Session {
    pub(crate) ty: ResourceType,
    pub(crate) wildcard: bool,
    pub(crate) explicit: BTreeSet<Arc<str>>,
    /// A request has been sent on this stream.
    pub(crate) started: bool,
    /// Something is to be said that no request has said yet.
    pub(crate) pending: bool,
    /// Newest nonce received on this stream, of an accepted response or not.
    pub(crate) nonce: Arc<str>,
    /// SotW: version of the last accepted response, of this stream or an older one.
    pub(crate) accepted: Arc<str>,
    /// Delta: version of each resource held. Survives streams.
    pub(crate) held: HashMap<Arc<str>, Arc<str>, foldhash::fast::RandomState>,
    /// A non-empty name list has been sent on this stream: an empty one no longer means wildcard.
    named: bool,
    /// There was an explicit interest once: a new delta stream spells the wildcard out.
    ever_named: bool,
    /// Delta: unsubscribed names that the wildcard may still cover.
    ambiguous: BTreeSet<Arc<str>>,
    /// Names asked for again and not answered yet: a new delta stream must not claim to hold them.
    stale: BTreeSet<Arc<str>>,
    /// SotW: a name is to be asked for again, which an ACK with the same list would not say.
    again: bool,
    add: BTreeSet<Arc<str>>,
    remove: BTreeSet<Arc<str>>,
    /// SotW: the list that the next request carries, once encoded.
    names: Option<Names>,
}

const WILDCARD: &str = "*";

impl Session {
    pub(crate) fn new(ty: ResourceType) -> Self {
        Self {
            ty,
            wildcard: false,
            explicit: BTreeSet::new(),
            started: false,
            pending: false,
            nonce: Arc::default(),
            accepted: Arc::default(),
            held: HashMap::default(),
            named: false,
            ever_named: false,
            ambiguous: BTreeSet::new(),
            stale: BTreeSet::new(),
            again: false,
            add: BTreeSet::new(),
            remove: BTreeSet::new(),
            names: None,
        }
    }

    pub(crate) fn wants_anything(&self) -> bool {
        self.wildcard || !self.explicit.is_empty()
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.explicit.contains(name)
    }

    pub(crate) fn set_wildcard(&mut self, wanted: bool) {
        if self.wildcard == wanted {
            return;
        }
        self.wildcard = wanted;
        let star: Arc<str> = WILDCARD.into();
        if wanted {
            self.remove.remove(WILDCARD);
            self.add.insert(star);
        } else {
            self.add.remove(WILDCARD);
            self.remove.insert(star);
            self.ambiguous.clear();
            self.held.retain(|name, _| self.explicit.contains(name));
        }
        self.changed();
    }

    pub(crate) fn subscribe(&mut self, name: Arc<str>) {
        if self.explicit.insert(name.clone()) {
            self.ever_named = true;
            self.ambiguous.remove(&name);
            self.remove.remove(&name);
            self.add.insert(name);
            self.changed();
        }
    }

    pub(crate) fn unsubscribe(&mut self, name: &Arc<str>) {
        if !self.explicit.remove(name) {
            return;
        }
        self.add.remove(name);
        self.stale.remove(name);
        self.remove.insert(name.clone());
        if !self.wildcard {
            self.held.remove(name);
        } else if self.held.contains_key(name) {
            self.ambiguous.insert(name.clone());
        }
        if planted(Bug::LostUnsubscribe) {
            self.remove.remove(name);
            return;
        }
        self.changed();
    }

    /// Asks again for a name that stays subscribed: a server must answer a repeated delta subscription in full; in SotW the
    /// repeated request is all that can be said.
    pub(crate) fn refresh(&mut self, name: &Arc<str>) {
        if self.explicit.contains(name) {
            self.add.insert(name.clone());
            self.stale.insert(name.clone());
            self.again = true;
            self.pending = true;
        }
    }

    fn changed(&mut self) {
        self.names = None;
        self.pending = true;
    }

    /// A new stream: nonces are gone, everything wanted is to be said again, versions stay.
    pub(crate) fn reset(&mut self) {
        if !planted(Bug::NonceSurvivesReconnect) {
            self.nonce = Arc::default();
        }
        self.started = false;
        self.named = false;
        // Nothing is being applied now; a pause that nobody ended (a panic) must not outlive its stream.
        self.names = None;
        self.add.clear();
        self.remove.clear();
        self.pending = self.wants_anything() && !planted(Bug::ForgetsOnReconnect);
        if planted(Bug::EmptyFirstDelta) {
            self.pending = true;
        }
    }

    /// The SotW request for the present state.
    pub(crate) fn sotw(&mut self, version: Arc<str>) -> Body {
        let legacy = self.wildcard && self.explicit.is_empty() && !self.named;
        let star = self.wildcard && !legacy;
        let explicit = &self.explicit;
        let names = self.names.get_or_insert_with(|| {
            Names::new(
                star.then_some(WILDCARD)
                    .into_iter()
                    .chain(explicit.iter().map(|name| &**name)),
            )
        });
        self.named |= !names.is_empty();
        self.started = true;
        Body::Sotw {
            version,
            names: names.clone(),
        }
    }

    /// The pending subscription request, if the present state still calls for one.
    pub(crate) fn next_sotw(&mut self) -> Option<Body> {
        self.pending = false;
        self.again = false;
        // An empty list before any other would be read as the wildcard.
        let unsaid = !self.wants_anything() && !self.named;
        if unsaid && !planted(Bug::EmptyFirstDelta) {
            return None;
        }
        Some(self.sotw(self.accepted.clone()))
    }

    /// The pending delta request, if the present state still calls for one.
    pub(crate) fn next_delta(&mut self) -> Option<Body> {
        self.pending = false;
        if self.started {
            let subscribe: Vec<_> = std::mem::take(&mut self.add).into_iter().collect();
            let unsubscribe: Vec<_> = std::mem::take(&mut self.remove).into_iter().collect();
            let silent = subscribe.is_empty() && unsubscribe.is_empty();
            return (!silent).then_some(Body::Delta {
                subscribe,
                unsubscribe,
                initial: Vec::new(),
            });
        }
        self.add.clear();
        self.remove.clear();
        // An empty first request would be read as the wildcard.
        if !self.wants_anything() && !planted(Bug::EmptyFirstDelta) {
            return None;
        }
        let legacy = self.explicit.is_empty() && !self.ever_named;
        let star: Option<Arc<str>> = (self.wildcard && !legacy).then(|| WILDCARD.into());
        let subscribe = star.into_iter().chain(self.explicit.iter().cloned()).collect();
        let held = self.held.iter().filter(|(name, _)| !self.stale.contains(*name));
        let mut initial: Vec<_> = held.map(clone_pair).collect();
        initial.sort_unstable();
        self.started = true;
        Some(Body::Delta {
            subscribe,
            unsubscribe: Vec::new(),
            initial,
        })
    }

    /// Delta: an accepted resource.
    pub(crate) fn hold(&mut self, name: Arc<str>, version: Arc<str>) {
        self.ambiguous.remove(&name);
        self.stale.remove(&name);
        if self.wants(&name) {
            self.held.insert(name, version);
        }
    }

    /// Delta: a removed (or expired) resource. An explicit name goes back to waiting, any other is forgotten.
    pub(crate) fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.ambiguous.remove(name);
        self.stale.remove(name);
    }

    /// SotW: an answer with the newest nonce and the whole list has been made; is anything left to say?
    pub(crate) fn answered(&mut self) {
        self.pending = self.again;
    }

    pub(crate) fn check_invariants(&self) {
        assert!(
            self.held.keys().all(|name| self.wants(name)),
            "{:?} holds what it does not want",
            self.ty
        );
        assert!(
            self.started || self.nonce.is_empty(),
            "{:?} has the nonce of another stream",
            self.ty
        );
        assert!(
            self.ambiguous.iter().all(|name| !self.explicit.contains(name)),
            "explicit and ambiguous at once"
        );
    }
}

fn clone_pair((name, version): (&Arc<str>, &Arc<str>)) -> (Arc<str>, Arc<str>) {
    (name.clone(), version.clone())
}
