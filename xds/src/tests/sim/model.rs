//! What the client must hold: the newest good version of each resource, for as long as it lives.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Res, read};
use super::{Flight, Sim, is_root, target};
use crate::client::mux::Mode;
use crate::types::ResourceType;

#[derive(Default)]
pub(super) struct Model {
    /// Newest accepted content of each resource, by `type name`.
    pub(super) good: BTreeMap<String, String>,
    /// Targets that were answered for with something other than a good version.
    pub(super) excused: BTreeSet<String>,
    /// When the resources die that do.
    lives: BTreeMap<String, u64>,
    /// Seconds since the beginning.
    time: u64,
}

/// What is to be made of a response, or of a file.
#[derive(Default)]
pub(super) struct Judged<'a> {
    pub(super) good: Vec<&'a Res>,
    pub(super) removed: &'a [String],
    /// Heartbeats: these live on.
    beats: Vec<&'a Res>,
    /// The names of what is refused.
    refused: BTreeSet<String>,
    pub(super) nack: bool,
}

impl Flight {
    /// `asked` tells what the client wants; what it does not is not even looked at. `lives` tells the version a heartbeat has to have.
    pub(super) fn judge<'a>(
        &'a self,
        mode: Mode,
        asked: impl Fn(&str) -> bool,
        lives: impl Fn(&str) -> Option<String>,
    ) -> Judged<'a> {
        let first = self.resources.first().filter(|_| self.twice);
        let mut judged = Judged {
            refused: first.map(|resource| resource.name.clone()).into_iter().collect(),
            nack: self.twice,
            ..Judged::default()
        };
        // One name twice: a delta response is refused as a whole, of a SotW one the first copy counts.
        if self.twice && mode == Mode::Delta {
            return judged;
        }
        judged.removed = &self.removed;
        for resource in &self.resources {
            let bad = match (resource.absent, asked(&resource.name)) {
                (true, asked) => asked && lives(&resource.name).as_ref() != Some(&resource.version),
                (false, asked) => resource.foreign || (asked && resource.content == "BAD"),
            };
            if bad {
                judged.nack = true;
                judged.refused.insert(resource.name.clone());
            } else if asked(&resource.name) && resource.absent {
                judged.beats.push(resource);
            } else if asked(&resource.name) {
                judged.good.push(resource);
            }
        }
        judged
    }
}

impl Model {
    /// Takes what is good of a response; `whole` says whether there is nothing but what it names.
    pub(super) fn take(&mut self, flight: &Flight, judged: &Judged<'_>, whole: bool) {
        let ty = flight.ty;
        let key = |name: &str| key(ty, name);
        self.excused.extend(judged.refused.iter().map(|name| key(name)));
        for resource in &judged.good {
            self.good.insert(key(&resource.name), resource.content.clone());
            // What is told twice is refused, too, which leaves the timer as it was.
            if !judged.refused.contains(&resource.name) {
                self.live(key(&resource.name), resource.ttl);
            }
        }
        for resource in &judged.beats {
            self.live(key(&resource.name), resource.ttl);
        }
        for name in judged.removed {
            self.lives.remove(&key(name));
            if ty.full_state {
                self.good.remove(&key(name));
            } else {
                self.excused.insert(key(name));
            }
        }
        if whole {
            let named: BTreeSet<_> = flight.resources.iter().map(|resource| key(&resource.name)).collect();
            self.good
                .retain(|name, _| !name.starts_with(ty.short) || named.contains(name));
        }
    }

    fn live(&mut self, key: String, ttl: Option<u64>) {
        match ttl {
            Some(seconds) => drop(self.lives.insert(key, self.time + seconds)),
            None => drop(self.lives.remove(&key)),
        }
    }

    /// Lets time pass; returns what dies. A cluster or listener is gone then, anything else stays with whoever uses it.
    pub(super) fn pass(&mut self, seconds: u64) -> Vec<String> {
        self.time += seconds;
        let time = self.time;
        let over = self.lives.extract_if(.., |_, at| *at <= time);
        let over: Vec<String> = over.map(|(key, _)| key).collect();
        for key in &over {
            if is_root(key) {
                self.good.remove(key);
            } else {
                self.excused.insert(key.clone());
            }
        }
        over
    }

    /// Whoever waits for what `name` stands for goes on without.
    pub(super) fn excuse(&mut self, ty: ResourceType, names: impl Iterator<Item = String>) {
        self.excused.extend(names.map(|name| key(ty, &name)));
    }

    /// Forgets what nothing refers to any more.
    fn forget(&mut self, wanted: &BTreeSet<String>) {
        self.good.retain(|key, _| is_root(key) || wanted.contains(key));
        self.lives.retain(|key, _| is_root(key) || wanted.contains(key));
        self.excused.retain(|key| wanted.contains(key));
    }
}

pub(super) fn key(ty: ResourceType, name: &str) -> String {
    format!("{} {name}", ty.short)
}

impl Sim {
    /// What clusters and listeners, published or warming, refer to.
    pub(super) fn wanted(&self) -> BTreeSet<String> {
        let dump = self.script.engine.store.dump();
        let versions = dump.iter().flat_map(|entry| [&entry.active, &entry.warming]).flatten();
        let needs = versions.flat_map(|version| read(&version.bytes).0);
        needs.map(|need| target(&need)).collect()
    }

    /// What must hold between any two steps.
    pub(super) fn check(&mut self) {
        let wanted = self.wanted();
        let mut newest = BTreeMap::new();
        let dump = self.script.engine.store.dump();
        for entry in &dump {
            let key = key(entry.ty, &entry.name);
            for version in [&entry.active, &entry.warming].into_iter().flatten() {
                newest.insert(key.clone(), read(&version.bytes).1);
            }
            let Some(active) = &entry.active else { continue };
            let (needs, content) = read(&active.bytes);
            let published = self.script.published.get(&key);
            assert_eq!(published, Some(&content), "{key} is published as it is");
            for target in needs.iter().map(|need| target(need)) {
                let complete = self.script.published.contains_key(&target) || self.model.excused.contains(&target);
                assert!(complete, "{key} is published without {target}");
            }
        }
        let missing = |target: &String| !newest.contains_key(target) && !self.model.excused.contains(target);
        for entry in &dump {
            let Some(warming) = &entry.warming else { continue };
            // Endpoints may be there and have to come anew.
            let waits = |target: String| target.starts_with("eds") || missing(&target);
            let waits = read(&warming.bytes).0.iter().any(|need| waits(target(need)));
            assert!(waits, "{:?} {} waits for nothing", entry.ty, entry.name);
        }
        for (key, good) in &self.model.good {
            if is_root(key) || (newest.contains_key(key) && wanted.contains(key)) {
                assert_eq!(newest.get(key), Some(good), "{key}: the last good version");
            }
        }
        for key in newest.keys() {
            let kept = self.model.good.contains_key(key);
            assert!(kept || !is_root(key), "{key} should be gone");
            assert!(kept || !wanted.contains(key), "{key} came from nowhere");
        }
        for key in self.model.good.keys().filter(|key| wanted.contains(*key)) {
            assert!(newest.contains_key(key), "{key} is lost");
        }
        if self.heard {
            let flights = |id| self.flights.get(&id).into_iter().flatten();
            let busy = |id, ty: &str| flights(id).any(|flight| flight.ty.short == ty);
            self.server.check_subscriptions(&wanted, self.from_files, busy);
        }
        self.server.note_wanted(&wanted);
        self.model.forget(&wanted);
    }
}
