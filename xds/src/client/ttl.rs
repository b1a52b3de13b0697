//! TTLs of resources: a resource that has one must be re-sent or refreshed by a heartbeat in time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::bugs::{Bug, planted};
use crate::types::ResourceType;

type Key = (&'static str, Arc<str>);

#[derive(Default)]
pub(crate) struct Ttl {
    deadlines: HashMap<Key, (Instant, ResourceType)>,
    order: BTreeSet<(Instant, &'static str, Arc<str>)>,
}

impl Ttl {
    pub(crate) fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    /// Starts the timer again, or stops it when the resource came without a TTL.
    pub(crate) fn refresh(&mut self, ty: ResourceType, name: &Arc<str>, ttl: Option<Duration>, now: Instant) {
        if ttl.is_none() && (self.deadlines.is_empty() || planted(Bug::KeepsTimer)) {
            return;
        }
        if planted(Bug::KeepsOldDeadline) && self.deadlines.contains_key(&(ty.url, name.clone())) {
            return;
        }
        self.cancel(ty, name);
        if let Some(at) = ttl.and_then(|ttl| now.checked_add(ttl)) {
            self.deadlines.insert((ty.url, name.clone()), (at, ty));
            self.order.insert((at, ty.url, name.clone()));
        }
    }

    pub(crate) fn cancel(&mut self, ty: ResourceType, name: &Arc<str>) {
        if self.deadlines.is_empty() {
            return;
        }
        if let Some((at, _)) = self.deadlines.remove(&(ty.url, name.clone())) {
            self.order.remove(&(at, ty.url, name.clone()));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.order.first().map(|(at, _, _)| *at)
    }

    /// Everything that has run out by `now`, soonest first.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(ResourceType, Arc<str>)> {
        let mut expired = Vec::new();
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some((_, url, name)) = self.order.pop_first() else {
                break;
            };
            if let Some((_, ty)) = self.deadlines.remove(&(url, name.clone())) {
                expired.push((ty, name));
            }
        }
        expired
    }
}
