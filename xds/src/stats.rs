//! Counters that anyone may read at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::types::ResourceType;

/// A count or a gauge.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Envoy's subscription statistics of one resource type; each field is called as Envoy calls it.
#[derive(Debug)]
pub struct TypeStats {
    pub ty: ResourceType,
    pub update_attempt: Cell,
    pub update_success: Cell,
    /// The stream failed.
    pub update_failure: Cell,
    /// A response was NACKed.
    pub update_rejected: Cell,
    /// A response without resources that meant nothing.
    pub update_empty: Cell,
    pub init_fetch_timeout: Cell,
    /// Milliseconds since the Unix epoch of the last accepted update.
    pub update_time: Cell,
    /// xxHash64 of `version_text`.
    pub version: Cell,
    version_text: Mutex<Arc<str>>,
}

impl TypeStats {
    pub(crate) fn new(ty: ResourceType) -> Self {
        Self {
            ty,
            update_attempt: Cell::default(),
            update_success: Cell::default(),
            update_failure: Cell::default(),
            update_rejected: Cell::default(),
            update_empty: Cell::default(),
            init_fetch_timeout: Cell::default(),
            update_time: Cell::default(),
            version: Cell::default(),
            version_text: Mutex::default(),
        }
    }

    /// The last accepted version.
    pub fn version_text(&self) -> Arc<str> {
        self.version_text.lock().clone()
    }

    pub(crate) fn accepted(&self, version: &Arc<str>, millis: u64) {
        self.update_success.add(1);
        self.update_time.set(millis);
        self.version.set(xxhash_rust::xxh64::xxh64(version.as_bytes(), 0));
        *self.version_text.lock() = version.clone();
    }
}

/// `control_plane.*` of one source.
#[derive(Debug, Default)]
pub struct ControlPlaneStats {
    /// 1 while a stream is up.
    pub connected_state: Cell,
    pub pending_requests: Cell,
    pub rate_limit_enforced: Cell,
    identifier: Mutex<String>,
}

impl ControlPlaneStats {
    /// `control_plane.identifier` of the last response that had one.
    pub fn identifier(&self) -> String {
        self.identifier.lock().clone()
    }

    pub(crate) fn identify(&self, identifier: String) {
        *self.identifier.lock() = identifier;
    }
}

/// Everything countable of one client.
#[derive(Debug, Default)]
pub struct Stats {
    types: Mutex<Vec<Arc<TypeStats>>>,
    /// The ADS stream.
    pub control_plane: Arc<ControlPlaneStats>,
    named: Mutex<Vec<(Arc<str>, Arc<ControlPlaneStats>)>>,
}

impl Stats {
    /// The counters of `ty`, made on first use.
    pub fn of(&self, ty: ResourceType) -> Arc<TypeStats> {
        let mut types = self.types.lock();
        if let Some(found) = types.iter().find(|stats| stats.ty == ty) {
            return found.clone();
        }
        let stats = Arc::new(TypeStats::new(ty));
        types.push(stats.clone());
        stats
    }

    /// The counters of the source called `name`, made on first use.
    pub fn source(&self, name: &str) -> Arc<ControlPlaneStats> {
        let mut named = self.named.lock();
        if let Some((_, stats)) = named.iter().find(|(known, _)| &**known == name) {
            return stats.clone();
        }
        let stats = Arc::new(ControlPlaneStats::default());
        named.push((name.into(), stats.clone()));
        stats
    }

    /// The counters of every type seen so far.
    pub fn types(&self) -> Vec<Arc<TypeStats>> {
        self.types.lock().clone()
    }
}
