//! The model control plane: what it wants the client to have, what it has been told on each stream, and what of that is wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::{Res, res};
use super::target;
use crate::client::mux::Mode;
use crate::client::request::{Body, Request};
use crate::engine::StreamId;
use crate::types::{self, ResourceType};

/// What is known of a type on one connection of a stream.
#[derive(Default)]
struct Told {
    /// A request has come.
    asked: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    /// Every nonce sent, in order.
    nonces: Vec<String>,
    /// Newest nonce that has arrived.
    arrived: String,
    /// The responses that have arrived and wait for their answer.
    open: VecDeque<Open>,
}

struct Open {
    nonce: String,
    nack: bool,
    /// SotW: what is the last accepted version after this response.
    version: String,
}

/// How a response must be answered.
pub(super) struct Verdict<'a> {
    pub(super) nonce: &'a str,
    pub(super) version: &'a str,
    pub(super) nack: bool,
}

/// One stream with all that outlives its connections.
#[derive(Default)]
struct Stream {
    path: &'static str,
    node_told: bool,
    told: BTreeMap<&'static str, Told>,
    /// SotW: version of the last response that had to be accepted.
    accepted: BTreeMap<&'static str, String>,
    /// Delta: version of each resource that had to be accepted.
    held: BTreeMap<&'static str, BTreeMap<String, String>>,
}

pub(super) struct Server {
    pub(super) mode: Mode,
    aggregated: bool,
    streams: BTreeMap<StreamId, Stream>,
    resources: BTreeMap<&'static str, BTreeMap<String, Res>>,
    counter: u32,
}

/// What refers, and what it always refers to; to secrets, sometimes.
const ROOTS: [(&str, &str); 2] = [("cds", "eds"), ("lds", "rds")];
const CHILDREN: [&str; 3] = ["eds", "rds", "sds"];

impl Server {
    pub(super) fn new(mode: Mode, aggregated: bool, rng: &mut fastrand::Rng) -> Self {
        let mut server = Self {
            mode,
            aggregated,
            streams: BTreeMap::new(),
            resources: BTreeMap::new(),
            counter: 0,
        };
        (0..6).for_each(|_| server.mutate(rng));
        server
    }

    /// Changes what the client should have.
    pub(super) fn mutate(&mut self, rng: &mut fastrand::Rng) {
        self.counter += 1;
        let (parent, child) = ROOTS[rng.usize(0..2)];
        let name = format!("{parent}-{}", rng.u32(0..4));
        let content = format!("{}", self.counter);
        match rng.u32(0..6) {
            0 => drop(self.of(parent).remove(&name)),
            1 | 2 => {
                let ty = if rng.bool() { child } else { "sds" };
                let (target, _) = self.target(ty, rng);
                if let Some(known) = self.of(ty).get_mut(&target) {
                    *known = res(&target, &content);
                }
            }
            _ => {
                let mut resource = res(&name, &content);
                for ty in [child, "sds"].into_iter().take(1 + rng.usize(0..2)) {
                    let (target, source) = self.target(ty, rng);
                    resource = resource.needs(&format!("{ty}:{target}{source}"));
                    let new = || res(&target, &content);
                    self.of(ty).entry(target.clone()).or_insert_with(new);
                }
                self.of(parent).insert(name, resource);
            }
        }
    }

    /// Something to refer to, of the control plane's or in a file of its own, and its source as references have it.
    fn target(&self, ty: &str, rng: &mut fastrand::Rng) -> (String, String) {
        if ty != "rds" && rng.u32(0..3) == 0 {
            let name = format!("file-{ty}-{}", rng.u32(0..2));
            let source = format!("@/{name}");
            return (name, source);
        }
        let source = if self.aggregated { "" } else { "@plane" };
        (format!("{ty}-{}", rng.u32(0..5)), source.to_owned())
    }

    fn of(&mut self, ty: &'static str) -> &mut BTreeMap<String, Res> {
        self.resources.entry(ty).or_default()
    }

    /// What the file at `path` should say.
    pub(super) fn on_file(&self, path: &str) -> Vec<Res> {
        let name = path.trim_start_matches('/');
        let resources = |ty: &str| self.resources.get(ty).into_iter().flat_map(BTreeMap::values).cloned();
        match ROOTS.iter().find(|(root, _)| *root == name) {
            Some((root, _)) => resources(root).collect(),
            None => CHILDREN
                .iter()
                .flat_map(|ty| resources(ty))
                .filter(|resource| resource.name == name)
                .collect(),
        }
    }

    /// The same resources under other versions.
    pub(super) fn restart(&mut self) {
        self.counter += 1;
        for resource in self.resources.values_mut().flat_map(BTreeMap::values_mut) {
            resource.version = format!("{}-{}", resource.content, self.counter);
        }
    }

    /// A connection of a stream, the first or another.
    pub(super) fn opened(&mut self, id: StreamId, path: &'static str) {
        let stream = self.streams.entry(id).or_default();
        stream.path = path;
        stream.node_told = false;
        stream.told.clear();
    }

    /// Its connection broke.
    pub(super) fn broken(&mut self, id: StreamId) {
        self.streams.get_mut(&id).unwrap().told.clear();
    }

    /// The client will never come back to it.
    pub(super) fn closed(&mut self, id: StreamId) {
        self.streams.remove(&id);
    }

    pub(super) fn streams(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    /// SotW: the version that was accepted last.
    pub(super) fn accepted(&self, id: StreamId, ty: ResourceType) -> Option<String> {
        self.streams[&id].accepted.get(ty.short).cloned()
    }

    /// Delta: the version that the client has.
    pub(super) fn version_of(&self, id: StreamId, ty: ResourceType, name: &str) -> Option<String> {
        self.streams[&id].held.get(ty.short)?.get(name).cloned()
    }

    /// What the client no longer has, as its time is over.
    pub(super) fn forget(&mut self, key: &str) {
        let Some((ty, name)) = key.split_once(' ') else { return };
        for held in self.streams.values_mut().filter_map(|stream| stream.held.get_mut(ty)) {
            held.remove(name);
        }
    }

    /// The one type of a stream that is not aggregated.
    pub(super) fn carries(&self, id: StreamId) -> Option<ResourceType> {
        let path = self.streams[&id].path;
        let rpc = |ty: &ResourceType| match self.mode {
            Mode::Sotw => ty.sotw_path == path,
            Mode::Delta => ty.delta_path == path,
        };
        types::ALL.iter().copied().find(rpc)
    }

    fn told(&self, id: StreamId, ty: ResourceType) -> Option<&Told> {
        self.streams.get(&id)?.told.get(ty.short)
    }

    pub(super) fn is_asked(&self, id: StreamId, ty: ResourceType) -> bool {
        self.told(id, ty).is_some_and(|told| told.asked)
    }

    /// The newest nonce sent.
    pub(super) fn newest_nonce(&self, id: StreamId, ty: ResourceType) -> Option<String> {
        self.told(id, ty)?.nonces.last().cloned()
    }

    /// Any nonce that was sent on this connection.
    pub(super) fn any_nonce(&self, id: StreamId, ty: ResourceType, rng: &mut fastrand::Rng) -> Option<String> {
        let nonces = &self.told(id, ty)?.nonces;
        (!nonces.is_empty()).then(|| nonces[rng.usize(0..nonces.len())].clone())
    }

    /// What it has of what it was asked for; some of it unless `all`.
    pub(super) fn current(&self, id: StreamId, ty: ResourceType, rng: &mut fastrand::Rng, all: bool) -> Vec<Res> {
        let told = &self.streams[&id].told[ty.short];
        let full = all || ty.full_state && self.mode == Mode::Sotw;
        let resources = self.resources.get(ty.short).into_iter().flat_map(BTreeMap::values);
        let asked = resources.filter(|resource| told.wildcard || told.names.contains(&resource.name));
        asked.filter(|_| full || rng.bool()).cloned().collect()
    }

    /// Delta: the names that the client should not have.
    pub(super) fn gone(&self, id: StreamId, ty: ResourceType) -> Vec<String> {
        let has = self.resources.get(ty.short);
        let mut held = self.held(id, ty);
        held.retain(|name| has.is_none_or(|has| !has.contains_key(name)));
        held
    }

    /// Delta: the names that the client has.
    pub(super) fn held(&self, id: StreamId, ty: ResourceType) -> Vec<String> {
        let held = self.streams[&id].held.get(ty.short);
        held.into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Everything that the client should publish in the end, `type name` to content.
    pub(super) fn desired(&self) -> BTreeMap<String, String> {
        let mut desired = BTreeMap::new();
        for (parent, _) in ROOTS {
            for resource in self.resources.get(parent).into_iter().flat_map(BTreeMap::values) {
                desired.insert(format!("{parent} {}", resource.name), resource.content.clone());
                for target in resource.needs.iter().map(|need| target(need)) {
                    let (ty, name) = target.split_once(' ').unwrap();
                    let content = self.resources[ty][name].content.clone();
                    desired.insert(target, content);
                }
            }
        }
        desired
    }

    /// A response is on its way.
    pub(super) fn sent(&mut self, id: StreamId, ty: ResourceType, nonce: &str) {
        let stream = self.streams.get_mut(&id).unwrap();
        stream.told.get_mut(ty.short).unwrap().nonces.push(nonce.to_owned());
    }

    /// A response reaches the client, which must take `good` of it.
    pub(super) fn delivered(
        &mut self,
        id: StreamId,
        ty: ResourceType,
        verdict: Verdict<'_>,
        good: &[&Res],
        removed: &[String],
    ) {
        let stream = self.streams.get_mut(&id).unwrap();
        let held = stream.held.entry(ty.short).or_default();
        for resource in good {
            held.insert(resource.name.clone(), resource.version.clone());
        }
        removed.iter().for_each(|name| drop(held.remove(name)));
        let accepted = stream.accepted.entry(ty.short).or_default();
        if !verdict.nack {
            *accepted = verdict.version.to_owned();
        }
        let told = stream.told.get_mut(ty.short).unwrap();
        told.arrived = verdict.nonce.to_owned();
        told.open.push_back(Open {
            nonce: verdict.nonce.to_owned(),
            nack: verdict.nack,
            version: accepted.clone(),
        });
    }

    /// Takes a request. Returns whether it is an answer.
    pub(super) fn read(&mut self, id: StreamId, request: &Request) -> bool {
        let ty = types::by_url(request.type_url).unwrap();
        let only = self.carries(id);
        assert!(only.is_none_or(|only| only == ty), "{ty:?} on a stream of {only:?}");
        let stream = self.streams.get_mut(&id).unwrap();
        assert_eq!(
            request.node, !stream.node_told,
            "the node goes with the first request of a stream"
        );
        stream.node_told = true;
        let told = stream.told.entry(ty.short).or_default();
        // Answers come in the order of the responses, and before anything else of their type.
        let answered = told.open.pop_front();
        if let Some(open) = &answered {
            assert_eq!(*request.nonce, *open.nonce, "{ty:?}: the nonce of the response");
            assert_eq!(request.is_nack(), open.nack, "{ty:?} {}: verdict", open.nonce);
        }
        assert!(answered.is_some() || !request.is_nack(), "{ty:?}: a NACK of nothing");
        match &request.body {
            Body::Sotw { version, names } => {
                let accepted = stream.accepted.get(ty.short).cloned().unwrap_or_default();
                let accepted = answered.as_ref().map_or(accepted, |open| open.version.clone());
                assert_eq!(**version, *accepted, "{ty:?}: the last accepted version");
                if answered.is_none() {
                    assert_eq!(*request.nonce, *told.arrived, "{ty:?}: the newest nonce of this stream");
                }
                let accidental = !told.asked && !ty.full_state && names.is_empty();
                assert!(!accidental, "{ty:?}: an accidental wildcard");
                // A server does not read what answers anything but its newest response.
                if told.nonces.last().map_or("", String::as_str) == &*request.nonce {
                    told.names = names.to_vec().into_iter().collect();
                    told.wildcard = ty.full_state && names.is_empty();
                }
                told.asked = true;
            }
            Body::Delta { .. } => {
                let held = stream.held.entry(ty.short).or_default();
                told.read_delta(ty, request, answered.is_some(), held);
            }
        }
        answered.is_some()
    }

    pub(super) fn check_answered(&self) {
        for (ty, told) in self.streams.values().flat_map(|stream| &stream.told) {
            let nonces: Vec<_> = told.open.iter().map(|open| &open.nonce).collect();
            assert!(nonces.is_empty(), "{ty}: {nonces:?} have no answer");
        }
    }

    /// The server knows exactly the names that something published or warming needs of it, each on one stream; `busy` tells where it has
    /// ignored what was said while a response was under way.
    pub(super) fn check_subscriptions(
        &self,
        wanted: &BTreeSet<String>,
        from_files: bool,
        busy: impl Fn(StreamId, &str) -> bool,
    ) {
        for child in CHILDREN {
            let (mut known, mut ignored) = (Vec::new(), false);
            for (id, stream) in &self.streams {
                ignored |= self.mode == Mode::Sotw && busy(*id, child);
                let told = stream.told.get(child);
                known.extend(told.into_iter().flat_map(|told| told.names.iter().cloned()));
            }
            known.sort();
            let names = wanted.iter().filter_map(|need| need.strip_prefix(child));
            let names = names.map(|name| name.trim().to_owned());
            let names: Vec<_> = names.filter(|name| !name.starts_with("file-")).collect();
            assert!(
                ignored || known == names,
                "{child}: the server knows {known:?}, needed is {names:?}"
            );
        }
        for (root, _) in ROOTS {
            let mut told = self.streams.values().filter_map(|stream| stream.told.get(root));
            assert!(from_files || told.any(|told| told.wildcard), "{root} stays a wildcard");
        }
    }

    /// Forgets the versions of what the client has let go.
    pub(super) fn note_wanted(&mut self, wanted: &BTreeSet<String>) {
        for (short, held) in self.streams.values_mut().flat_map(|stream| &mut stream.held) {
            if CHILDREN.contains(short) {
                held.retain(|name, _| wanted.contains(&format!("{short} {name}")));
            }
        }
    }
}

impl Told {
    fn read_delta(&mut self, ty: ResourceType, request: &Request, answers: bool, held: &BTreeMap<String, String>) {
        let Body::Delta {
            subscribe,
            unsubscribe,
            initial,
        } = &request.body
        else {
            return;
        };
        let changes = !subscribe.is_empty() || !unsubscribe.is_empty() || !initial.is_empty();
        assert!(!answers || !changes, "{ty:?}: an answer that changes subscriptions");
        let nonce = &request.nonce;
        assert!(answers || nonce.is_empty(), "{ty:?}: the nonce {nonce} answers nothing");
        assert!(answers || changes || !self.asked, "{ty:?}: a request that says nothing");
        if !self.asked {
            assert!(ty.full_state || !subscribe.is_empty(), "{ty:?}: an accidental wildcard");
            self.wildcard = ty.full_state && subscribe.is_empty();
            let initial: BTreeMap<_, _> = initial.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            for (name, version) in &initial {
                assert_eq!(held.get(name), Some(version), "{ty:?} {name}: initial version");
            }
            assert!(
                !ty.full_state || initial == *held,
                "{ty:?}: initial versions {initial:?}, held {held:?}"
            );
        }
        self.names.extend(subscribe.iter().map(|name| name.to_string()));
        self.names
            .retain(|name| unsubscribe.iter().all(|gone| **gone != **name));
        self.asked = true;
    }
}
