//! Counters that anyone may read at any time.

mod watched;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

pub use watched::Watching;

use crate::store::{Resource, Source};
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

/// Envoy's subscription statistics of one resource type, or of one resource of a type that is counted by name; each field is called as
/// Envoy calls it.
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
    /// An update that changed nothing.
    pub update_no_rebuild: Cell,
    pub init_fetch_timeout: Cell,
    /// An owner that had changed went on with the version that was held, as no new one came in time.
    pub use_cached: Cell,
    /// Entries of `resource_errors`. Not a statistic of Envoy's, which does not read them. Counted by type only.
    pub resource_errors: Cell,
    /// An update that changed something.
    pub config_reload: Cell,
    /// Milliseconds since the Unix epoch of the last of those.
    pub config_reload_time_ms: Cell,
    /// Milliseconds since the Unix epoch of the last accepted update.
    pub update_time: Cell,
    /// xxHash64 of `version_text`.
    pub version: Cell,
    /// Resources that wait for what they refer to. Counted by type only.
    pub warming: Cell,
    version_text: Mutex<Arc<str>>,
    control_plane: Mutex<Option<Arc<ControlPlaneStats>>>,
    observer: Option<Took>,
}

/// Told how long an accepted update took.
struct Took(Box<dyn Fn(Duration) + Send + Sync>);

impl fmt::Debug for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Took")
    }
}

impl TypeStats {
    /// Counters that start at zero; see [`Stats::watch`].
    pub fn new(ty: ResourceType) -> Self {
        Self {
            ty,
            update_attempt: Cell::default(),
            update_success: Cell::default(),
            update_failure: Cell::default(),
            update_rejected: Cell::default(),
            update_empty: Cell::default(),
            update_no_rebuild: Cell::default(),
            init_fetch_timeout: Cell::default(),
            use_cached: Cell::default(),
            resource_errors: Cell::default(),
            config_reload: Cell::default(),
            config_reload_time_ms: Cell::default(),
            update_time: Cell::default(),
            version: Cell::default(),
            warming: Cell::default(),
            version_text: Mutex::default(),
            control_plane: Mutex::default(),
            observer: None,
        }
    }

    /// Has `observe` called after each accepted update with the time that checking and publishing it took. It runs on the client's thread, which
    /// waits for it.
    #[must_use]
    pub fn observed(self, observe: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        Self {
            observer: Some(Took(Box::new(observe))),
            ..self
        }
    }

    /// An owner of the resource subscribes to it, which Envoy counts as an attempt.
    pub fn subscribed(&self) {
        self.update_attempt.add(1);
    }

    /// An owner finds nothing to do about an update that is other bytes, which Envoy counts as one that changed nothing.
    pub fn had_no_effect(&self) {
        self.update_no_rebuild.add(1);
    }

    /// An update of this time is about to be counted: whoever sees what it brings before that does not [catch up](Self::catch_up) with it. Returns
    /// the time of the update before.
    pub(crate) fn begin(&self, at: u64) -> u64 {
        let before = self.update_time.value();
        self.update_time.set(before.max(at));
        before
    }

    /// Counts an update that came before anybody watched, unless a newer one was counted.
    pub fn catch_up(&self, resource: &Resource) {
        let at = millis(resource.updated_at);
        if self.update_time.value() < at {
            self.update_attempt.add(1);
            self.accepted(&resource.response, at);
        }
    }

    /// `control_plane.*` of the stream that carries nothing but this subscription; none for ADS, whose stats are [`Stats::control_plane`].
    pub fn control_plane(&self) -> Option<Arc<ControlPlaneStats>> {
        self.control_plane.lock().clone()
    }

    /// Counters go back to zero; gauges stay.
    pub fn reset(&self) {
        let counters = [
            &self.update_attempt,
            &self.update_success,
            &self.update_failure,
            &self.update_rejected,
            &self.update_empty,
            &self.update_no_rebuild,
            &self.init_fetch_timeout,
            &self.use_cached,
            &self.resource_errors,
            &self.config_reload,
        ];
        counters.iter().for_each(|counter| counter.set(0));
        if let Some(own) = self.control_plane() {
            own.reset();
        }
    }

    pub(crate) fn set_control_plane(&self, stats: Arc<ControlPlaneStats>) {
        *self.control_plane.lock() = Some(stats);
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

    pub(crate) fn took(&self, time: Duration) {
        if let Some(Took(observe)) = &self.observer {
            observe(time);
        }
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn millis(at: SystemTime) -> u64 {
    let millis = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX)
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

    /// Counters go back to zero; gauges stay.
    pub fn reset(&self) {
        self.rate_limit_enforced.set(0);
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
    resources: Mutex<BTreeMap<(&'static str, Arc<str>), Arc<TypeStats>>>,
    watched: watched::Registry,
    observer: OnceLock<Observer>,
}

/// Told how long accepted updates took.
struct Observer(Box<dyn Fn(ResourceType, Option<&str>, Duration) + Send + Sync>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl Stats {
    /// Has `observe` called after each accepted update with its type, the resource (of a type that is counted by name; else none) and the
    /// time that checking and publishing it took: Envoy's `update_duration`. There is one observer; the first counts. It runs on the
    /// client's thread, which waits for it.
    pub fn observe(&self, observe: impl Fn(ResourceType, Option<&str>, Duration) + Send + Sync + 'static) {
        let _ = self.observer.set(Observer(Box::new(observe)));
    }

    pub(crate) fn observed(&self, ty: ResourceType, name: Option<&str>, took: Duration) {
        if let Some(Observer(observe)) = self.observer.get() {
            observe(ty, name, took);
        }
    }

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

    /// The counters of one subscribed resource, if its type is counted by name ([`TypeInfo::counted_by_name`]).
    ///
    /// [`TypeInfo::counted_by_name`]: crate::TypeInfo::counted_by_name
    pub fn of_resource(&self, ty: ResourceType, name: &str) -> Option<Arc<TypeStats>> {
        let resources = self.resources.lock();
        resources.get(&(ty.url, Arc::from(name))).cloned()
    }

    /// All counters of a resource: those of its name, and those that somebody has it counted into.
    pub(crate) fn counters_of(&self, ty: ResourceType, source: &Source, name: &str) -> Vec<Arc<TypeStats>> {
        let mut counters = self.watched.of(ty, source, name);
        if ty.counted_by_name {
            counters.extend(self.of_resource(ty, name));
        }
        counters
    }

    /// Whether any resource of a type is counted for itself.
    pub(crate) fn counts_some(&self, ty: ResourceType) -> bool {
        ty.counted_by_name || self.watched.has_any(ty)
    }

    /// A resource has, or no longer has, a stream that carries nothing else.
    pub(crate) fn set_control_plane(
        &self,
        ty: ResourceType,
        source: &Arc<Source>,
        name: &Arc<str>,
        stats: Option<&Arc<ControlPlaneStats>>,
    ) {
        if !ty.counted_by_name {
            self.watched.set_control_plane(ty, source, name, stats);
        }
    }

    /// The subscribed resources that are counted by name, in order of type and name.
    pub fn resources(&self) -> Vec<(Arc<str>, Arc<TypeStats>)> {
        let resources = self.resources.lock();
        resources
            .iter()
            .map(|((_, name), stats)| (name.clone(), stats.clone()))
            .collect()
    }

    /// Somebody subscribes to a resource: Envoy counts that as the first attempt, but for files, where each reading is one. Returns its
    /// counters if it has any of its own.
    pub(crate) fn subscribed(&self, ty: ResourceType, name: &Arc<str>, source: &Source) -> Option<Arc<TypeStats>> {
        if !ty.counted_by_name {
            return None;
        }
        let mut resources = self.resources.lock();
        let stats = resources.entry((ty.url, name.clone())).or_insert_with(|| {
            let stats = TypeStats::new(ty);
            stats.update_attempt.add(u64::from(!source.is_file()));
            Arc::new(stats)
        });
        Some(stats.clone())
    }

    pub(crate) fn unsubscribed(&self, ty: ResourceType, name: &Arc<str>) {
        if ty.counted_by_name {
            self.resources.lock().remove(&(ty.url, name.clone()));
        }
    }

    /// The counters of every type seen so far.
    pub fn types(&self) -> Vec<Arc<TypeStats>> {
        self.types.lock().clone()
    }
}
