//! The reference graph: who waits for whom, who keeps whom subscribed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::resource::{Reference, Resource};
use super::table::{Entry, Key, Link, Target, Warming};
use super::{Action, Change, Now, Store, SubscriptionChange, Timer};
use crate::bugs::{Bug, planted};
use crate::types::ResourceType;

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
        let (mut waiting, mut timers) = (Vec::new(), Vec::new());
        for link in links.iter().filter(|link| link.required) {
            if waiting.contains(&link.target) || !self.must_wait(&link.target, replaces) {
                continue;
            }
            waiting.push(link.target.clone());
            timers.extend(self.wait(&key, epoch, link, now));
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
            timers,
        }));
        self.count_warming(&key, 1);
        if ready {
            self.promote(&key);
        }
    }

    /// Whether an owner has to wait for this target. A changed owner wants a new copy of some types even if one is held.
    fn must_wait(&mut self, target: &Key, replaces: bool) -> bool {
        let table = self.table(target);
        let (ty, source) = (table.ty, table.source.clone());
        let entry = self.entry(target);
        let held = entry.is_some_and(|entry| entry.active.is_some());
        let known = entry.and_then(|entry| entry.target.as_ref());
        let answered =
            known.is_some_and(|target| target.answered && !(target.is_absent && replaces && ty.waits_for_absent));
        if held && replaces && ty.fresh_on_change {
            let target_of = entry.and_then(|entry| entry.target.as_ref());
            if target_of.is_some_and(|target| target.subscribed) {
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

    /// Notes that `owner` waits; returns the place of the timer that ends the wait, if one does.
    fn wait(&mut self, owner: &Key, epoch: u64, link: &Link, now: Now) -> Option<(Instant, u64)> {
        if let Some(target) = self.target_mut(&link.target) {
            target.waiters.insert(owner.clone(), epoch);
        }
        // There is an answer already where there is none of it: the wait has no end but its coming.
        let is_absent = self.target_mut(&link.target).is_some_and(|target| target.is_absent);
        let deadline = now
            .instant
            .checked_add(link.timeout)
            .filter(|_| link.timeout > Duration::ZERO && !is_absent);
        let at = deadline?;
        self.timer += 1;
        let timer = Timer {
            owner: owner.clone(),
            epoch,
            target: link.target.clone(),
        };
        self.timers.insert((at, self.timer), timer);
        Some((at, self.timer))
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
        target.is_absent = false;
        for (owner, epoch) in std::mem::take(&mut target.waiters) {
            self.satisfy(&owner, epoch, key);
        }
    }

    /// The control plane has said that there is no `key`. First versions go on without it; what replaces a version in use waits until it comes, as
    /// in Envoy: the one in use serves meanwhile.
    pub(super) fn absent(&mut self, key: &Key) {
        let Some(entry) = self.entry_mut(key) else { return };
        if entry.active.is_some() || entry.warming.is_some() {
            return;
        }
        let Some(target) = entry.target.as_mut() else { return };
        target.answered = true;
        target.is_absent = true;
        for (owner, epoch) in std::mem::take(&mut target.waiters) {
            if self.entry(&owner).is_some_and(|owner| owner.active.is_some()) {
                self.wait_for_ever(&owner, key);
                if let Some(target) = self.target_mut(key) {
                    target.waiters.insert(owner, epoch);
                }
            } else {
                self.satisfy(&owner, epoch, key);
            }
        }
    }

    /// No time ends the wait of `owner` for `target` any more.
    fn wait_for_ever(&mut self, owner: &Key, target: &Key) {
        let warming = self.entry(owner).and_then(|entry| entry.warming.as_ref());
        let timers = warming.map(|warming| warming.timers.clone()).unwrap_or_default();
        for place in timers {
            if self.timers.get(&place).is_some_and(|timer| timer.target == *target) {
                self.timers.remove(&place);
            }
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
        warming.timers.iter().for_each(|timer| drop(self.timers.remove(timer)));
        self.count_warming(key, -1);
        self.published.push(key.clone());
        old.iter().for_each(|link| self.release(link));
        self.answered(key);
    }

    pub(super) fn cancel_warming(&mut self, key: &Key) {
        let Some(warming) = self.entry_mut(key).and_then(|entry| entry.warming.take()) else {
            return;
        };
        self.count_warming(key, -1);
        warming.timers.iter().for_each(|timer| drop(self.timers.remove(timer)));
        for waiting in &warming.waiting {
            if let Some(target) = self.target_mut(waiting)
                && target.waiters.get(key) == Some(&warming.epoch)
            {
                target.waiters.remove(key);
            }
        }
        warming.links.iter().for_each(|link| self.release(link));
    }

    /// Deletes a resource, published or warming. Returns whether there was one.
    pub(super) fn delete(&mut self, key: &Key) -> bool {
        let was_warming = self.entry(key).is_some_and(|entry| entry.warming.is_some());
        self.cancel_warming(key);
        let Some(entry) = self.entry_mut(key) else {
            return was_warming;
        };
        entry.error = None;
        let active = entry.active.take();
        let links = std::mem::take(&mut entry.links);
        self.drop_vacant(key);
        links.iter().for_each(|link| self.release(link));
        if active.is_some() {
            self.published.push(key.clone());
        }
        was_warming || active.is_some()
    }

    fn drop_vacant(&mut self, key: &Key) {
        if self.entry(key).is_some_and(Entry::is_vacant) {
            let entries = &mut self.tables[key.table as usize].entries;
            entries.remove(&key.name);
            if entries.is_empty() {
                self.emptied.push(key.table);
            }
        }
    }

    fn link(&mut self, reference: Reference) -> Link {
        let table = self.table_of(reference.ty, &reference.source);
        let entries = &self.tables[table as usize].entries;
        let name = entries
            .get_key_value(&reference.name)
            .map_or(reference.name, |(name, _)| name.clone());
        Link {
            target: Key { table, name },
            timeout: reference.initial_fetch_timeout,
            required: reference.required,
        }
    }

    fn retain(&mut self, link: &Link) {
        let target = self.entry_or_new(&link.target).target.get_or_insert_with(|| {
            Box::new(Target {
                references: 0,
                subscribed: false,
                answered: false,
                is_absent: false,
                timed_out: false,
                waiters: BTreeMap::new(),
            })
        });
        target.references += 1;
        self.touched.push(link.target.clone());
    }

    fn release(&mut self, link: &Link) {
        if let Some(target) = self.target_mut(&link.target) {
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
        if std::mem::take(&mut self.warmed) {
            self.publish_warming();
        }
        let published = std::mem::take(&mut self.published);
        if published.is_empty() {
            return self.drop_empty_tables();
        }
        let changes = published.into_iter().map(|key| {
            let table = self.table(&key);
            Change {
                ty: table.ty,
                source: table.source.clone(),
                resource: table.entries.get(&key.name).and_then(|entry| entry.active.clone()),
                name: key.name,
            }
        });
        let changes: Vec<_> = changes.collect();
        self.publisher.publish(changes);
        self.drop_empty_tables();
    }

    fn count_warming(&mut self, key: &Key, by: isize) {
        let warming = &mut self.tables[key.table as usize].warming;
        *warming = warming.saturating_add_signed(by);
        self.warmed = true;
    }

    fn publish_warming(&mut self) {
        let mut counts: BTreeMap<&'static str, (ResourceType, usize)> = BTreeMap::new();
        for table in &self.tables {
            counts.entry(table.ty.url).or_insert((table.ty, 0)).1 += table.warming;
        }
        for (ty, count) in counts.into_values() {
            self.stats.of(ty).warming.set(count as u64);
        }
    }

    fn settle(&mut self, key: &Key) {
        let Some(entry) = self.entry_mut(key) else { return };
        let Some(target) = entry.target.as_mut() else { return };
        let wanted = target.references > 0;
        if wanted == target.subscribed {
            return;
        }
        target.subscribed = wanted;
        if !wanted {
            entry.target = None;
            entry.error = None;
        }
        let table = self.table(key);
        let (ty, source) = (table.ty, table.source.clone());
        self.changes.push(SubscriptionChange {
            ty,
            name: key.name.clone(),
            source,
            action: if wanted { Action::Subscribe } else { Action::Unsubscribe },
        });
        if !wanted && !ty.full_state {
            self.delete(key);
        } else if !wanted {
            self.drop_vacant(key);
        }
    }
}
