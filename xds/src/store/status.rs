//! Views of the store for people: the `/xds` page and the config dump.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Store;
use super::resource::{ErrorState, Resource, Source};
use crate::types::ResourceType;

/// How one stream, or one watched file, fares.
#[derive(Clone, Debug)]
pub struct StreamStatus {
    /// Its source, as text.
    pub source: String,
    pub is_file: bool,
    /// What it carries, as stats call it, with the resource's name if it carries but one: `sds default`; `all types` for an aggregated stream.
    pub carries: String,
    /// The server has taken the stream, or the file was read.
    pub is_open: bool,
    /// `control_plane.identifier`, if the server has told one.
    pub identifier: String,
    /// Why it is not open.
    pub failure: Option<String>,
}

/// What a client is doing, for people.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// By rank of the type, then by source.
    pub types: Vec<TypeStatus>,
    pub streams: Vec<StreamStatus>,
}

/// One name with all its versions.
#[derive(Clone, Debug)]
pub struct DumpEntry {
    pub ty: ResourceType,
    pub source: Arc<Source>,
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

/// State of one resource type, as far as it comes from one source.
#[derive(Clone, Debug)]
pub struct TypeStatus {
    pub ty: ResourceType,
    /// Where it comes from, as text.
    pub source: String,
    /// Version of the newest response, accepted or not.
    pub wanted_version: Arc<str>,
    /// Version of the newest accepted response.
    pub running_version: Arc<str>,
    /// Version of the newest response that changed something, though parts of it may have been refused: `version_info` of a config dump.
    pub applied_version: Arc<str>,
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
        let mut tables: Vec<_> = self.tables.iter().filter(|table| !table.ty.url.is_empty()).collect();
        tables.sort_by_key(|table| (table.ty.rank, table.ty.url));
        for tables in tables.chunk_by(|a, b| a.ty == b.ty) {
            let start = dump.len();
            for table in tables {
                dump.extend(
                    table
                        .entries
                        .iter()
                        .filter(|(_, entry)| entry.newest().is_some() || entry.error.is_some())
                        .map(|(name, entry)| DumpEntry {
                            ty: table.ty,
                            source: table.source.clone(),
                            name: name.clone(),
                            active: entry.active.clone(),
                            warming: entry.warming.as_ref().map(|warming| warming.resource.clone()),
                            error: entry.error.as_deref().cloned(),
                        }),
                );
            }
            dump[start..].sort_by(|a, b| a.name.cmp(&b.name));
        }
        dump
    }

    /// The store's part of a type's status: counts and who waits.
    pub(crate) fn status_of(&self, ty: ResourceType, source: &Source) -> TypeStatus {
        let mut status = TypeStatus {
            ty,
            source: source.to_string(),
            wanted_version: Arc::default(),
            running_version: Arc::default(),
            applied_version: Arc::default(),
            since: None,
            published: 0,
            waiting: Vec::new(),
            refused: Vec::new(),
            missing: Vec::new(),
            reported: Vec::new(),
            last_nack: None,
            last_push: PushCost::default(),
        };
        let place = self.places.get(ty.url).and_then(|places| places.get(source));
        let Some(table) = place.map(|place| &self.tables[*place as usize]) else {
            return status;
        };
        for (name, entry) in &table.entries {
            status.published += usize::from(entry.active.is_some());
            if let Some(warming) = &entry.warming {
                let waits = warming.waiting.iter();
                let waits_for = waits.map(|key| (self.table(key).ty, key.name.clone())).collect();
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

    /// The types that the store knows, each with each of its sources.
    pub(crate) fn types(&self) -> Vec<(ResourceType, Arc<Source>)> {
        let known = self.places.values().flat_map(|places| places.values());
        let tables = known.map(|place| &self.tables[*place as usize]);
        let of = tables.map(|table| (table.ty, table.source.clone()));
        of.filter(|(ty, _)| !ty.url.is_empty()).collect()
    }
}
