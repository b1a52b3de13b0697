//! Views of the store for people: the `/xds` page and the config dump.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Store;
use super::resource::{ErrorState, Resource};
use crate::types::ResourceType;

/// One name with all its versions.
#[derive(Clone, Debug)]
pub struct DumpEntry {
    pub ty: ResourceType,
    pub name: Arc<str>,
    pub active: Option<Arc<Resource>>,
    pub warming: Option<Arc<Resource>>,
    pub error: Option<ErrorState>,
}

/// What the last response of a type cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct PushCost {
    pub bytes: usize,
    pub added: usize,
    pub changed: usize,
    pub unchanged: usize,
    pub removed: usize,
    pub rejected: usize,
    pub decode: Duration,
    pub validate: Duration,
    pub publish: Duration,
}

/// A refused response.
#[derive(Clone, Debug)]
pub struct Nack {
    pub at: SystemTime,
    pub version: Arc<str>,
    pub reason: String,
}

/// A resource that is not published yet, and what it waits for.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub name: Arc<str>,
    pub waits_for: Vec<(ResourceType, Arc<str>)>,
}

/// State of one resource type.
#[derive(Clone, Debug)]
pub struct TypeStatus {
    pub ty: ResourceType,
    /// Where it comes from, as text.
    pub sources: Vec<String>,
    /// Why streams that should carry it are not open.
    pub failures: Vec<String>,
    /// Version of the newest response, accepted or not.
    pub wanted_version: Arc<str>,
    /// Version of the newest accepted response.
    pub running_version: Arc<str>,
    /// When that was accepted.
    pub since: Option<SystemTime>,
    pub published: usize,
    pub waiting: Vec<Waiting>,
    /// Resources whose newest version was refused and is still not replaced by a good one.
    pub refused: Vec<(Arc<str>, ErrorState)>,
    /// References that nothing has arrived for.
    pub missing: Vec<Arc<str>>,
    /// Name and reason of what the control plane says that it cannot serve (`resource_errors`); the first hundred.
    pub reported: Vec<(String, String)>,
    pub last_nack: Option<Nack>,
    pub last_push: PushCost,
}

impl Store {
    /// Every resource of every type with all its versions, sorted by name within a type.
    pub fn dump(&self) -> Vec<DumpEntry> {
        let mut dump = Vec::new();
        for table in self.tables.iter().filter(|table| !table.ty.url.is_empty()) {
            let start = dump.len();
            dump.extend(
                table
                    .entries
                    .iter()
                    .filter(|(_, entry)| entry.newest().is_some() || entry.error.is_some())
                    .map(|(name, entry)| DumpEntry {
                        ty: table.ty,
                        name: name.clone(),
                        active: entry.active.clone(),
                        warming: entry.warming.as_ref().map(|warming| warming.resource.clone()),
                        error: entry.error.as_deref().cloned(),
                    }),
            );
            dump[start..].sort_by(|a, b| a.name.cmp(&b.name));
        }
        dump
    }

    /// The store's part of a type's status: counts and who waits.
    pub(crate) fn status_of(&self, ty: ResourceType) -> TypeStatus {
        let mut status = TypeStatus {
            ty,
            sources: Vec::new(),
            failures: Vec::new(),
            wanted_version: Arc::default(),
            running_version: Arc::default(),
            since: None,
            published: 0,
            waiting: Vec::new(),
            refused: Vec::new(),
            missing: Vec::new(),
            reported: Vec::new(),
            last_nack: None,
            last_push: PushCost::default(),
        };
        let Some(table) = self.tables.iter().find(|table| table.ty == ty) else {
            return status;
        };
        for (name, entry) in &table.entries {
            status.published += usize::from(entry.active.is_some());
            if let Some(warming) = &entry.warming {
                let waits = warming.waiting.iter();
                let waits_for = waits
                    .map(|key| (self.tables[usize::from(key.table)].ty, key.name.clone()))
                    .collect();
                status.waiting.push(Waiting {
                    name: name.clone(),
                    waits_for,
                });
            }
            if let Some(error) = &entry.error {
                status.refused.push((name.clone(), (**error).clone()));
            }
            if entry.newest().is_none() && entry.target.is_some() {
                status.missing.push(name.clone());
            }
        }
        status.waiting.sort_by(|a, b| a.name.cmp(&b.name));
        status.refused.sort_by(|a, b| a.0.cmp(&b.0));
        status.missing.sort_unstable();
        status
    }

    /// The types that the store has ever seen, in order of first use.
    pub(crate) fn types(&self) -> Vec<ResourceType> {
        self.tables
            .iter()
            .map(|table| table.ty)
            .filter(|ty| !ty.url.is_empty())
            .collect()
    }
}
