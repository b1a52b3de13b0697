//! Raw resources with their versions, errors and references; warming; coalesced publication.
//!
//! In: a [`Batch`] of one response, expired TTLs, pinned references, the passing of time. Out: which resources each source is to be
//! asked for ([`SubscriptionChange`]), and [`Update`]s for whoever follows. Invariants: a published resource has had each required
//! reference arrive (or time out) first; a refused version never displaces the last good one; a resource that something published
//! refers to stays subscribed. The store knows no network and no meaning: an [`Interpreter`] tells what a resource refers to.

mod apply;
mod graph;
pub mod publish;
pub mod resource;
pub mod status;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hashbrown::HashSet;

pub use apply::Applied;
pub use publish::{Change, Update, Updates};
pub use resource::{ErrorState, Interpreter, Known, PathSource, Reference, Resource, Source};
use table::{Entry, Key, Table};

use crate::stats::Stats;
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
    interpreter: Arc<dyn Interpreter>,
    /// Names that the control plane may not touch: those of the bootstrap.
    fixed: HashSet<(&'static str, Arc<str>)>,
    sources: HashSet<Arc<Source>>,
    epoch: u64,
    timers: BTreeMap<(Instant, u64), Timer>,
    timer: u64,
    /// Targets whose references changed since the last commit.
    touched: Vec<Key>,
    changes: Vec<SubscriptionChange>,
    /// What was published since the last commit.
    published: Vec<Key>,
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
            interpreter,
            fixed: HashSet::new(),
            sources: HashSet::new(),
            epoch: 0,
            timers: BTreeMap::new(),
            timer: 0,
            touched: Vec::new(),
            changes: Vec::new(),
            published: Vec::new(),
            publisher: publish::Publisher::default(),
            stats,
            visits: 0,
        }
    }

    /// Refuses dynamic resources of this name: the bootstrap has it.
    pub fn fix(&mut self, ty: ResourceType, name: impl Into<Arc<str>>) {
        self.fixed.insert((ty.url, name.into()));
    }

    /// Keeps `references` alive for something outside of xDS, until [`unpin`](Self::unpin). `owner` is published as a
    /// [`PINNED`] resource once the required ones have arrived or timed out.
    pub fn pin(&mut self, owner: &Arc<str>, references: Vec<Reference>, now: Now) {
        let key = Key {
            table: self.table_of(&PINNED),
            name: owner.clone(),
        };
        let resource = Resource {
            ty: &PINNED,
            name: owner.clone(),
            bytes: bytes::Bytes::new(),
            version: Arc::default(),
            hash: 0,
            updated_at: now.wall,
        };
        self.accept(key, Arc::new(resource), references, now);
        self.commit();
    }

    /// Lets go of what `owner` pinned.
    pub fn unpin(&mut self, owner: &str) {
        let table = self.table_of(&PINNED);
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
            table
                .entries
                .iter()
                .filter_map(|(name, entry)| Some((table.ty, name.clone(), entry.active.clone()?)))
        });
        self.publisher.attach(all)
    }

    /// Publishes that a root is initialised (its first answer is there and warm, or it timed out).
    pub fn initialized(&mut self, ty: ResourceType) {
        self.publisher.initialized(ty);
    }

    /// Nothing will be said about a resource for now: who waits for it goes on without.
    pub(crate) fn give_up(&mut self, ty: ResourceType, name: &Arc<str>) {
        let table = self.table_of(ty);
        self.answered(&Key {
            table,
            name: name.clone(),
        });
        self.commit();
    }

    /// The published version of a resource.
    pub fn get(&self, ty: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        let table = self.tables.iter().find(|table| table.ty == ty)?;
        table.entries.get(name)?.active.as_ref()
    }

    /// Whether a version of it was accepted, or the bootstrap has it.
    pub(crate) fn has(&self, ty: ResourceType, name: &str) -> bool {
        let mut tables = self.tables.iter().filter(|table| table.ty == ty);
        tables.any(|table| table.entries.get(name).is_some_and(|entry| entry.newest().is_some()))
            || self.fixed.contains(&(ty.url, Arc::from(name)))
    }

    /// How many resources of `ty` wait for what they refer to.
    pub fn warming(&self, ty: ResourceType) -> usize {
        self.tables
            .iter()
            .find(|table| table.ty == ty)
            .map_or(0, |table| table.warming)
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
            if self.satisfy(&timer.owner, timer.epoch, &timer.target) {
                let ty = self.tables[usize::from(timer.target.table)].ty;
                self.stats.of(ty).init_fetch_timeout.add(1);
                if let Some(own) = self.stats.of_resource(ty, &timer.target.name) {
                    own.init_fetch_timeout.add(1);
                }
            }
        }
        self.commit();
    }

    /// Entries looked at so far; what a change costs, for tests.
    pub fn visits(&self) -> u64 {
        self.visits
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
                        table: index as u8,
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
                target.references > 0 && target.subscribed.is_some(),
                "{:?} is not subscribed",
                link.target
            );
        }
        if let Some(warming) = &entry.warming {
            assert!(!warming.waiting.is_empty(), "{key:?} waits for nothing");
        }
    }

    fn table_of(&mut self, ty: ResourceType) -> u8 {
        let found = self.tables.iter().position(|table| table.ty == ty);
        let index = found.unwrap_or_else(|| {
            self.tables.push(Table::new(ty));
            self.tables.len() - 1
        });
        // There are a dozen types; 256 of them would be a programming error of the embedder.
        u8::try_from(index).unwrap_or(u8::MAX)
    }

    fn entry(&self, key: &Key) -> Option<&Entry> {
        self.tables[usize::from(key.table)].entries.get(&key.name)
    }

    fn entry_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.visits += 1;
        self.tables[usize::from(key.table)].entries.get_mut(&key.name)
    }

    fn entry_or_new(&mut self, key: &Key) -> &mut Entry {
        self.visits += 1;
        self.tables[usize::from(key.table)]
            .entries
            .entry_ref(&key.name)
            .or_default()
    }
}
