//! Secrets by name and source. A context subscribes to the cells it names; an update rebuilds those contexts and no other.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use xxhash_rust::xxh64::Xxh64;

use super::material::{self, Certificate};
use super::report::CertificateReport;
use super::verify::ValidationSecret;
use crate::config::sources::ResourceKey;
use crate::config::{Compiled, Problems};
use crate::telemetry::stats::Counter;

/// A decoded, checked secret.
#[derive(Debug)]
pub enum SecretValue {
    Certificate(Certificate),
    Validation(ValidationSecret),
}

/// Something that is built from secrets and built again when one changes.
pub trait Rebuild: Send + Sync {
    /// Takes up the newest values; keeps the old build if it cannot. `came`: one has arrived, and not gone.
    fn rebuild(&self, came: bool);
    /// What `/certs` shows of it.
    fn report(&self) -> CertificateReport;
    /// Each certificate's name in stats, and when it expires (seconds since the epoch).
    fn expirations(&self, visit: &mut dyn FnMut(&str, i64));
}

/// One secret, swapped in place.
pub struct SecretCell {
    name: Arc<str>,
    /// It comes from a control plane or a file, and not with the bootstrap.
    delivered: bool,
    value: ArcSwapOption<SecretValue>,
    watchers: Mutex<Vec<Weak<dyn Rebuild>>>,
    /// How often its files changed into something that cannot be used.
    failed_rotations: Counter,
}

impl SecretCell {
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it has been delivered: a new context that finds it there counts that as its arrival, as in Envoy.
    pub fn has_arrived(&self) -> bool {
        self.delivered && self.value.load().is_some()
    }

    /// `None` until the secret has arrived.
    pub fn value(&self) -> Option<Arc<SecretValue>> {
        self.value.load_full()
    }

    /// Has `watcher` rebuilt on every change, for as long as it lives.
    pub fn watch(&self, watcher: Weak<dyn Rebuild>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|known| known.strong_count() > 0);
        watchers.push(watcher);
    }

    fn set(&self, value: Option<Arc<SecretValue>>) {
        let came = value.is_some();
        self.value.store(value);
        // Rebuilt outside the lock: a rebuild may take milliseconds, and a compile may subscribe meanwhile.
        let watchers: Vec<_> = self.watchers.lock().iter().filter_map(Weak::upgrade).collect();
        for watcher in watchers {
            watcher.rebuild(came);
        }
    }
}

/// All secrets, and the contexts that live, for `/certs`.
#[derive(Default)]
pub struct SecretStore {
    cells: Mutex<HashMap<ResourceKey, Arc<SecretCell>>>,
    contexts: Mutex<Vec<Weak<dyn Rebuild>>>,
    /// Delivered secrets that read files.
    from_files: Mutex<HashMap<ResourceKey, FromFiles>>,
}

struct FromFiles {
    /// Encoded.
    secret: Bytes,
    /// Of what was in its files when they were last taken in.
    hash: u64,
}

/// A file that a secret reads, and what to watch for its changes: its own directory if nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    pub path: String,
    pub watched_directory: Option<String>,
}

impl SecretStore {
    /// The cell of a secret, empty until [`update`](Self::update) fills it.
    pub fn cell(&self, key: ResourceKey) -> Arc<SecretCell> {
        let mut cells = self.cells.lock();
        let cell = cells.entry(key).or_insert_with_key(|key| {
            Arc::new(SecretCell {
                name: key.name.clone(),
                delivered: key.source.is_some(),
                value: ArcSwapOption::empty(),
                watchers: Mutex::default(),
                failed_rotations: Counter::default(),
            })
        });
        cell.clone()
    }

    /// Takes a `Secret` resource (encoded) in, or its removal. Reads the files it names. New handshakes use it at once.
    ///
    /// # Errors
    /// What is wrong with the secret; the last good one stays.
    pub fn update(&self, key: &ResourceKey, secret: Option<&[u8]>) -> Compiled<()> {
        let value = secret.map(Self::compile).transpose()?.flatten();
        self.cell(key.clone()).set(value.map(Arc::new));
        Ok(())
    }

    /// Checks an encoded `Secret` without taking it in. `None`: a kind that nothing here uses (generic secrets, ticket keys).
    pub fn compile(secret: &[u8]) -> Compiled<Option<SecretValue>> {
        let secret = pb::Secret::decode(secret).map_err(|error| Problems::one("", error.to_string()))?;
        Ok(match secret.r#type {
            Some(pb::secret::Type::TlsCertificate(tls)) => {
                let certificate = Certificate::compile(&tls).map_err(|problems| problems.under("tls_certificate"))?;
                Some(SecretValue::Certificate(certificate))
            }
            Some(pb::secret::Type::ValidationContext(context)) => {
                let context = ValidationSecret::compile(context);
                Some(SecretValue::Validation(
                    context.map_err(|problems| problems.under("validation_context"))?,
                ))
            }
            _ => None,
        })
    }

    /// As [`compile`](Self::compile), of a secret that is [delivered](Self::deliver): the directory that it names is to be watched, whether it reads
    /// files or not.
    ///
    /// # Errors
    /// What is wrong with the secret.
    pub fn check_delivered(secret: &[u8]) -> Compiled<()> {
        Self::compile(secret)?;
        material::check_watched(secret)
    }

    /// As [`update`](Self::update), of a secret that a control plane or a watched file has delivered: the files that it reads in turn are read
    /// again when they change (see [`reading_files`](Self::reading_files)). A static secret is read once, as in Envoy.
    ///
    /// # Errors
    /// What is wrong with the secret; the last good one stays.
    pub fn deliver(&self, key: &ResourceKey, secret: Option<&Bytes>) -> Compiled<()> {
        {
            let mut from_files = self.from_files.lock();
            match secret.filter(|secret| !Self::files(secret).is_empty()) {
                Some(secret) => {
                    let hash = hash(&Self::files(secret));
                    let secret = secret.clone();
                    from_files.insert(key.clone(), FromFiles { secret, hash })
                }
                None => from_files.remove(key),
            };
        }
        self.update(key, secret.map(|secret| &secret[..]))
    }

    /// Takes the files of a delivered secret in again, if there is something else in them than what is in use. What cannot be used is counted
    /// (`key_rotation_failed`), each time that it is looked at, as in Envoy.
    ///
    /// # Errors
    /// What is wrong with the secret; the last good one stays.
    pub fn reread(&self, key: &ResourceKey) -> Compiled<()> {
        let known = self
            .from_files
            .lock()
            .get(key)
            .map(|own| (own.secret.clone(), own.hash));
        let Some((secret, hash_in_use)) = known else {
            return Ok(());
        };
        let hash = hash(&Self::files(&secret));
        if hash == hash_in_use {
            return Ok(());
        }
        self.update(key, Some(&secret))
            .inspect_err(|_| self.cell(key.clone()).failed_rotations.inc())?;
        if let Some(own) = self.from_files.lock().get_mut(key) {
            own.hash = hash;
        }
        Ok(())
    }

    /// How often the files of secrets changed into something that cannot be used, by the secrets' names.
    pub fn failed_rotations(&self) -> HashMap<Arc<str>, u64> {
        let mut failed = HashMap::new();
        for cell in self.cells.lock().values() {
            *failed.entry(cell.name.clone()).or_default() += cell.failed_rotations.value();
        }
        failed
    }

    /// Counts failed rotations from zero again (`/reset_counters`).
    pub fn reset_failed_rotations(&self) {
        self.cells
            .lock()
            .values()
            .for_each(|cell| cell.failed_rotations.reset());
    }

    /// Delivered secrets that read files, encoded: whoever watches those calls [`reread`](Self::reread).
    pub fn reading_files(&self) -> Vec<(ResourceKey, Bytes)> {
        let from_files = self.from_files.lock();
        let pairs = from_files.iter().map(|(key, own)| (key.clone(), own.secret.clone()));
        pairs.collect()
    }

    /// Files that an encoded secret reads.
    pub fn files(secret: &[u8]) -> Vec<SecretFile> {
        pb::Secret::decode(secret)
            .map(|secret| material::files(&secret))
            .unwrap_or_default()
    }

    /// Remembers a context for [`reports`](Self::reports), for as long as it lives.
    pub fn register(&self, context: Weak<dyn Rebuild>) {
        let mut contexts = self.contexts.lock();
        if contexts.len().is_power_of_two() {
            contexts.retain(|known| known.strong_count() > 0);
        }
        contexts.push(context);
    }

    /// One report per living context, as `/certs` lists them.
    pub fn reports(&self) -> Vec<CertificateReport> {
        self.living().iter().map(|context| context.report()).collect()
    }

    /// When the first certificate of all that are in use expires, in seconds since the epoch.
    pub fn first_expiration(&self) -> Option<i64> {
        let mut first = None;
        for context in self.living() {
            context.expirations(&mut |_, at| first = Some(first.map_or(at, |first: i64| first.min(at))));
        }
        first
    }

    fn living(&self) -> Vec<Arc<dyn Rebuild>> {
        self.contexts.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Of what is in files, those that cannot be read included.
fn hash(files: &[SecretFile]) -> u64 {
    let mut hash = Xxh64::new(0);
    for file in files {
        let content = remora_xds::client::file::read(file.path.as_ref());
        let (is_there, content) = match &content {
            Ok(content) => (1, content.as_slice()),
            Err(_) => (0, &[][..]),
        };
        hash.update(&[is_there]);
        hash.update(&(content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    hash.digest()
}
