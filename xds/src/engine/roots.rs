//! Wildcard subscriptions, and when each counts as initialised.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use crate::store::{Now, Source};
use crate::types::{self, ResourceType};

/// A type to subscribe to in full: CDS and LDS, mostly.
#[derive(Clone, Debug)]
pub struct Root {
    pub ty: ResourceType,
    pub source: Source,
    /// How long initialisation waits for a first answer; zero is for ever. Envoy's default is 15 s.
    pub initial_fetch_timeout: Duration,
    /// Subscribes only once that root is initialised.
    pub after: Option<ResourceType>,
}

impl Root {
    /// Over ADS with Envoy's timeout; listeners come after clusters, as in Envoy.
    pub fn new(ty: ResourceType) -> Self {
        let after = (*ty == types::LISTENER).then_some(&types::CLUSTER);
        Self {
            ty,
            source: Source::Ads,
            initial_fetch_timeout: Duration::from_secs(15),
            after,
        }
    }
}

pub(super) struct RootState {
    root: Root,
    started: bool,
    deadline: Option<Instant>,
    answered: bool,
    initialized: bool,
}

impl RootState {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            started: false,
            deadline: None,
            answered: false,
            initialized: false,
        }
    }

    pub(super) fn ty(&self) -> ResourceType {
        self.root.ty
    }

    pub(super) fn source(&self) -> Arc<Source> {
        Arc::new(self.root.source.clone())
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.answered && !self.initialized)
    }
}

impl Engine {
    /// A response of `ty`, good or bad, has come.
    pub(super) fn answered(&mut self, ty: ResourceType) {
        self.roots
            .iter_mut()
            .filter(|state| state.root.ty == ty)
            .for_each(|state| state.answered = true);
    }

    /// Carries out subscription changes, starts roots whose turn it is, and notes which are initialised.
    pub(super) fn advance(&mut self, now: Now) {
        self.route();
        while self.advance_roots(now) {}
    }

    fn advance_roots(&mut self, now: Now) -> bool {
        let mut moved = false;
        for at in 0..self.roots.len() {
            moved |= self.start(at, now) | self.initialize(at, now.instant);
        }
        moved
    }

    fn start(&mut self, at: usize, now: Now) -> bool {
        let state = &self.roots[at];
        let after = state.root.after;
        let blocked = after.is_some_and(|ty| self.roots.iter().any(|other| other.root.ty == ty && !other.initialized));
        if state.started || blocked {
            return false;
        }
        let root = state.root.clone();
        let source = Arc::new(root.source);
        if let Some(stream) = self.stream_for(&source, root.ty, None) {
            self.streams[stream].mux.subscribe_wildcard(root.ty);
            self.stats.of(root.ty).update_attempt.add(u64::from(!source.is_file()));
        }
        let timeout = root.initial_fetch_timeout;
        let state = &mut self.roots[at];
        state.started = true;
        state.deadline = now.instant.checked_add(timeout).filter(|_| timeout > Duration::ZERO);
        true
    }

    fn initialize(&mut self, at: usize, now: Instant) -> bool {
        let state = &mut self.roots[at];
        let late = !state.answered && state.deadline.is_some_and(|deadline| deadline <= now);
        let warm = state.answered && self.store.warming(state.root.ty) == 0;
        if state.initialized || !state.started || !(late || warm) {
            return false;
        }
        state.initialized = true;
        let ty = state.root.ty;
        if late {
            let counters = self.stats.of(ty);
            counters.init_fetch_timeout.add(1);
            counters.update_attempt.add(1);
        }
        self.store.initialized(ty);
        true
    }
}
