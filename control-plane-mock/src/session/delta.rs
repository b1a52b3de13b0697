//! Delta: requests change the subscription, responses carry what changed and what is gone, each resource with its own version.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3::Cluster;
use remora_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use crate::script::{Manner, Script};
use crate::store::{self, Store};
use crate::transcript::{Entry, What};
use crate::types;

use super::{Reply, Response, Session, StreamInfo, describe, kind, version_of, wrap};

/// The state of one delta stream.
#[derive(Debug)]
pub struct DeltaSession {
    info: StreamInfo,
    next_nonce: u64,
    subscriptions: BTreeMap<String, Subscription>,
    /// Assignments to send again although the client has them: their cluster changed, and a changed cluster warms until it hears of its
    /// endpoints. Envoy keeps its subscription then, so nothing but the cluster's own update tells the server (measured against 1.40).
    refresh: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Subscription {
    requested: bool,
    wildcard: bool,
    /// A wildcard subscriber gets one response even when there is nothing, so that its initialisation can go on.
    greeting_owed: bool,
    names: BTreeSet<String>,
    sent: BTreeMap<String, Held>,
    /// Requested names that the client was told do not exist.
    told_missing: BTreeSet<String>,
    /// Revision of the type, and generation of the script, at which nothing was owed.
    settled: Mutex<Option<(u64, u64)>>,
    /// Type version of each response not answered yet, by nonce.
    outstanding: BTreeMap<String, String>,
    nonce: String,
    previous_nonce: String,
}

/// A resource as the client has it.
#[derive(Debug, PartialEq)]
enum Held {
    /// Told by the client in `initial_resource_versions`.
    Version(String),
    /// Sent on this stream.
    Revision(u64),
}

struct Owed {
    updated: Vec<String>,
    removed: Vec<String>,
}

impl DeltaSession {
    /// A stream on which nothing was said yet.
    pub fn new(info: StreamInfo) -> Self {
        Self {
            info,
            next_nonce: 0,
            subscriptions: BTreeMap::new(),
            refresh: BTreeSet::new(),
        }
    }

    fn refresh_endpoints(&mut self) {
        if let Some(endpoints) = self.subscriptions.get_mut(types::ENDPOINTS) {
            self.refresh.retain(|name| {
                let subscribed = endpoints.names.contains(name);
                if subscribed {
                    endpoints.sent.remove(name);
                    *endpoints.settled.get_mut() = None;
                }
                !subscribed
            });
        }
    }

    fn reply(&mut self, type_url: &str, version: String, resources: Vec<Resource>, removed: Vec<String>) -> Reply {
        self.next_nonce += 1;
        let nonce = self.next_nonce.to_string();
        let subscription = self.subscriptions.entry(type_url.to_owned()).or_default();
        subscription.previous_nonce = std::mem::replace(&mut subscription.nonce, nonce.clone());
        subscription.outstanding.insert(nonce.clone(), version.clone());
        let mut entry = Entry::new(self.info.id, true, What::Response, type_url);
        entry.version.clone_from(&version);
        entry.nonce.clone_from(&nonce);
        entry.names = resources.iter().map(|resource| resource.name.clone()).collect();
        entry.removed.clone_from(&removed);
        let message = Response::Delta(DeltaDiscoveryResponse {
            system_version_info: version,
            resources,
            type_url: type_url.to_owned(),
            removed_resources: removed,
            nonce,
            control_plane: self.info.control_plane(),
            ..Default::default()
        });
        Reply { entry, message }
    }
}

impl Session for DeltaSession {
    fn receive(&mut self, bytes: Bytes, _store: &Store, _script: &Script) -> Result<Entry, String> {
        let request =
            DeltaDiscoveryRequest::decode(bytes).map_err(|error| format!("not a DeltaDiscoveryRequest: {error}"))?;
        let type_url = self.info.check_type(&request.type_url)?;
        let subscription = self.subscriptions.entry(type_url.clone()).or_default();
        let answered = subscription.outstanding.remove(&request.response_nonce);
        let answers = !request.response_nonce.is_empty();
        let mut entry = Entry::new(
            self.info.id,
            true,
            kind(request.error_detail.as_ref(), answers),
            &type_url,
        );
        describe(&mut entry, request.node.as_ref(), request.error_detail.as_ref());
        entry.stale = answers && answered.is_none();
        entry.version = answered.unwrap_or_default();
        entry.nonce = request.response_nonce;
        entry.names = request.resource_names_subscribe;
        entry.removed = request.resource_names_unsubscribe;
        entry.initial_versions = request.initial_resource_versions.into_iter().collect();
        entry.initial_versions.sort();
        subscription.update(&entry);
        self.refresh_endpoints();
        Ok(entry)
    }

    fn subscribed(&self) -> Vec<String> {
        self.subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.requested)
            .map(|(url, _)| url.clone())
            .collect()
    }

    fn owes(&self, type_url: &str, store: &Store, script: &Script) -> bool {
        let Some(subscription) = self
            .subscriptions
            .get(type_url)
            .filter(|subscription| subscription.requested)
        else {
            return false;
        };
        let owed = subscription.owed(type_url, store, script);
        subscription.greeting_owed || !owed.updated.is_empty() || !owed.removed.is_empty()
    }

    fn respond(&mut self, type_url: &str, store: &Store, script: &Script) -> Reply {
        let subscription = self.subscriptions.entry(type_url.to_owned()).or_default();
        let owed = subscription.owed(type_url, store, script);
        subscription.greeting_owed = false;
        for name in &owed.removed {
            subscription.sent.remove(name);
            if subscription.names.contains(name) {
                subscription.told_missing.insert(name.clone());
            }
        }
        let mut resources = Vec::with_capacity(owed.updated.len());
        for name in &owed.updated {
            if let Some(entry) = store.of(type_url).and_then(|state| state.entries().get(name)) {
                subscription.told_missing.remove(name);
                let replaced = subscription
                    .sent
                    .insert(name.clone(), Held::Revision(entry.revision))
                    .is_some();
                if replaced && type_url == types::CLUSTER && script.manner == Manner::Plain {
                    self.refresh.extend(assignment_of(entry));
                }
                resources.push(wrap(name, &entry.version, Some(entry.any.clone()), entry.ttl));
            }
        }
        self.refresh_endpoints();
        self.reply(type_url, version_of(store, type_url), resources, owed.removed)
    }

    fn respond_unsolicited(&mut self, type_url: &str, store: &Store) -> Reply {
        let resources = store
            .of(type_url)
            .into_iter()
            .flat_map(|state| state.entries())
            .map(|(name, entry)| wrap(name, &entry.version, Some(entry.any.clone()), entry.ttl))
            .collect();
        self.reply(type_url, version_of(store, type_url), resources, Vec::new())
    }

    fn heartbeat(&mut self, type_url: &str, name: &str, store: &Store) -> Reply {
        let entry = store.of(type_url).and_then(|state| state.entries().get(name));
        let version = entry.map(|entry| entry.version.clone()).unwrap_or_default();
        let beat = wrap(name, &version, None, entry.and_then(|entry| entry.ttl));
        self.reply(type_url, version_of(store, type_url), vec![beat], Vec::new())
    }

    fn forget_sent(&mut self, type_url: &str) {
        if let Some(subscription) = self.subscriptions.get_mut(type_url) {
            // What is gone from the store stays, for its removal is still to be told.
            subscription
                .sent
                .values_mut()
                .for_each(|held| *held = Held::Version(String::new()));
            subscription.told_missing.clear();
            *subscription.settled.get_mut() = None;
        }
    }

    fn nonces(&self, type_url: &str) -> (String, String) {
        self.subscriptions
            .get(type_url)
            .map(|subscription| (subscription.nonce.clone(), subscription.previous_nonce.clone()))
            .unwrap_or_default()
    }
}

impl Subscription {
    fn update(&mut self, entry: &Entry) {
        let first = !self.requested;
        self.requested = true;
        if first || !entry.names.is_empty() || !entry.removed.is_empty() {
            *self.settled.get_mut() = None;
        }
        if first {
            for (name, version) in &entry.initial_versions {
                self.sent.insert(name.clone(), Held::Version(version.clone()));
            }
            if entry.names.is_empty() {
                self.start_wildcard();
            }
        }
        for name in &entry.names {
            if name == "*" {
                self.start_wildcard();
                continue;
            }
            self.names.insert(name.clone());
            self.told_missing.remove(name);
            if !first {
                // Whatever it has, a client that subscribes is to be sent the resource.
                self.sent.remove(name);
            }
        }
        for name in &entry.removed {
            self.unsubscribe(name);
        }
    }

    fn start_wildcard(&mut self) {
        self.greeting_owed |= !self.wildcard;
        self.wildcard = true;
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == "*" {
            self.wildcard = false;
            self.greeting_owed = false;
            let names = &self.names;
            self.sent.retain(|held, _| names.contains(held));
            return;
        }
        let known = self.names.remove(name);
        self.told_missing.remove(name);
        if !self.wildcard {
            self.sent.remove(name);
        } else if known {
            // The client cannot know whether the wildcard still covers this name: it is told, by an update or by a removal.
            self.sent.insert(name.to_owned(), Held::Version(String::new()));
        }
    }

    /// Everything that the client has not been told. Remembers when that is nothing, so that a small change costs little where there are
    /// many resources.
    fn owed(&self, type_url: &str, store: &Store, script: &Script) -> Owed {
        let state = store.of(type_url);
        let revision = state.map_or(0, store::TypeState::revision);
        let settled = self
            .settled
            .lock()
            .filter(|(_, script_then)| *script_then == script.generation);
        let recent = settled.and_then(|(then, _)| match state {
            Some(state) => state.changed_since(then).map(Iterator::collect::<BTreeSet<&str>>),
            None => Some(BTreeSet::new()),
        });
        let names = recent.unwrap_or_else(|| {
            let existing = state.into_iter().flat_map(|state| state.entries().keys());
            existing
                .chain(self.sent.keys())
                .chain(&self.names)
                .map(String::as_str)
                .collect()
        });
        let (mut updated, mut removed) = (Vec::new(), Vec::new());
        for name in names.into_iter().filter(|name| script.lets_through(type_url, name)) {
            match state.and_then(|state| state.entries().get(name)) {
                Some(entry) => {
                    let wanted = self.wildcard || self.names.contains(name);
                    if wanted && !self.has(name, entry) {
                        updated.push(name.to_owned());
                    }
                }
                None => {
                    let missing = self.names.contains(name) && !self.told_missing.contains(name);
                    if missing || self.sent.contains_key(name) {
                        removed.push(name.to_owned());
                    }
                }
            }
        }
        if updated.is_empty() && removed.is_empty() {
            *self.settled.lock() = Some((revision, script.generation));
        }
        Owed { updated, removed }
    }

    fn has(&self, name: &str, entry: &store::Entry) -> bool {
        match self.sent.get(name) {
            None => false,
            Some(Held::Version(version)) => *version == entry.version,
            Some(Held::Revision(revision)) => *revision == entry.revision,
        }
    }
}

/// Name of the EDS resource of a cluster that has one.
fn assignment_of(entry: &store::Entry) -> Option<String> {
    let cluster = Cluster::decode(entry.any.value.as_slice()).ok()?;
    let eds = cluster.eds_cluster_config?;
    Some(if eds.service_name.is_empty() {
        cluster.name
    } else {
        eds.service_name
    })
}
