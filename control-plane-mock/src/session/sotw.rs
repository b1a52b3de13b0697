//! State of the world: each request lists every name wanted; LDS and CDS responses are complete, others carry what was asked for.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use remora_proto::pb::google::protobuf::Any;

use crate::script::{Manner, Script};
use crate::store::{self, IntoResource, Store};
use crate::transcript::{Entry, What};
use crate::types;

use super::{Reply, Response, Session, StreamInfo, describe, kind, version_of, wrap};

/// The state of one state-of-the-world stream.
#[derive(Debug)]
pub struct SotwSession {
    info: StreamInfo,
    next_nonce: u64,
    subscriptions: BTreeMap<String, Subscription>,
}

#[derive(Debug, Default)]
struct Subscription {
    requested: bool,
    wildcard: bool,
    /// A non-empty list was sent once: an empty one no longer means "everything".
    explicit: bool,
    names: BTreeSet<String>,
    nonce: String,
    previous_nonce: String,
    answered: bool,
    /// Revision by name of what the client was sent.
    sent: BTreeMap<String, u64>,
    /// Revision of the type at the last response; `None` when a response is owed whatever is in it.
    sent_revision: Option<u64>,
    /// The client came with the current version: nothing is owed until a change (go-control-plane's manner).
    up_to_date_at: Option<u64>,
}

impl SotwSession {
    /// A stream on which nothing was said yet.
    pub fn new(info: StreamInfo) -> Self {
        Self {
            info,
            next_nonce: 0,
            subscriptions: BTreeMap::new(),
        }
    }

    fn reply(&mut self, type_url: &str, version: String, names: Vec<String>, resources: Vec<Any>) -> Reply {
        self.next_nonce += 1;
        let nonce = self.next_nonce.to_string();
        let subscription = self.subscriptions.entry(type_url.to_owned()).or_default();
        subscription.previous_nonce = std::mem::replace(&mut subscription.nonce, nonce.clone());
        subscription.answered = false;
        let mut entry = Entry::new(self.info.id, false, What::Response, type_url);
        entry.version.clone_from(&version);
        entry.nonce.clone_from(&nonce);
        entry.names = names;
        let message = Response::Sotw(DiscoveryResponse {
            version_info: version,
            resources,
            type_url: type_url.to_owned(),
            nonce,
            control_plane: self.info.control_plane(),
            ..Default::default()
        });
        Reply { entry, message }
    }
}

impl Session for SotwSession {
    fn receive(&mut self, bytes: Bytes, store: &Store, script: &Script) -> Result<Entry, String> {
        let request = DiscoveryRequest::decode(bytes).map_err(|error| format!("not a DiscoveryRequest: {error}"))?;
        let type_url = self.info.check_type(&request.type_url)?;
        let subscription = self.subscriptions.entry(type_url.clone()).or_default();
        let current = !request.response_nonce.is_empty() && request.response_nonce == subscription.nonce;
        let answers = current && !subscription.answered;
        let mut entry = Entry::new(
            self.info.id,
            false,
            kind(request.error_detail.as_ref(), answers),
            &type_url,
        );
        describe(&mut entry, request.node.as_ref(), request.error_detail.as_ref());
        entry.stale = !request.response_nonce.is_empty() && !current;
        entry.version = request.version_info;
        entry.nonce = request.response_nonce;
        entry.names = request.resource_names;
        if entry.stale && script.manner == Manner::GoControlPlane {
            return Ok(entry);
        }
        if current {
            subscription.answered = true;
        }
        subscription.update(&entry, store, script.manner);
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
        let revision = store.of(type_url).map_or(0, store::TypeState::revision);
        if subscription.up_to_date_at == Some(revision) {
            return false;
        }
        let due = subscription.due(type_url, store, script);
        if subscription.wildcard || types::is_full_state(type_url) {
            let wants_any = subscription.wildcard || !subscription.names.is_empty();
            return wants_any && (subscription.sent_revision != Some(revision) || due != subscription.sent);
        }
        match script.manner {
            Manner::Plain => due
                .iter()
                .any(|(name, revision)| subscription.sent.get(name) != Some(revision)),
            Manner::GoControlPlane => {
                let complete = store
                    .of(type_url)
                    .is_some_and(|state| state.entries().keys().all(|name| subscription.names.contains(name)));
                complete
                    && !due.is_empty()
                    && (subscription.sent_revision != Some(revision) || due != subscription.sent)
            }
        }
    }

    fn respond(&mut self, type_url: &str, store: &Store, script: &Script) -> Reply {
        let subscription = self.subscriptions.entry(type_url.to_owned()).or_default();
        let due = subscription.due(type_url, store, script);
        let whole = subscription.wildcard || types::is_full_state(type_url) || script.manner == Manner::GoControlPlane;
        let carried: Vec<String> = due
            .iter()
            .filter(|(name, revision)| whole || subscription.sent.get(*name) != Some(*revision))
            .map(|(name, _)| name.clone())
            .collect();
        if whole {
            subscription.sent = due;
        } else {
            subscription.sent.extend(due);
        }
        subscription.sent_revision = Some(store.of(type_url).map_or(0, store::TypeState::revision));
        subscription.up_to_date_at = None;
        let resources = carried
            .iter()
            .filter_map(|name| payload(store, type_url, name))
            .collect();
        self.reply(type_url, version_of(store, type_url), carried, resources)
    }

    fn respond_unsolicited(&mut self, type_url: &str, store: &Store) -> Reply {
        let names: Vec<String> = store
            .of(type_url)
            .map(|state| state.entries().keys().cloned().collect())
            .unwrap_or_default();
        let resources = names.iter().filter_map(|name| payload(store, type_url, name)).collect();
        self.reply(type_url, version_of(store, type_url), names, resources)
    }

    fn heartbeat(&mut self, type_url: &str, name: &str, store: &Store) -> Reply {
        let version = version_of(store, type_url);
        let ttl = store
            .of(type_url)
            .and_then(|state| state.entries().get(name))
            .and_then(|entry| entry.ttl);
        let beat = wrap(name, &version, None, ttl).into_any();
        self.reply(type_url, version, vec![name.to_owned()], vec![beat])
    }

    fn forget_sent(&mut self, type_url: &str) {
        if let Some(subscription) = self.subscriptions.get_mut(type_url) {
            subscription.sent.clear();
            subscription.sent_revision = None;
            subscription.up_to_date_at = None;
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
    fn update(&mut self, entry: &Entry, store: &Store, manner: Manner) {
        let first = !self.requested;
        self.requested = true;
        self.explicit |= !entry.names.is_empty();
        let mut names: BTreeSet<String> = entry.names.iter().cloned().collect();
        let wildcard = names.remove("*") || (names.is_empty() && !self.explicit);
        let unchanged = names == self.names && wildcard == self.wildcard;
        self.names = names;
        if wildcard != self.wildcard {
            self.wildcard = wildcard;
            self.sent_revision = None;
        }
        if !wildcard {
            self.sent.retain(|name, _| self.names.contains(name));
        }
        match manner {
            // A server need not answer a client that already has the version; this one does it as go-control-plane does.
            Manner::GoControlPlane if first => {
                let state = store
                    .of(&entry.type_url)
                    .filter(|state| state.version() == entry.version);
                self.up_to_date_at = state.map(store::TypeState::revision);
            }
            // The same list again, on no occasion, is how a client that lost its copy asks for it (a warming cluster its endpoints).
            Manner::Plain if !first && unchanged && entry.what == What::Request && !entry.stale => {
                self.sent.clear();
                self.sent_revision = None;
            }
            _ => {}
        }
    }

    /// Revision by name of everything the client wants, that exists and is not withheld.
    fn due(&self, type_url: &str, store: &Store, script: &Script) -> BTreeMap<String, u64> {
        let Some(state) = store.of(type_url) else {
            return BTreeMap::new();
        };
        let wanted = |name: &str| self.wildcard || self.names.contains(name);
        state
            .entries()
            .iter()
            .filter(|(name, _)| wanted(name) && script.lets_through(type_url, name))
            .map(|(name, entry)| (name.clone(), entry.revision))
            .collect()
    }
}

fn payload(store: &Store, type_url: &str, name: &str) -> Option<Any> {
    let entry = store.of(type_url)?.entries().get(name)?;
    match entry.ttl {
        None => Some(entry.any.clone()),
        Some(_) => Some(wrap(name, &version_of(store, type_url), Some(entry.any.clone()), entry.ttl).into_any()),
    }
}
