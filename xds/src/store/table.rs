//! The index of what one source says of one resource type, and what an entry of it is made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::resource::{ErrorState, Resource, Source};
use crate::types::ResourceType;

/// A resource by table and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) table: u32,
    pub(crate) name: Arc<str>,
}

/// A reference with its target's key.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) target: Key,
    pub(crate) timeout: Duration,
    pub(crate) required: bool,
}

/// A version that waits for what it refers to.
pub(crate) struct Warming {
    pub(crate) resource: Arc<Resource>,
    pub(crate) links: Box<[Link]>,
    /// Tells this warming from an earlier one of the same name.
    pub(crate) epoch: u64,
    pub(crate) waiting: Vec<Key>,
    /// Ends of the waits, by their places in the store's list.
    pub(crate) timers: Vec<(Instant, u64)>,
}

/// The side of an entry that others refer to.
pub(crate) struct Target {
    /// Published and warming owners.
    pub(crate) references: u32,
    pub(crate) subscribed: bool,
    /// The control plane has said something about it: a version, a bad one, or that there is none.
    pub(crate) answered: bool,
    /// What it has said is that there is none.
    pub(crate) is_absent: bool,
    /// Somebody has waited for it in vain.
    pub(crate) timed_out: bool,
    /// Owners that wait for it, with the epochs of their warmings.
    pub(crate) waiters: BTreeMap<Key, u64>,
}

#[derive(Default)]
pub(crate) struct Entry {
    pub(crate) active: Option<Arc<Resource>>,
    /// What `active` refers to.
    pub(crate) links: Box<[Link]>,
    pub(crate) warming: Option<Box<Warming>>,
    pub(crate) error: Option<Box<ErrorState>>,
    pub(crate) target: Option<Box<Target>>,
    /// The last full push that named it.
    pub(crate) seen: u32,
}

impl Entry {
    /// The newest accepted version.
    pub(crate) fn newest(&self) -> Option<&Arc<Resource>> {
        self.warming
            .as_ref()
            .map(|warming| &warming.resource)
            .or(self.active.as_ref())
    }

    /// Nothing is left that would keep the entry.
    pub(crate) fn is_vacant(&self) -> bool {
        self.active.is_none() && self.warming.is_none() && self.error.is_none() && self.target.is_none()
    }
}

pub(crate) struct Table {
    pub(crate) ty: ResourceType,
    pub(crate) source: Arc<Source>,
    pub(crate) entries: HashMap<Arc<str>, Entry, foldhash::fast::RandomState>,
    pub(crate) warming: usize,
    /// Counts full pushes.
    pub(crate) push: u32,
}

impl Table {
    pub(crate) fn new(ty: ResourceType, source: Arc<Source>) -> Self {
        Self {
            ty,
            source,
            entries: HashMap::default(),
            warming: 0,
            push: 0,
        }
    }
}
