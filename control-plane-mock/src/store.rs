//! What the control plane holds: resources by type and name, each with its own version, and one version per type.
//!
//! Flow: pushes come in through [`Store::put`] and [`Store::replace`], sessions read what they owe their client out of it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use prost::Message;
use remora_proto::pb::google::protobuf::Any;

use crate::snapshot::Item;
use crate::types;

pub(crate) use crate::snapshot::key_of;
pub use crate::snapshot::{IntoResource, Snapshot};

/// One resource as it is served.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The payload, packed.
    pub any: Any,
    /// Version of this resource (delta's per-resource version): a hash of its bytes, so that a restarted control plane gives the same
    /// version to the same resource and another one to a changed one.
    pub version: String,
    /// Raised by each push, also of the same bytes.
    pub revision: u64,
    /// Time to live told to the client; makes SotW responses use the `Resource` wrapper.
    pub ttl: Option<Duration>,
}

/// The name of a packed resource. Every xDS resource has it as field 1; undecodable bytes give an empty name.
pub fn name_of(any: &Any) -> String {
    Named::decode(any.value.as_slice())
        .map(|named| named.name)
        .unwrap_or_default()
}

/// All resources of one type.
#[derive(Clone, Debug, Default)]
pub struct TypeState {
    /// Raised by each change; 0 is "never had anything".
    revision: u64,
    pinned: Option<String>,
    entries: BTreeMap<String, Entry>,
    /// The newest changes: which revision, which name.
    log: VecDeque<(u64, String)>,
    /// Changes up to this revision may be missing from `log`.
    forgotten: u64,
}

/// Changes that are remembered one by one.
const LOG: usize = 256;

impl TypeState {
    /// The version of the type as a whole: SotW's `version_info`, delta's `system_version_info`.
    pub fn version(&self) -> String {
        self.pinned.clone().unwrap_or_else(|| self.revision.to_string())
    }

    /// Resources by name.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Raised by each change of this type.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Names that came, changed or went after `revision`, some of them twice; `None` when that is too long ago to tell.
    pub fn changed_since(&self, revision: u64) -> Option<impl Iterator<Item = &str>> {
        let newer = self
            .log
            .iter()
            .rev()
            .take_while(move |(changed, _)| *changed > revision);
        (revision >= self.forgotten).then(|| newer.map(|(_, name)| name.as_str()))
    }

    fn note(&mut self, name: &str) {
        self.log.push_back((self.revision, name.to_owned()));
        if self.log.len() > LOG
            && let Some((revision, _)) = self.log.pop_front()
        {
            self.forgotten = revision;
        }
    }
}

/// The whole state of the control plane. Cheap enough to clone, so that a restarted server can go on from it.
#[derive(Clone, Debug, Default)]
pub struct Store {
    types: BTreeMap<String, TypeState>,
}

impl Store {
    /// State of one type, if anything of it was ever stored.
    pub fn of(&self, type_url: &str) -> Option<&TypeState> {
        self.types.get(type_url)
    }

    /// Every type ever stored.
    pub fn types(&self) -> impl Iterator<Item = (&str, &TypeState)> {
        self.types.iter().map(|(url, state)| (url.as_str(), state))
    }

    /// Adds or replaces one resource. Returns the new version of the type.
    pub fn put(&mut self, name: &str, any: Any, ttl: Option<Duration>) -> String {
        let type_url = any.type_url.clone();
        self.put_as(&type_url, name, any, ttl)
    }

    /// As [`Store::put`], but filed under `type_url` whatever the payload says (to serve a wrong type on purpose).
    pub fn put_as(&mut self, type_url: &str, name: &str, any: Any, ttl: Option<Duration>) -> String {
        let state = self.bump(type_url);
        let entry = Entry {
            version: content_version(&any),
            revision: state.revision,
            any,
            ttl,
        };
        state.entries.insert(name.to_owned(), entry);
        state.note(name);
        state.version()
    }

    /// Removes a resource. Returns the new version of the type, or `None` if there was no such resource.
    pub fn remove(&mut self, type_url: &str, name: &str) -> Option<String> {
        self.types
            .get(type_url)
            .filter(|state| state.entries.contains_key(name))?;
        let state = self.bump(type_url);
        state.entries.remove(name);
        state.note(name);
        Some(state.version())
    }

    /// Makes the store hold exactly `snapshot`. Types whose content does not change keep their version, and unchanged resources keep theirs.
    pub fn replace(&mut self, snapshot: &Snapshot) {
        let mut wanted: BTreeMap<&str, BTreeMap<&str, &Item>> = BTreeMap::new();
        for ((type_url, name), item) in &snapshot.resources {
            wanted.entry(type_url).or_default().insert(name, item);
        }
        let known: Vec<String> = self.types.keys().cloned().collect();
        for type_url in known
            .iter()
            .map(String::as_str)
            .chain(wanted.keys().copied().collect::<Vec<_>>())
        {
            let empty = BTreeMap::new();
            let new = wanted.get(type_url).unwrap_or(&empty);
            if self.types.get(type_url).is_some_and(|state| same(state, new)) {
                continue;
            }
            let state = self.bump(type_url);
            let gone = state.entries.keys().filter(|name| !new.contains_key(name.as_str()));
            for name in gone.cloned().collect::<Vec<_>>() {
                state.entries.remove(&name);
                state.note(&name);
            }
            for (name, item) in new {
                if state.entries.get(*name).is_none_or(|entry| !item.is(entry)) {
                    let (version, revision) = (content_version(&item.any), state.revision);
                    let entry = Entry {
                        any: item.any.clone(),
                        version,
                        revision,
                        ttl: item.ttl,
                    };
                    state.entries.insert((*name).to_owned(), entry);
                    state.note(name);
                }
            }
        }
    }

    /// Exchanges the resources named in `old` for those in `new`; resources in neither stay.
    pub fn exchange(&mut self, old: &Snapshot, new: &Snapshot) {
        let mut all = Snapshot::new();
        for (type_url, state) in &self.types {
            for (name, entry) in &state.entries {
                let key = (type_url.clone(), name.clone());
                if !old.resources.contains_key(&key) {
                    let (any, ttl) = (entry.any.clone(), entry.ttl);
                    all.resources.insert(key, Item { any, ttl });
                }
            }
        }
        all.resources.extend(new.resources.clone());
        self.replace(&all);
    }

    /// Fixes the version string of a type until the next change.
    pub fn pin_version(&mut self, type_url: &str, version: &str) {
        self.bump(type_url).pinned = Some(version.to_owned());
    }

    fn bump(&mut self, type_url: &str) -> &mut TypeState {
        let state = self.types.entry(type_url.to_owned()).or_default();
        state.revision += 1;
        state.pinned = None;
        state
    }
}

fn content_version(any: &Any) -> String {
    let mut hasher = DefaultHasher::new();
    any.type_url.hash(&mut hasher);
    any.value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn same(state: &TypeState, new: &BTreeMap<&str, &Item>) -> bool {
    let held = |name: &str, item: &Item| state.entries.get(name).is_some_and(|entry| item.is(entry));
    state.entries.len() == new.len() && new.iter().all(|(name, item)| held(name, item))
}

/// The one field all resources share.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// Packs raw bytes under a type, for resources that no builder can make (undecodable ones, for instance).
pub fn raw(type_url: &str, bytes: impl Into<Vec<u8>>) -> Any {
    Any {
        type_url: types::resolve(type_url),
        value: bytes.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;

    #[test]
    fn replace_keeps_the_versions_of_what_did_not_change() {
        let mut store = Store::default();
        let a = || resources::cluster_static("a", [("127.0.0.1", 1)]);
        store.replace(
            &Snapshot::new()
                .with(a())
                .with(resources::cluster_static("b", [("127.0.0.1", 2)])),
        );
        store.replace(
            &Snapshot::new()
                .with(a())
                .with(resources::cluster_static("b", [("127.0.0.1", 3)])),
        );
        let clusters = store.of(types::CLUSTER).expect("clusters were stored");
        assert_eq!(clusters.version(), "2");
        assert_eq!(
            (clusters.entries()["a"].revision, clusters.entries()["b"].revision),
            (1, 2)
        );
        store.replace(&Snapshot::new().with(a()));
        store.replace(&Snapshot::new().with(a()));
        let clusters = store.of(types::CLUSTER).expect("clusters were stored");
        assert_eq!((clusters.version().as_str(), clusters.entries().len()), ("3", 1));
    }

    #[test]
    fn changes_are_told_one_by_one_as_long_as_they_are_remembered() {
        let mut store = Store::default();
        let put = |store: &mut Store, name: &str| {
            let resource = resources::cluster_static(name, [("127.0.0.1", 1)]).into_any();
            store.put(name, resource, None);
        };
        put(&mut store, "a");
        put(&mut store, "b");
        store.remove(types::CLUSTER, "a");
        let since = |store: &Store, revision: u64| -> Option<Vec<String>> {
            let state = store.of(types::CLUSTER).expect("clusters were stored");
            Some(state.changed_since(revision)?.map(str::to_owned).collect())
        };
        assert_eq!(since(&store, 1), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(since(&store, 3), Some(Vec::new()));
        for index in 0..LOG {
            put(&mut store, &index.to_string());
        }
        assert_eq!(since(&store, 2), None);
        assert_eq!(since(&store, 3).map(|names| names.len()), Some(LOG));
    }

    #[test]
    fn an_undecodable_resource_has_no_name() {
        assert_eq!(name_of(&raw("cds", [0xff, 0xff])), "");
        assert_eq!(
            name_of(&resources::cluster_static("x", [("127.0.0.1", 1)]).into_any()),
            "x"
        );
    }
}
