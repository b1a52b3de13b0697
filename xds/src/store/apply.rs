//! What a response does to the store: check, compare, accept, remove.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashSet;
use xxhash_rust::xxh64::xxh64;

use super::resource::{ErrorState, Reference, Resource, Source};
use super::table::Key;
use super::{Now, Store};
use crate::bugs::{Bug, planted};
use crate::client::Batch;
use crate::client::message::Received;
use crate::client::request::Failure;
use crate::types::ResourceType;

/// What became of one response.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    pub added: usize,
    pub changed: usize,
    pub unchanged: usize,
    pub removed: usize,
    /// The names behind `added` and `changed`, where each may be counted for itself.
    pub new: Vec<Arc<str>>,
    /// Names behind `unchanged` that a changed owner has waited for: to that they are new.
    pub awaited: Vec<Arc<str>>,
    /// In the order of the response; empty means ACK.
    pub failures: Vec<Failure>,
    /// Time spent in the interpreter.
    pub validating: Duration,
    /// Time from the last resource to the publication.
    pub publishing: Duration,
}

impl Applied {
    /// Time that the whole of it took.
    pub fn took(&self) -> Duration {
        self.validating + self.publishing
    }
}

enum Outcome {
    Added,
    Changed,
    Unchanged,
}

impl Store {
    /// Applies what is good of `batch`, which `source` has sent, and publishes it as far as it is warm. `clock` only measures.
    pub fn apply(&mut self, batch: &mut Batch, source: &Source, now: Now, clock: &dyn Fn() -> Instant) -> Applied {
        let table = self.table_of(batch.ty, source);
        let mut applied = Applied {
            failures: std::mem::take(&mut batch.failures),
            ..Applied::default()
        };
        let push = &mut self.tables[table as usize].push;
        *push = push.wrapping_add(u32::from(batch.full));
        let started = clock();
        self.announce(batch, &applied.failures);
        self.note_unread(table, batch, &applied.failures, now);
        for received in &batch.resources {
            let is_awaited = batch.ty.fresh_on_change && self.is_awaited(table, &received.name);
            let outcome = self.put(table, batch, received, now);
            if !batch.ty.full_state && matches!(outcome, Ok(Outcome::Added | Outcome::Changed)) {
                applied.new.push(received.name.clone());
            }
            if is_awaited && matches!(outcome, Ok(Outcome::Unchanged)) {
                applied.awaited.push(received.name.clone());
            }
            match outcome {
                Ok(Outcome::Added) => applied.added += 1,
                Ok(Outcome::Changed) => applied.changed += 1,
                Ok(Outcome::Unchanged) => applied.unchanged += 1,
                Err(reason) => applied.failures.push(Failure {
                    name: received.name.clone(),
                    reason,
                }),
            }
        }
        let validated = clock();
        for name in &batch.removed {
            applied.removed += usize::from(self.remove(&Key {
                table,
                name: name.clone(),
            }));
        }
        if batch.full {
            applied.removed += self.sweep(table, batch, &applied.failures);
        }
        self.commit();
        applied.validating = validated.saturating_duration_since(started);
        applied.publishing = clock().saturating_duration_since(validated);
        applied
    }

    /// A resource whose TTL ran out is treated as a removed one.
    pub fn expire(&mut self, ty: ResourceType, source: &Source, name: &Arc<str>) {
        self.interpreter.begin(ty.url, &|gone| gone == &**name);
        let table = self.table_of(ty, source);
        self.remove(&Key {
            table,
            name: name.clone(),
        });
        self.commit();
    }

    /// Tells the interpreter what goes.
    fn announce(&self, batch: &Batch, failures: &[Failure]) {
        let unnamed = failures.iter().any(|failure| failure.name.is_empty());
        if !batch.full || unnamed {
            let removed: HashSet<&str> = batch.removed.iter().map(|name| &**name).collect();
            return self.interpreter.begin(batch.ty.url, &|name| removed.contains(name));
        }
        let resources = batch.resources.iter().map(|received| &*received.name);
        let failed = failures.iter().map(|failure| &*failure.name);
        let present = batch.present.iter().map(|name| &**name);
        let named: HashSet<&str> = resources.chain(failed).chain(present).collect();
        self.interpreter.begin(batch.ty.url, &|name| !named.contains(name));
    }

    fn put(&mut self, table: u32, batch: &Batch, received: &Received, now: Now) -> Result<Outcome, String> {
        let ty = batch.ty;
        let Some(payload) = &received.payload else {
            return Ok(Outcome::Unchanged);
        };
        let key = Key {
            table,
            name: received.name.clone(),
        };
        if self.fixed.contains(&(ty.url, key.name.clone())) {
            tracing::debug!(
                ty = ty.short,
                name = &*key.name,
                "not modifiable: the bootstrap defines it"
            );
            return Ok(Outcome::Unchanged);
        }
        let hash = xxh64(payload, 0);
        let push = self.tables[table as usize].push;
        let known = self.entry_mut(&key).is_some_and(|entry| {
            entry.seen = push;
            entry.newest().is_some()
        });
        if self.is_newest(&key, hash, payload) && !self.interpreter.ages(ty.url, payload) {
            if let Some(entry) = self.entry_mut(&key) {
                entry.error = None;
            }
            self.answered(&key);
            return Ok(Outcome::Unchanged);
        }
        let references = match self.check(ty, &key.name, payload) {
            Ok(references) => references,
            Err(reason) => {
                self.refuse(&key, payload.clone(), &received.version, &reason, now);
                return Err(reason);
            }
        };
        let resource = Resource {
            ty,
            name: key.name.clone(),
            // Out of the response's buffer, which then can go.
            bytes: Bytes::copy_from_slice(payload),
            version: received.version.clone(),
            response: batch.version.clone(),
            hash,
            updated_at: now.wall,
        };
        self.accept(key.clone(), Arc::new(resource), references, now);
        if let Some(entry) = self.entry_mut(&key) {
            entry.seen = push;
        }
        Ok(if known { Outcome::Changed } else { Outcome::Added })
    }

    fn is_awaited(&self, table: u32, name: &str) -> bool {
        let entry = self.tables[table as usize].entries.get(name);
        let target = entry.and_then(|entry| entry.target.as_ref());
        target.is_some_and(|target| !target.waiters.is_empty())
    }

    /// Asks the interpreter. A panic in it is a reason to refuse the resource, not to lose the store.
    fn check(&self, ty: ResourceType, name: &str, payload: &Bytes) -> Result<Vec<Reference>, String> {
        let interpreter = &self.interpreter;
        let known = |ty: ResourceType, name: &str| self.has(ty, name);
        let check = AssertUnwindSafe(|| interpreter.check(ty.url, name, payload, &known));
        catch_unwind(check).unwrap_or_else(|_| Err("internal error: the check panicked".to_owned()))
    }

    fn is_newest(&self, key: &Key, hash: u64, payload: &Bytes) -> bool {
        let newest = self.entry(key).and_then(|entry| entry.newest());
        newest.is_some_and(|newest| newest.hash == hash && newest.bytes == *payload)
    }

    /// Remembers why a version is not in use. The last good one stays.
    fn refuse(&mut self, key: &Key, failed: Bytes, version: &Arc<str>, reason: &str, now: Now) {
        let push = self.tables[key.table as usize].push;
        let entry = self.entry_or_new(key);
        entry.seen = push;
        entry.error = Some(Box::new(ErrorState {
            failed: Bytes::copy_from_slice(&failed),
            details: reason.into(),
            version: version.clone(),
            at: now.wall,
        }));
        if planted(Bug::BadDropsGood) && entry.active.take().is_some() {
            self.published.push(key.clone());
        }
        // A refused first version ends the wait for it, as in Envoy: the owner goes on without.
        self.answered(key);
    }

    /// Failures found before the store saw them: whoever has the name gets the error, and so does what is new in a whole set.
    fn note_unread(&mut self, table: u32, batch: &Batch, failures: &[Failure], now: Now) {
        for failure in failures {
            let key = Key {
                table,
                name: failure.name.clone(),
            };
            let is_new = batch.ty.full_state && !failure.name.is_empty();
            let is_fixed = self.fixed.contains(&(batch.ty.url, key.name.clone()));
            if self.entry(&key).is_some() || (is_new && !is_fixed) {
                self.refuse(&key, Bytes::new(), &batch.version, &failure.reason, now);
            }
        }
    }

    /// One explicit removal. Returns whether something went away.
    fn remove(&mut self, key: &Key) -> bool {
        let ty = self.table(key).ty;
        if ty.removal_deletes || (planted(Bug::RemovedSecretGoes) && ty.short == "sds") {
            let deleted = self.delete(key);
            self.answered(key);
            return deleted;
        }
        // Only its owner can end an assignment, a route configuration or a secret. One that never came will not, for now.
        match ty.waits_for_absent {
            true => self.absent(key),
            false => self.answered(key),
        }
        false
    }

    /// Deletes what a full push did not name. A resource that could not be read is not gone.
    fn sweep(&mut self, table: u32, batch: &Batch, failures: &[Failure]) -> usize {
        let careless = planted(Bug::BadIsDeleted);
        if failures.iter().any(|failure| failure.name.is_empty()) && !careless {
            return 0;
        }
        let present = batch.present.iter().filter(|_| !planted(Bug::HeartbeatIsAbsence));
        let spared: HashSet<&str> = if careless {
            HashSet::new()
        } else {
            failures
                .iter()
                .map(|failure| &*failure.name)
                .chain(present.map(|name| &**name))
                .collect()
        };
        let bad: HashSet<&str> = failures
            .iter()
            .map(|failure| &*failure.name)
            .filter(|_| careless)
            .collect();
        let index = table as usize;
        let push = self.tables[index].push;
        self.visits += self.tables[index].entries.len() as u64;
        let entries = self.tables[index].entries.iter();
        let gone: Vec<Key> = entries
            .filter(|(name, entry)| (entry.seen != push && !spared.contains(&***name)) || bad.contains(&***name))
            .map(|(name, _)| Key {
                table,
                name: name.clone(),
            })
            .collect();
        gone.iter().filter(|key| self.delete(key)).count()
    }
}
