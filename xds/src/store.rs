//! Raw resources with their versions, errors and references; warming; coalesced publication.
//!
//! In: a [`Batch`] of one response, expired TTLs, pinned references, the passing of time. Out: which resources each source is to be
//! asked for ([`SubscriptionChange`]), and [`Update`]s for whoever follows. Invariants: a published resource has had each required
//! reference arrive (or time out) first; a refused version never displaces the last good one; a resource that something published
//! refers to stays subscribed; what two sources call by one name are two resources. The store knows no network and no meaning: an [`Interpreter`] tells what a resource refers to.

mod apply;
mod graph;
pub mod publish;
pub mod resource;
pub mod status;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hashbrown::{HashMap, HashSet};

pub use apply::Applied;
pub use publish::{Change, Update, Updates};
pub use resource::{ErrorState, Interpreter, Known, PathSource, Reference, Resource, Source, decodes};
use table::{Entry, Key, Table, Target};

use crate::stats::{Stats, TypeStats};
use crate::types::{PINNED, ResourceType};

#[cfg(doc)]
use crate::client::Batch;

/// The two clocks, read together by whoever calls.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub instant: Instant,
    pub wall: SystemTime,
}

/// What the references of published and warming resources ask of their sources.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionChange {
    pub ty: ResourceType,
    pub name: Arc<str>,
    pub source: Arc<Source>,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Subscribe,
    Unsubscribe,
    /// A changed owner wants a new copy.
    Refresh,
}

/// See the top of this file.
pub struct Store {
    tables: Vec<Table>,
    /// The places of `tables`, by type URL and source.
    places: HashMap<&'static str, HashMap<Arc<Source>, u32>>,
    /// Places whose tables nobody needs any more.
    vacant: Vec<u32>,
    interpreter: Arc<dyn Interpreter>,
    /// Names that the control plane may not touch: those of the bootstrap.
    fixed: HashSet<(&'static str, Arc<str>)>,
    epoch: u64,
    timers: BTreeMap<(Instant, u64), Timer>,
    timer: u64,
    /// Targets whose references changed since the last commit.
    touched: Vec<Key>,
    changes: Vec<SubscriptionChange>,
    /// What was published since the last commit.
    published: Vec<Key>,
    /// Whether some warming began or ended since the last commit.
    warmed: bool,
    /// Tables that have lost their last entry since the last commit.
    emptied: Vec<u32>,
    publisher: publish::Publisher,
    stats: Arc<Stats>,
    visits: u64,
}

struct Timer {
    owner: Key,
    epoch: u64,
    target: Key,
}

impl Store {
    pub fn new(interpreter: Arc<dyn Interpreter>, stats: Arc<Stats>) -> Self {
        Self {
            tables: Vec::new(),
            places: HashMap::new(),
            vacant: Vec::new(),
            interpreter,
            fixed: HashSet::new(),
            epoch: 0,
            timers: BTreeMap::new(),
            timer: 0,
            touched: Vec::new(),
            changes: Vec::new(),
            published: Vec::new(),
            warmed: false,
            emptied: Vec::new(),
            publisher: publish::Publisher::default(),
            stats,
            visits: 0,
        }
    }

    /// Ignores dynamic resources of this name, as Envoy does: the bootstrap has it.
    pub fn fix(&mut self, ty: ResourceType, name: impl Into<Arc<str>>) {
        self.fixed.insert((ty.url, name.into()));
    }

    /// Keeps `references` alive for something outside of xDS, until [`unpin`](Self::unpin). `owner` is published as a
    /// [`PINNED`] resource once the required ones have arrived or timed out.
    pub fn pin(&mut self, owner: &Arc<str>, references: Vec<Reference>, now: Now) {
        let key = Key {
            table: self.table_of(&PINNED, &Source::Ads),
            name: owner.clone(),
        };
        let resource = Resource {
            ty: &PINNED,
            name: owner.clone(),
            bytes: bytes::Bytes::new(),
            version: Arc::default(),
            response: Arc::default(),
            hash: 0,
            updated_at: now.wall,
        };
        self.accept(key, Arc::new(resource), references, now);
        self.commit();
    }

    /// Lets go of what `owner` pinned.
    pub fn unpin(&mut self, owner: &str) {
        let table = self.table_of(&PINNED, &Source::Ads);
        self.delete(&Key {
            table,
            name: owner.into(),
        });
        self.commit();
    }

    /// What sources are to be asked since the last call.
    pub fn take_subscription_changes(&mut self) -> Vec<SubscriptionChange> {
        std::mem::take(&mut self.changes)
    }

    /// Another follower. It starts with everything that is published now.
    pub fn follow(&mut self) -> Updates {
        let all = self.tables.iter().flat_map(|table| {
            let (ty, source) = (table.ty, &table.source);
            table.entries.iter().filter_map(move |(name, entry)| {
                Some(Change {
                    ty,
                    source: source.clone(),
                    name: name.clone(),
                    resource: Some(entry.active.clone()?),
                })
            })
        });
        self.publisher.attach(all)
    }

    /// Publishes that a root is initialised (its first answer is there and warm, or it timed out).
    pub fn initialized(&mut self, ty: ResourceType) {
        self.publisher.initialized(ty);
    }

    /// Nothing will be said about a resource for now: who waits for it goes on without.
    pub(crate) fn give_up(&mut self, ty: ResourceType, source: &Source, name: &Arc<str>) {
        let table = self.table_of(ty, source);
        self.answered(&Key {
            table,
            name: name.clone(),
        });
        self.commit();
    }

    /// The published version of a resource; of the first source that has one, if several have.
    pub fn get(&self, ty: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        let mut entries = self.tables_of(ty).filter_map(|table| table.entries.get(name));
        entries.find_map(|entry| entry.active.as_ref())
    }

    /// Whether a version of it was accepted, or the bootstrap has it.
    pub(crate) fn has(&self, ty: ResourceType, name: &str) -> bool {
        self.tables_of(ty)
            .any(|table| table.entries.get(name).is_some_and(|entry| entry.newest().is_some()))
            || self.fixed.contains(&(ty.url, Arc::from(name)))
    }

    /// How many resources of `ty` wait for what they refer to.
    pub fn warming(&self, ty: ResourceType) -> usize {
        self.tables_of(ty).map(|table| table.warming).sum()
    }

    fn tables_of(&self, ty: ResourceType) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(move |table| table.ty == ty)
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets owners go on whose references did not arrive in time.
    pub fn tick(&mut self, now: Instant) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some((_, timer)) = self.timers.pop_first() else {
                break;
            };
            if let Some(target) = self.target_mut(&timer.target) {
                target.waiters.remove(&timer.owner);
            }
            if self.satisfy(&timer.owner, timer.epoch, &timer.target) {
                self.count_timeout(&timer.target);
            }
        }
        self.commit();
    }

    /// Counts that a subscription has come to nothing so far, which Envoy takes for an attempt. Owners of one resource share a subscription, but
    /// for those of a type that each owner asks for anew.
    fn count_timeout(&mut self, key: &Key) {
        let (ty, source) = (self.table(key).ty, self.table(key).source.clone());
        let is_held = self.entry(key).is_some_and(|entry| entry.active.is_some());
        let is_told = match self.target_mut(key) {
            Some(target) => std::mem::replace(&mut target.timed_out, true) && !ty.fresh_on_change,
            None => false,
        };
        if is_told {
            return;
        }
        let count = |counters: &TypeStats| {
            counters.init_fetch_timeout.add(1);
            counters.update_attempt.add(1);
            counters.use_cached.add(u64::from(is_held));
        };
        count(&self.stats.of(ty));
        let counters = self.stats.counters_of(ty, &source, &key.name);
        counters.iter().for_each(|own| count(own));
    }

    /// Entries looked at so far; what a change costs, for tests.
    pub fn visits(&self) -> u64 {
        self.visits
    }

    /// Timers and waiters there are, for tests.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> (usize, usize) {
        let entries = self.tables.iter().flat_map(|table| table.entries.values());
        let targets = entries.filter_map(|entry| entry.target.as_ref());
        (self.timers.len(), targets.map(|target| target.waiters.len()).sum())
    }

    /// Pairs of type and source that are kept, for tests.
    #[cfg(test)]
    pub(crate) fn sources(&self) -> usize {
        self.tables.len()
    }

    /// # Panics
    /// The store is in a state that it must never be in; tests call this after each step.
    pub fn check_invariants(&self) {
        for (index, table) in self.tables.iter().enumerate() {
            let warming = table.entries.values().filter(|entry| entry.warming.is_some()).count();
            assert_eq!(warming, table.warming, "{:?}: warming count", table.ty);
            for (name, entry) in &table.entries {
                assert!(!entry.is_vacant(), "{:?} {name}: vacant entry", table.ty);
                self.check_entry(
                    &Key {
                        table: index as u32,
                        name: name.clone(),
                    },
                    entry,
                );
            }
        }
    }

    fn check_entry(&self, key: &Key, entry: &Entry) {
        for link in entry
            .links
            .iter()
            .chain(entry.warming.iter().flat_map(|warming| warming.links.iter()))
        {
            let target = self.entry(&link.target).and_then(|entry| entry.target.as_ref());
            let target = target.unwrap_or_else(|| unreachable!("{key:?} refers to nothing: {:?}", link.target));
            assert!(
                target.references > 0 && target.subscribed,
                "{:?} is not subscribed",
                link.target
            );
        }
        if let Some(warming) = &entry.warming {
            assert!(!warming.waiting.is_empty(), "{key:?} waits for nothing");
        }
    }

    /// The place of a type and source, made if there is none.
    fn table_of(&mut self, ty: ResourceType, source: &Source) -> u32 {
        let places = self.places.entry(ty.url).or_default();
        if let Some(place) = places.get(source) {
            return *place;
        }
        let source = Arc::new(source.clone());
        let table = Table::new(ty, source.clone());
        let next = self.tables.len();
        let place = match self.vacant.pop() {
            Some(place) => {
                self.tables[place as usize] = table;
                place
            }
            None => {
                self.tables.push(table);
                // Far fewer than 2^32 sources fit into memory.
                u32::try_from(next).unwrap_or(u32::MAX)
            }
        };
        places.insert(source, place);
        place
    }

    /// Lets go of tables that are empty: those of sources that nothing refers to any more.
    fn drop_empty_tables(&mut self) {
        for place in std::mem::take(&mut self.emptied) {
            let table = &self.tables[place as usize];
            let places = self.places.entry(table.ty.url).or_default();
            let is_empty = table.entries.is_empty() && !table.ty.full_state;
            if is_empty && places.get(&table.source) == Some(&place) {
                places.remove(&table.source);
                self.vacant.push(place);
            }
        }
    }

    fn table(&self, key: &Key) -> &Table {
        &self.tables[key.table as usize]
    }

    fn target_mut(&mut self, key: &Key) -> Option<&mut Target> {
        self.entry_mut(key)?.target.as_deref_mut()
    }

    fn entry(&self, key: &Key) -> Option<&Entry> {
        self.tables[key.table as usize].entries.get(&key.name)
    }

    fn entry_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.visits += 1;
        self.tables[key.table as usize].entries.get_mut(&key.name)
    }

    fn entry_or_new(&mut self, key: &Key) -> &mut Entry {
        self.visits += 1;
        self.tables[key.table as usize]
            .entries
            .entry_ref(&key.name)
            .or_default()
    }
}
