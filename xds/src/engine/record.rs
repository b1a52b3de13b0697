//! What happened last to each type, for the status page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hashbrown::{HashMap, HashSet};

use crate::client::{Batch, request};
use crate::stats::{Stats, TypeStats, millis};
use crate::store::status::{Nack, PushCost, TypeStatus};
use crate::store::{Applied, Now, Source};
use crate::types::{self, ResourceType};

/// The resources of one response that are counted each for itself, with their counters: by the time that they are counted, what they have done may
/// have taken away who counts them.
pub(super) struct Named {
    ty: ResourceType,
    version: Arc<str>,
    /// With the time of the update before.
    names: Vec<(Arc<str>, Vec<(Arc<TypeStats>, u64)>)>,
    /// Those of which it says that they are gone.
    removed: HashSet<Arc<str>>,
    /// The response says nothing of them.
    is_empty: bool,
}

impl Named {
    pub(super) fn of(batch: &Batch, source: &Source, stats: &Stats, now: Now) -> Self {
        let resources = batch.resources.iter().map(|received| &received.name);
        let failed = batch.failures.iter().map(|failure| &failure.name);
        let names = resources.chain(failed).chain(&batch.removed);
        let mut named = Self::new(batch.ty, &batch.version, names, source, stats, now);
        if !named.names.is_empty() {
            named.removed.extend(batch.removed.iter().cloned());
        }
        named.names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        named.names.dedup_by(|a, b| a.0 == b.0);
        named
    }

    /// All that is subscribed of a file that says nothing.
    pub(super) fn all<'a>(
        ty: ResourceType,
        version: &Arc<str>,
        names: impl Iterator<Item = &'a Arc<str>>,
        source: &Source,
        stats: &Stats,
        now: Now,
    ) -> Self {
        Self {
            is_empty: true,
            ..Self::new(ty, version, names, source, stats, now)
        }
    }

    fn new<'a>(
        ty: ResourceType,
        version: &Arc<str>,
        names: impl Iterator<Item = &'a Arc<str>>,
        source: &Source,
        stats: &Stats,
        now: Now,
    ) -> Self {
        let counted = |name: &Arc<str>| {
            let counters = stats.counters_of(ty, source, name);
            let begin = |own: Arc<TypeStats>| {
                let before = own.begin(millis(now.wall));
                (own, before)
            };
            (!counters.is_empty()).then(|| (name.clone(), counters.into_iter().map(begin).collect()))
        };
        Self {
            ty,
            version: version.clone(),
            names: match stats.counts_some(ty) {
                true => names.filter_map(counted).collect(),
                false => Vec::new(),
            },
            removed: HashSet::new(),
            is_empty: false,
        }
    }

    pub(super) fn count(self, stats: &Stats, applied: &Applied, now: Now) {
        if self.names.is_empty() {
            return;
        }
        let failed: HashSet<&str> = applied.failures.iter().map(|failure| &*failure.name).collect();
        let new: HashSet<&str> = applied.new.iter().map(|name| &**name).collect();
        let awaited: HashSet<&str> = applied.awaited.iter().map(|name| &**name).collect();
        for (name, counters) in &self.names {
            for (own, before) in counters {
                if failed.contains(&**name) {
                    own.update_time.set(*before);
                    continue;
                }
                own.update_attempt.add(1);
                own.accepted(&self.version, millis(now.wall));
                if new.contains(&**name) {
                    own.config_reload.add(1);
                    own.config_reload_time_ms.set(millis(now.wall));
                } else if self.removed.contains(name) {
                    // Other types do not look at what is left.
                    own.update_empty.add(u64::from(*self.ty == types::ASSIGNMENT));
                } else if self.is_empty {
                    own.update_empty.add(1);
                } else if !awaited.contains(&**name) {
                    own.update_no_rebuild.add(1);
                }
                own.took(applied.took());
            }
            if !failed.contains(&**name) {
                stats.observed(self.ty, Some(name), applied.took());
            }
        }
    }
}

/// Counts the end of times to live: an update that takes away, of no version, as in Envoy.
pub(super) fn count_expired(stats: &Stats, source: &Source, expired: &[(ResourceType, Arc<str>)], now: Now) {
    let (none, at) = (Arc::default(), millis(now.wall));
    let update = |counters: &TypeStats| {
        counters.update_attempt.add(1);
        counters.accepted(&none, at);
    };
    let mut types: Vec<ResourceType> = expired.iter().map(|(ty, _)| *ty).collect();
    types.sort_unstable_by_key(|ty| ty.url);
    types.dedup();
    types.iter().for_each(|ty| update(&stats.of(ty)));
    for (ty, name) in expired {
        for own in stats.counters_of(ty, source, name) {
            update(&own);
            // Other types do not look at what is left.
            own.update_empty.add(u64::from(**ty == types::ASSIGNMENT));
        }
    }
}

#[derive(Default)]
pub(super) struct Records {
    types: HashMap<&'static str, HashMap<Arc<Source>, Record>>,
}

#[derive(Default)]
struct Record {
    wanted: Arc<str>,
    running: Arc<str>,
    applied: Arc<str>,
    since: Option<SystemTime>,
    last_nack: Option<Nack>,
    last_push: PushCost,
    reported: BTreeMap<String, String>,
}

/// Reported errors of one type that are kept, and characters of one that are.
const REPORTS: usize = 100;
const REPORT: usize = 500;

impl Records {
    /// Notes what the control plane says that it cannot serve. A resource that comes after all ends its error; a full response those of all.
    pub(super) fn note_reports(&mut self, stats: &Stats, source: &Arc<Source>, batch: &mut Batch) {
        let errors = std::mem::take(&mut batch.errors);
        let known = self.types.get_mut(batch.ty.url).and_then(|types| types.get_mut(source));
        if let Some(record) = known.filter(|record| !record.reported.is_empty()) {
            let served = batch.resources.iter().map(|received| &*received.name);
            served.for_each(|name| drop(record.reported.remove(name)));
            if batch.full {
                record.reported.clear();
            }
        }
        if errors.is_empty() {
            return;
        }
        stats.of(batch.ty).resource_errors.add(errors.len() as u64);
        let record = self.record(batch.ty, source);
        for (name, reason) in errors {
            let reason: String = reason.chars().take(REPORT).collect();
            tracing::warn!(ty = batch.ty.short, name, reason, "the control plane reports an error");
            if record.reported.len() < REPORTS {
                record.reported.insert(name, reason);
            }
        }
    }

    fn record(&mut self, ty: ResourceType, source: &Arc<Source>) -> &mut Record {
        self.types.entry(ty.url).or_default().entry(source.clone()).or_default()
    }

    /// Forgets what was last heard of a source that nothing is wanted of any more.
    pub(super) fn forget(&mut self, source: &Source) {
        self.types.values_mut().for_each(|types| drop(types.remove(source)));
    }

    /// Notes one answered response.
    pub(super) fn note(
        &mut self,
        stats: &Stats,
        ty: ResourceType,
        source: &Arc<Source>,
        version: Arc<str>,
        bytes: usize,
        decode: Duration,
        no_op: bool,
        applied: &Applied,
        now: Now,
    ) {
        let counters = stats.of(ty);
        counters.update_attempt.add(1);
        counters.update_empty.add(u64::from(no_op));
        let record = self.record(ty, source);
        record.wanted = version.clone();
        record.last_push = PushCost {
            bytes,
            added: applied.added,
            changed: applied.changed,
            unchanged: applied.unchanged,
            removed: applied.removed,
            rejected: applied.failures.len(),
            decode,
            validate: applied.validating,
            publish: applied.publishing,
        };
        // What only goes is no reload, as in Envoy.
        if applied.added + applied.changed > 0 {
            counters.config_reload.add(1);
            counters.config_reload_time_ms.set(millis(now.wall));
        }
        if applied.added + applied.changed + applied.removed > 0 {
            record.applied = version.clone();
        }
        if applied.failures.is_empty() {
            counters.accepted(&version, millis(now.wall));
            stats.observed(ty, None, applied.took());
            record.running = version;
            record.since = Some(now.wall);
            return;
        }
        let reason = request::reason(&applied.failures);
        tracing::warn!(ty = ty.short, version = &*version, reason, "update rejected");
        counters.update_rejected.add(1);
        record.last_nack = Some(Nack {
            at: now.wall,
            version,
            reason,
        });
    }

    pub(super) fn fill(&self, status: &mut TypeStatus, source: &Source) {
        let types = self.types.get(status.ty.url);
        let Some(record) = types.and_then(|types| types.get(source)) else {
            return;
        };
        status.wanted_version = record.wanted.clone();
        status.running_version = record.running.clone();
        status.applied_version = record.applied.clone();
        status.since = record.since;
        status.last_nack = record.last_nack.clone();
        status.last_push = record.last_push;
        let reported = record.reported.iter();
        status.reported = reported.map(|(name, reason)| (name.clone(), reason.clone())).collect();
    }
}
