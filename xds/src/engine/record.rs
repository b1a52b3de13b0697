//! What happened last to each type, for the status page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;

use crate::client::{Batch, request};
use crate::stats::Stats;
use crate::store::status::{Nack, PushCost, TypeStatus};
use crate::store::{Applied, Now, Source};
use crate::types::ResourceType;

/// The resources of one response that are counted each for itself.
pub(super) struct Named {
    ty: ResourceType,
    version: Arc<str>,
    names: Vec<Arc<str>>,
}

impl Named {
    pub(super) fn of(batch: &Batch) -> Self {
        let resources = batch.resources.iter().map(|received| &received.name);
        let failed = batch.failures.iter().map(|failure| &failure.name);
        let mut names: Vec<Arc<str>> = match batch.ty.counted_by_name {
            true => resources.chain(failed).cloned().collect(),
            false => Vec::new(),
        };
        names.sort_unstable();
        names.dedup();
        Self {
            ty: batch.ty,
            version: batch.version.clone(),
            names,
        }
    }

    pub(super) fn count(self, stats: &Stats, applied: &Applied, now: Now) {
        for name in &self.names {
            let Some(counters) = stats.of_resource(self.ty, name) else {
                continue;
            };
            counters.update_attempt.add(1);
            if applied.failures.iter().any(|failure| failure.name == *name) {
                counters.update_rejected.add(1);
            } else {
                counters.accepted(&self.version, millis(now));
                if applied.new.contains(name) {
                    counters.config_reload.add(1);
                    counters.config_reload_time_ms.set(millis(now));
                }
                stats.observed(self.ty, Some(name), applied.took());
            }
        }
    }
}

/// Since the Unix epoch.
fn millis(now: Now) -> u64 {
    let millis = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX)
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
        if applied.added + applied.changed + applied.removed > 0 {
            counters.config_reload.add(1);
            counters.config_reload_time_ms.set(millis(now));
            record.applied = version.clone();
        }
        if applied.failures.is_empty() {
            counters.accepted(&version, millis(now));
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
