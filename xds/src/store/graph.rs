//! The reference graph: who waits for whom, who keeps whom subscribed.

use std::sync::Arc;
use std::time::Duration;

use super::resource::{Reference, Resource, Source};
use super::table::{Entry, Key, Link, Target, Warming};
use super::{Action, Now, Store, SubscriptionChange, Timer};
use crate::bugs::{Bug, planted};

impl Store {
    /// Takes a checked version in: published at once if all it requires is there, else warming. Its references count from now on;
    /// those of the version it replaces until it is published.
    pub(super) fn accept(&mut self, key: Key, resource: Arc<Resource>, references: Vec<Reference>, now: Now) {
        let replaces = self.entry(&key).is_some_and(|entry| entry.active.is_some());
        let links: Box<[Link]> = references.into_iter().map(|reference| self.link(reference)).collect();
        links.iter().for_each(|link| self.retain(link));
        self.cancel_warming(&key);
        self.epoch += 1;
        let epoch = self.epoch;
        let mut waiting = Vec::new();
        for link in links.iter().filter(|link| link.required) {
            if waiting.contains(&link.target) || !self.must_wait(&link.target, replaces) {
                continue;
            }
            waiting.push(link.target.clone());
            self.wait(&key, epoch, link, now);
        }
        if planted(Bug::BreakBeforeMake) {
            let old = std::mem::take(&mut self.entry_or_new(&key).links);
            old.iter().for_each(|link| self.release(link));
        }
        let entry = self.entry_or_new(&key);
        entry.error = None;
        let ready = waiting.is_empty() || planted(Bug::SkipWarming);
        entry.warming = Some(Box::new(Warming {
            resource,
            links,
            epoch,
            waiting,
        }));
        self.tables[usize::from(key.table)].warming += 1;
        if ready {
            self.promote(&key);
        }
    }

    /// Whether an owner has to wait for this target. A changed owner wants a new copy of some types even if one is held.
    fn must_wait(&mut self, target: &Key, replaces: bool) -> bool {
        let ty = self.tables[usize::from(target.table)].ty;
        let entry = self.entry(target);
        let held = entry.is_some_and(|entry| entry.active.is_some());
        let answered = entry
            .and_then(|entry| entry.target.as_ref())
            .is_some_and(|target| target.answered);
        if held && replaces && ty.fresh_on_change {
            let source = entry
                .and_then(|entry| entry.target.as_ref())
                .and_then(|target| target.subscribed.clone());
            if let Some(source) = source {
                let name = target.name.clone();
                self.changes.push(SubscriptionChange {
                    ty,
                    name,
                    source,
                    action: Action::Refresh,
                });
                return true;
            }
        }
        !held && !answered
    }

    fn wait(&mut self, owner: &Key, epoch: u64, link: &Link, now: Now) {
        if let Some(target) = self.entry_mut(&link.target).and_then(|entry| entry.target.as_mut()) {
            target.waiters.push((owner.clone(), epoch));
        }
        let deadline = now
            .instant
            .checked_add(link.timeout)
            .filter(|_| link.timeout > Duration::ZERO);
        if let Some(at) = deadline {
            self.timer += 1;
            let timer = Timer {
                owner: owner.clone(),
                epoch,
                target: link.target.clone(),
            };
            self.timers.insert((at, self.timer), timer);
        }
    }

    /// The control plane has answered for `key`: whoever waits for it goes on.
    pub(super) fn answered(&mut self, key: &Key) {
        let Some(entry) = self.entry_mut(key) else { return };
        // A target that warms itself answers when it is published.
        if entry.warming.is_some() {
            return;
        }
        let Some(target) = entry.target.as_mut() else { return };
        target.answered = true;
        for (owner, epoch) in std::mem::take(&mut target.waiters) {
            self.satisfy(&owner, epoch, key);
        }
    }

    /// `owner` no longer waits for `target`. Returns whether it did.
    pub(super) fn satisfy(&mut self, owner: &Key, epoch: u64, target: &Key) -> bool {
        let entry = self.entry_mut(owner);
        let warming = entry
            .and_then(|entry| entry.warming.as_mut())
            .filter(|warming| warming.epoch == epoch);
        let Some(warming) = warming else { return false };
        let Some(at) = warming.waiting.iter().position(|waiting| waiting == target) else {
            return false;
        };
        warming.waiting.swap_remove(at);
        if warming.waiting.is_empty() {
            self.promote(owner);
        }
        true
    }

    /// Publishes the warming version in place of the active one.
    fn promote(&mut self, key: &Key) {
        let Some(entry) = self.entry_mut(key) else { return };
        let Some(warming) = entry.warming.take() else { return };
        entry.active = Some(warming.resource);
        let old = std::mem::replace(&mut entry.links, warming.links);
        self.tables[usize::from(key.table)].warming -= 1;
        self.published.push(key.clone());
        old.iter().for_each(|link| self.release(link));
        self.answered(key);
    }

    pub(super) fn cancel_warming(&mut self, key: &Key) {
        let Some(warming) = self.entry_mut(key).and_then(|entry| entry.warming.take()) else {
            return;
        };
        self.tables[usize::from(key.table)].warming -= 1;
        warming.links.iter().for_each(|link| self.release(link));
    }

    /// Deletes a resource, published or warming. Returns whether there was one.
    pub(super) fn delete(&mut self, key: &Key) -> bool {
        self.cancel_warming(key);
        let Some(entry) = self.entry_mut(key) else { return false };
        entry.error = None;
        let active = entry.active.take();
        let links = std::mem::take(&mut entry.links);
        self.drop_vacant(key);
        links.iter().for_each(|link| self.release(link));
        if active.is_some() {
            self.published.push(key.clone());
        }
        active.is_some()
    }

    fn drop_vacant(&mut self, key: &Key) {
        if self.entry(key).is_some_and(Entry::is_vacant) {
            self.tables[usize::from(key.table)].entries.remove(&key.name);
        }
    }

    fn link(&mut self, reference: Reference) -> Link {
        let table = self.table_of(reference.ty);
        let source = match self.sources.get(&reference.source) {
            Some(source) => source.clone(),
            None => {
                let source = Arc::new(reference.source);
                self.sources.insert(source.clone());
                source
            }
        };
        let entries = &self.tables[usize::from(table)].entries;
        let name = entries
            .get_key_value(&reference.name)
            .map_or(reference.name, |(name, _)| name.clone());
        let (timeout, required) = (reference.initial_fetch_timeout, reference.required);
        Link {
            target: Key { table, name },
            source,
            timeout,
            required,
        }
    }

    fn retain(&mut self, link: &Link) {
        let source = link.source.clone();
        let target = self.entry_or_new(&link.target).target.get_or_insert_with(|| {
            Box::new(Target {
                references: 0,
                source: source.clone(),
                subscribed: None,
                answered: false,
                waiters: Vec::new(),
            })
        });
        target.references += 1;
        target.source = source;
        self.touched.push(link.target.clone());
    }

    fn release(&mut self, link: &Link) {
        let target = self.entry_mut(&link.target).and_then(|entry| entry.target.as_mut());
        if let Some(target) = target {
            target.references = target.references.saturating_sub(1);
            self.touched.push(link.target.clone());
        }
    }

    /// Turns changed references into subscription changes, drops what nobody refers to any more, and publishes. Doing that once
    /// per response is what makes break come after make.
    pub(super) fn commit(&mut self) {
        while let Some(key) = self.touched.pop() {
            self.settle(&key);
        }
        for table in self.tables.iter_mut().filter(|table| table.counted != table.warming) {
            table.counted = table.warming;
            self.stats.of(table.ty).warming.set(table.warming as u64);
        }
        if self.published.is_empty() {
            return;
        }
        let published = std::mem::take(&mut self.published);
        let changes = published.into_iter().map(|key| {
            let ty = self.tables[usize::from(key.table)].ty;
            let active = self.entry(&key).and_then(|entry| entry.active.clone());
            (ty, key.name, active)
        });
        let changes: Vec<_> = changes.collect();
        self.publisher.publish(changes);
    }

    fn settle(&mut self, key: &Key) {
        let ty = self.tables[usize::from(key.table)].ty;
        let Some(entry) = self.entry_mut(key) else { return };
        let Some(target) = entry.target.as_mut() else { return };
        let wanted = (target.references > 0).then(|| target.source.clone());
        if wanted == target.subscribed {
            return;
        }
        let before = std::mem::replace(&mut target.subscribed, wanted.clone());
        let unused = wanted.is_none();
        if unused {
            entry.target = None;
            entry.error = None;
        }
        let mut change = |source: Option<Arc<Source>>, action| {
            let change = source.map(|source| SubscriptionChange {
                ty,
                name: key.name.clone(),
                source,
                action,
            });
            self.changes.extend(change);
        };
        change(wanted, Action::Subscribe);
        change(before, Action::Unsubscribe);
        if unused && !ty.full_state {
            self.delete(key);
        } else if unused {
            self.drop_vacant(key);
        }
    }
}
