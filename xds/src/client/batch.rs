//! A response sorted out: what is to be applied, what is wrong already, what only refreshes a TTL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};

use super::message::{Received, Response, is_unresolved_alias};
use super::request::Failure;
use super::session::Session;
use super::ttl::Ttl;
use crate::types::ResourceType;

/// What a response asks of the store. Must be handed back to [`Mux::finish`](super::mux::Mux::finish).
#[derive(Debug)]
pub struct Batch {
    pub ty: ResourceType,
    pub version: Arc<str>,
    pub resources: Vec<Received>,
    pub removed: Vec<Arc<str>>,
    /// Names that a heartbeat has vouched for.
    pub present: Vec<Arc<str>>,
    /// What is wrong already: duplicates, undecodable entries, entries of another type.
    pub failures: Vec<Failure>,
    /// The response is the whole set of this type.
    pub full: bool,
    /// The whole response is to be refused; nothing of it may be applied.
    pub rejected: bool,
    pub(super) nonce: Arc<str>,
    /// Delta: what to record for the entries that are accepted.
    pub(super) versions: Vec<(Arc<str>, Arc<str>)>,
    /// The times to live of the entries that are accepted, counted from `at`; without one the timer stops.
    pub(super) lives: Vec<(Arc<str>, Option<Duration>)>,
    pub(super) at: Instant,
    /// `resource_errors`: name and reason of what the control plane cannot serve. Nothing follows from them, as in Envoy: what is held stays.
    pub errors: Vec<(String, String)>,
}

impl Batch {
    /// Sorts a response out for `session`.
    pub(super) fn sort(session: &Session, response: Response, delta: bool, ttl: &mut Ttl, now: Instant) -> Self {
        let mut batch = Self {
            ty: session.ty,
            version: response.version,
            resources: Vec::with_capacity(response.resources.len()),
            removed: response.removed,
            present: Vec::new(),
            failures: Vec::new(),
            full: !delta && session.ty.full_state,
            rejected: false,
            nonce: session.nonce.clone(),
            versions: Vec::new(),
            lives: Vec::new(),
            at: now,
            errors: response.errors,
        };
        let mut twice = batch.find_duplicates(&response.resources, delta);
        if batch.rejected {
            batch.removed.clear();
            batch.full = false;
            return batch;
        }
        for received in response.resources {
            // The first copy of a SotW resource counts.
            if let Some(met) = twice.get_mut(&received.name)
                && std::mem::replace(met, true)
            {
                continue;
            }
            batch.take(session, received, ttl, delta, now);
        }
        if !session.wildcard {
            batch.removed.retain(|name| session.explicit.contains(name));
        }
        batch
    }

    /// Two entries of one name: a delta response is refused as a whole, a SotW one keeps the first. That is wrong in a whole set alone: what is
    /// subscribed by name is looked up in a response, and nobody looks twice (Envoy does so, too). Returns those names, each with whether its
    /// first copy has been met.
    fn find_duplicates(&mut self, resources: &[Received], delta: bool) -> HashMap<Arc<str>, bool> {
        let mut seen: HashSet<&str> = HashSet::with_capacity(resources.len());
        let removed = self.removed.iter().map(|name| &**name).filter(|_| delta);
        let names = resources
            .iter()
            .map(|received| &*received.name)
            .filter(|name| !name.is_empty());
        let twice: Vec<Arc<str>> = names
            .chain(removed)
            .filter(|name| !seen.insert(name))
            .map(Arc::from)
            .collect();
        self.rejected = delta && !twice.is_empty();
        let reason = |name: &Arc<str>| Failure {
            name: name.clone(),
            reason: "the response names it twice".to_owned(),
        };
        if delta || self.ty.full_state {
            self.failures.extend(twice.iter().map(reason));
        }
        twice.into_iter().map(|name| (name, false)).collect()
    }

    /// Puts one entry where it belongs: heartbeat, failure, unasked (dropped), or resource.
    fn take(&mut self, session: &Session, received: Received, ttl: &mut Ttl, delta: bool, now: Instant) {
        let aliased = received
            .aliases
            .iter()
            .any(|alias| session.explicit.contains(alias.as_str()));
        let is_wanted = session.wants(&received.name) || aliased;
        // In delta nobody looks at what nobody wants, but for its type.
        let is_overlooked = delta && !received.name.is_empty() && !received.foreign;
        if !is_wanted && is_overlooked && received.payload.is_some() {
            return;
        }
        if let Some(reason) = received.problem {
            self.failures.push(Failure {
                name: received.name,
                reason,
            });
            return;
        }
        if is_unresolved_alias(&received, session.ty) {
            self.removed.extend(received.aliases.into_iter().map(Arc::from));
            return;
        }
        if received.name.is_empty() {
            self.failures.push(Failure {
                name: received.name,
                reason: "name: must not be empty".to_owned(),
            });
            return;
        }
        if !is_wanted {
            return;
        }
        if received.payload.is_none() {
            let held = if delta {
                session.held.get(&received.name)
            } else {
                Some(&session.accepted)
            };
            if session.ty.heartbeats && held.is_some_and(|held| *held == received.version) {
                ttl.refresh(session.ty, &received.name, received.ttl, now);
                self.present.push(received.name);
                return;
            }
            let reason = "resource: must be set unless the version is the one held".to_owned();
            self.failures.push(Failure {
                name: received.name,
                reason,
            });
            return;
        }
        // Nearly nothing has a time to live; what has one nowhere needs no list of those that have none.
        if received.ttl.is_some() || !ttl.is_empty() {
            self.lives.push((received.name.clone(), received.ttl));
        }
        if delta {
            self.versions.push((received.name.clone(), received.version.clone()));
        }
        self.resources.push(received);
    }
}
