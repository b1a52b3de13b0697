//! The model control plane: what it wants the client to have, what it has been told, and what of that is wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Res, by_short, res};
use crate::client::mux::Mode;
use crate::client::request::{Body, Request};
use crate::types::{self, ResourceType};

#[derive(Default)]
struct Told {
    /// A request has come on this stream.
    asked: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    /// Newest nonce sent on this stream.
    nonce: String,
    /// The response that waits for its answer: nonce, whether it must be refused.
    open: Option<(String, bool)>,
}

pub(super) struct Server {
    pub(super) mode: Mode,
    told: BTreeMap<&'static str, Told>,
    /// SotW: version of the last response that had to be accepted; survives streams.
    accepted: BTreeMap<&'static str, String>,
    /// Delta: version of each resource that had to be accepted; survives streams.
    held: BTreeMap<&'static str, BTreeMap<String, String>>,
    resources: BTreeMap<&'static str, BTreeMap<String, Res>>,
    counter: u32,
}

const ROOTS: [(&str, &str); 2] = [("cds", "eds"), ("lds", "rds")];

impl Server {
    pub(super) fn new(mode: Mode, rng: &mut fastrand::Rng) -> Self {
        let (told, accepted, held) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut server = Self {
            mode,
            told,
            accepted,
            held,
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
        let target = format!("{child}-{}", rng.u32(0..5));
        let content = format!("{}", self.counter);
        let parents = self.resources.entry(parent).or_default();
        match rng.u32(0..5) {
            0 => drop(parents.remove(&name)),
            1 => {
                if let Some(target) = self
                    .resources
                    .get_mut(child)
                    .and_then(|children| children.get_mut(&target))
                {
                    *target = res(&target.name, &content);
                }
            }
            _ => {
                parents.insert(name.clone(), res(&name, &content).needs(&format!("{child}:{target}")));
                self.resources
                    .entry(child)
                    .or_default()
                    .entry(target.clone())
                    .or_insert_with(|| res(&target, &content));
            }
        }
    }

    /// The same resources under other versions.
    pub(super) fn restart(&mut self) {
        self.counter += 1;
        for resource in self.resources.values_mut().flat_map(BTreeMap::values_mut) {
            resource.version = format!("{}-{}", resource.content, self.counter);
        }
    }

    pub(super) fn new_stream(&mut self) {
        self.told.clear();
    }

    pub(super) fn is_asked(&self, ty: ResourceType) -> bool {
        self.told.get(ty.short).is_some_and(|told| told.asked)
    }

    /// What it has of what it was asked for; some of it unless `all`.
    pub(super) fn current(&self, ty: ResourceType, rng: &mut fastrand::Rng, all: bool) -> Vec<Res> {
        let told = &self.told[ty.short];
        let full = all || ty.full_state && self.mode == Mode::Sotw;
        let resources = self.resources.get(ty.short).into_iter().flat_map(BTreeMap::values);
        let asked = resources.filter(|resource| told.wildcard || told.names.contains(&resource.name));
        asked.filter(|_| full || rng.bool()).cloned().collect()
    }

    /// Delta: some of the names that the client should not have.
    pub(super) fn gone(&self, ty: ResourceType, rng: &mut fastrand::Rng) -> Vec<String> {
        self.all_gone(ty).into_iter().filter(|_| rng.bool()).collect()
    }

    pub(super) fn all_gone(&self, ty: ResourceType) -> Vec<String> {
        let has = self.resources.get(ty.short);
        let held = self.held.get(ty.short).into_iter().flat_map(BTreeMap::keys);
        held.filter(|name| has.is_none_or(|has| !has.contains_key(*name)))
            .cloned()
            .collect()
    }

    /// Everything that the client should publish in the end, `type name` to content.
    pub(super) fn desired(&self) -> BTreeMap<String, String> {
        let mut desired = BTreeMap::new();
        for (parent, _) in ROOTS {
            for resource in self.resources.get(parent).into_iter().flat_map(BTreeMap::values) {
                desired.insert(format!("{parent} {}", resource.name), resource.content.clone());
                for need in &resource.needs {
                    let (child, name) = need.split_once(':').unwrap();
                    desired.insert(need.replace(':', " "), self.resources[child][name].content.clone());
                }
            }
        }
        desired
    }

    /// A response is on its way.
    pub(super) fn sent(&mut self, ty: ResourceType, nonce: &str, nack: bool, resources: &[Res], removed: &[String]) {
        let told = self.told.get_mut(ty.short).unwrap();
        told.nonce = nonce.to_owned();
        told.open = Some((nonce.to_owned(), nack));
        let held = self.held.entry(ty.short).or_default();
        for resource in resources
            .iter()
            .filter(|resource| resource.content != "BAD" && !resource.foreign)
        {
            held.insert(resource.name.clone(), resource.version.clone());
        }
        removed.iter().for_each(|name| drop(held.remove(name)));
        if !nack {
            self.accepted
                .insert(ty.short, format!("v{}", nonce.trim_start_matches('n')));
        }
    }

    pub(super) fn read(&mut self, request: &Request) {
        let ty = types::by_url(request.type_url).unwrap();
        let first_of_all = self.told.values().all(|told| !told.asked);
        assert_eq!(
            request.node, first_of_all,
            "the node goes with the first request of a stream"
        );
        let told = self.told.entry(ty.short).or_default();
        let answers = match &told.open {
            Some((nonce, nack)) if **nonce == *request.nonce => {
                assert_eq!(request.is_nack(), *nack, "{ty:?} {nonce}: verdict");
                told.open = None;
                true
            }
            _ => false,
        };
        assert!(answers || !request.is_nack(), "{ty:?}: a NACK of nothing");
        match &request.body {
            Body::Sotw { version, names } => {
                assert_eq!(*request.nonce, *told.nonce, "{ty:?}: the newest nonce of this stream");
                let accepted = self.accepted.get(ty.short).map_or("", String::as_str);
                assert_eq!(&**version, accepted, "{ty:?}: the last accepted version");
                told.names = names.to_vec().into_iter().collect();
                told.wildcard = ty.full_state && names.is_empty();
                assert!(
                    told.asked || ty.full_state || !names.is_empty(),
                    "{ty:?}: an accidental wildcard"
                );
            }
            Body::Delta {
                subscribe,
                unsubscribe,
                initial,
            } => {
                let changes = !subscribe.is_empty() || !unsubscribe.is_empty() || !initial.is_empty();
                assert!(!answers || !changes, "{ty:?}: an answer that changes subscriptions");
                assert!(
                    answers || request.nonce.is_empty(),
                    "{ty:?}: a nonce that answers nothing"
                );
                assert!(answers || changes || !told.asked, "{ty:?}: a request that says nothing");
                if !told.asked {
                    assert!(ty.full_state || !subscribe.is_empty(), "{ty:?}: an accidental wildcard");
                    told.wildcard = ty.full_state && subscribe.is_empty();
                    let held = self.held.entry(ty.short).or_default();
                    let initial: BTreeMap<_, _> = initial.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
                    initial
                        .iter()
                        .for_each(|pair| assert_eq!(held.get(pair.0), Some(pair.1), "{ty:?}: initial version"));
                    assert!(
                        !ty.full_state || initial == *held,
                        "{ty:?}: initial versions {initial:?}, held {held:?}"
                    );
                }
                told.names.extend(subscribe.iter().map(|name| name.to_string()));
                told.names
                    .retain(|name| unsubscribe.iter().all(|gone| **gone != **name));
            }
        }
        told.asked = true;
    }

    pub(super) fn check_answered(&self) {
        for (ty, told) in &self.told {
            assert!(told.open.is_none(), "{ty}: {:?} has no answer", told.open);
        }
    }

    /// The server knows exactly the names that something published or warming needs.
    pub(super) fn check_subscriptions(&self, wanted: &BTreeSet<String>) {
        for (_, child) in ROOTS {
            let told = self.told.get(child).map(|told| told.names.clone()).unwrap_or_default();
            let names = wanted
                .iter()
                .filter_map(|need| need.strip_prefix(child)?.strip_prefix(':'));
            let names: BTreeSet<_> = names.map(str::to_owned).collect();
            assert_eq!(told, names, "{child}: what the server knows, what is needed");
        }
        assert!(
            ROOTS.iter().all(|(root, _)| self.told[root].wildcard),
            "roots stay wildcards"
        );
    }

    /// Forgets the versions of what the client has let go.
    pub(super) fn note_wanted(&mut self, wanted: &BTreeSet<String>) {
        for (short, held) in &mut self.held {
            if !by_short(short).full_state {
                held.retain(|name, _| wanted.contains(&format!("{short}:{name}")));
            }
        }
    }
}
