//! Seeded simulation: machine, store and graph against a control plane that misbehaves and then behaves.
//!
//! Over ADS or a stream for each type (for each name, of what is named), in both variants: responses are in flight together, nonces come
//! again, resources are bad, streams break, another process answers. `SEED=n cargo test -p remora-xds sim` replays one seed, `SEEDS=n` tries
//! that many. After each step the model server checks what it was told and what the client holds; it is only trusted because it catches
//! every planted bug.

mod planted;
mod server;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, ROUTE};
use server::{Server, Verdict};

const SEEDS: u64 = 256;
const STEPS: usize = 80;
/// Responses of one stream that are on their way at most.
const IN_FLIGHT: usize = 3;

/// One run: a client, its control plane, and what must hold between them.
struct Sim {
    script: Script,
    server: Server,
    rng: fastrand::Rng,
    /// Newest accepted content of each resource, by `type name`.
    good: BTreeMap<String, Res>,
    /// Targets that the server answered for with something other than a good version.
    excused: BTreeSet<String>,
    flights: BTreeMap<StreamId, VecDeque<Flight>>,
    /// Counts responses: version of each, and mostly its nonce.
    count: u32,
    /// Something has happened since the client was last heard that it may have to ask for.
    may_ask: bool,
    /// All that the client has to say has been heard.
    heard: bool,
}

/// A response that is sent and not delivered.
struct Flight {
    ty: ResourceType,
    nonce: String,
    version: String,
    resources: Vec<Res>,
    removed: Vec<String>,
    /// The first resource is named twice.
    twice: bool,
}

/// The resource that `eds:name` or `eds:name@source` asks for, as `eds name`.
fn target(need: &str) -> String {
    let need = need.split_once('@').map_or(need, |(need, _)| need);
    need.replace(':', " ")
}

fn is_root(key: &str) -> bool {
    key.starts_with("cds") || key.starts_with("lds")
}

fn run(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mode = if rng.bool() { Mode::Sotw } else { Mode::Delta };
    let (source, config) = match rng.bool() {
        true => (Source::Ads, SourceConfig::aggregated(mode)),
        false => (Source::Named("plane".into()), SourceConfig::separate(mode)),
    };
    let server = Server::new(mode, config.aggregated, &mut rng);
    let mut sim = Sim {
        script: Script::of(source, config, &[&CLUSTER, &LISTENER], seed),
        server,
        rng,
        good: BTreeMap::new(),
        excused: BTreeSet::new(),
        flights: BTreeMap::new(),
        count: 0,
        may_ask: true,
        heard: false,
    };
    sim.connect();
    sim.listen();
    for _ in 0..STEPS {
        sim.step();
        sim.check();
    }
    sim.behave();
}

impl Sim {
    /// Opens what is due to be opened, and forgets what the client has closed.
    fn connect(&mut self) {
        for id in self.script.engine.take_closed() {
            self.server.closed(id);
            self.flights.remove(&id);
        }
        for to_open in self.script.engine.streams_to_open(self.script.now.instant) {
            self.script.engine.on_connected(to_open.id, self.script.now);
            self.server.opened(to_open.id, to_open.path);
            self.flights.insert(to_open.id, VecDeque::new());
            self.may_ask = true;
            self.heard = false;
        }
    }

    /// Lets the server read what the client has to say.
    fn listen(&mut self) {
        let mut asked = 0;
        for id in self.server.streams() {
            while let Some(request) = self.script.engine.poll_transmit(id, self.script.now.instant) {
                asked += usize::from(!self.server.read(id, &request));
            }
        }
        self.script.engine.check_invariants();
        assert!(self.may_ask || asked == 0, "{asked} requests that nothing called for");
        self.server.check_answered();
        self.may_ask = false;
        self.heard = true;
    }

    fn step(&mut self) {
        match self.rng.u32(0..14) {
            0 => self.reconnect(),
            1..=3 => self.server.mutate(&mut self.rng),
            4 => {
                self.script.advance(self.rng.u64(0..5));
                self.connect();
            }
            5..=9 => {
                let (id, ty) = self.anything();
                self.push(id, ty);
            }
            _ => self.land(),
        }
        if self.rng.u32(0..4) > 0 {
            self.listen();
        }
    }

    /// A stream, and a type that it could carry.
    fn anything(&mut self) -> (StreamId, ResourceType) {
        let streams = self.server.streams();
        let id = streams[self.rng.usize(0..streams.len())];
        let any = [&CLUSTER, &LISTENER, &ASSIGNMENT, &ROUTE][self.rng.usize(0..4)];
        (id, self.server.carries(id).unwrap_or(any))
    }

    fn reconnect(&mut self) {
        let (id, _) = self.anything();
        if self.rng.bool() {
            // Another process in its place, which counts otherwise.
            self.count += 1000;
            self.server.restart();
        }
        self.breaks(id);
    }

    fn breaks(&mut self, id: StreamId) {
        self.script.engine.on_disconnected(id, self.script.now);
        self.server.broken(id);
        self.flights.remove(&id);
        self.script.advance(30);
        self.connect();
    }

    /// Sends a response of `ty`, good or bad.
    fn push(&mut self, id: StreamId, ty: ResourceType) {
        if !self.server.is_asked(id, ty) {
            self.push_unasked(id, ty);
            return;
        }
        if self.flights[&id].len() >= IN_FLIGHT {
            self.land_on(id);
            return;
        }
        let mut resources = self.server.current(id, ty, &mut self.rng, false);
        self.spoil(&mut resources);
        let mut removed = Vec::new();
        if self.server.mode == Mode::Delta {
            removed = self.server.gone(id, ty);
            removed.retain(|name| self.rng.bool() && resources.iter().all(|resource| resource.name != *name));
        }
        if self.rng.u32(0..12) == 0 {
            resources.clear();
        }
        let twice = !resources.is_empty() && self.rng.u32(0..16) == 0;
        self.send(id, ty, resources, removed, twice);
    }

    /// What nobody asked for must be ignored, without an answer.
    fn push_unasked(&mut self, id: StreamId, ty: ResourceType) {
        // It comes after what was sent before it, and what the client is about to ask for is not unasked.
        if !self.heard || !self.flights[&id].is_empty() {
            return;
        }
        let message = self.message(&Flight {
            ty,
            nonce: "unasked".into(),
            version: "unasked".into(),
            resources: vec![res("x", "1")],
            removed: Vec::new(),
            twice: false,
        });
        self.script.deliver(id, message);
    }

    /// Makes some of the resources bad.
    fn spoil(&mut self, resources: &mut [Res]) {
        for resource in resources {
            match self.rng.u32(0..10) {
                0 => resource.content = "BAD".into(),
                1 => *resource = resource.clone().foreign(),
                _ => continue,
            }
            // The server counts every attempt as a version of its own.
            resource.version = format!("bad-{}", self.count);
        }
    }

    fn send(&mut self, id: StreamId, ty: ResourceType, resources: Vec<Res>, removed: Vec<String>, twice: bool) {
        self.count += 1;
        // One in eight comes with a nonce that was there before: the newest, or any of this connection.
        let again = match self.rng.u32(0..16) {
            0 => self.server.newest_nonce(id, ty),
            1 => self.server.any_nonce(id, ty, &mut self.rng),
            _ => None,
        };
        let nonce = again.unwrap_or_else(|| format!("n{}", self.count));
        self.server.sent(id, ty, &nonce);
        self.flights.entry(id).or_default().push_back(Flight {
            ty,
            nonce,
            version: format!("v{}", self.count),
            resources,
            removed,
            twice,
        });
    }

    /// Delivers something that is in flight.
    fn land(&mut self) {
        let busy = self.flights.iter().filter(|(_, queue)| !queue.is_empty());
        let busy: Vec<_> = busy.map(|(id, _)| *id).collect();
        if !busy.is_empty() {
            let id = busy[self.rng.usize(0..busy.len())];
            self.land_on(id);
        }
    }

    fn land_on(&mut self, id: StreamId) {
        let Some(flight) = self.flights.get_mut(&id).and_then(VecDeque::pop_front) else {
            return;
        };
        let wanted = self.wanted();
        self.note(id, &flight, &wanted);
        let message = self.message(&flight);
        self.script.deliver(id, message);
        // A changed cluster asks for its endpoints again, whatever else it names.
        self.may_ask |= self.wanted() != wanted || *flight.ty == CLUSTER;
        self.heard = false;
        self.connect();
    }

    fn message(&self, flight: &Flight) -> Bytes {
        let mut resources = flight.resources.clone();
        if flight.twice {
            resources.push(resources[0].clone());
        }
        let removed: Vec<&str> = flight.removed.iter().map(String::as_str).collect();
        match self.server.mode {
            Mode::Sotw => sotw(flight.ty, &flight.version, &flight.nonce, &resources),
            Mode::Delta => delta(flight.ty, &flight.nonce, &resources, &removed),
        }
    }

    /// What the client must say to this, and hold as its last good state.
    fn note(&mut self, id: StreamId, flight: &Flight, wanted: &BTreeSet<String>) {
        let ty = flight.ty;
        let key = |name: &str| format!("{} {name}", ty.short);
        let asked = |name: &str| ty.full_state || wanted.contains(&key(name));
        // What nobody wants any more is not even looked at.
        let bad = |resource: &Res| resource.foreign || (resource.content == "BAD" && asked(&resource.name));
        let verdict = Verdict {
            nonce: &flight.nonce,
            version: &flight.version,
            nack: (flight.twice && (self.server.mode == Mode::Delta || flight.ty.full_state))
                || flight.resources.iter().any(bad),
        };
        // One name twice: a delta response is refused as a whole, of a SotW one the first copy counts.
        let (resources, removed) = match flight.twice && self.server.mode == Mode::Delta {
            true => (&[][..], &[][..]),
            false => (flight.resources.as_slice(), flight.removed.as_slice()),
        };
        let good = resources
            .iter()
            .filter(|resource| !bad(resource) && asked(&resource.name));
        let good: Vec<&Res> = good.collect();
        self.server.delivered(id, ty, verdict, &good, removed);
        let bad = flight.resources.iter().filter(|resource| bad(resource));
        self.excused.extend(bad.map(|resource| key(&resource.name)));
        if flight.twice {
            self.excused.insert(key(&flight.resources[0].name));
        }
        for resource in good {
            self.good.insert(key(&resource.name), resource.clone());
        }
        if !ty.full_state {
            self.excused.extend(removed.iter().map(|name| key(name)));
            return;
        }
        removed.iter().for_each(|name| drop(self.good.remove(&key(name))));
        if self.server.mode == Mode::Sotw {
            let named: BTreeSet<_> = resources.iter().map(|resource| key(&resource.name)).collect();
            self.good
                .retain(|name, _| !name.starts_with(ty.short) || named.contains(name));
        }
    }

    /// What clusters and listeners, published or warming, refer to.
    fn wanted(&self) -> BTreeSet<String> {
        let dump = self.script.engine.store.dump();
        let versions = dump.iter().flat_map(|entry| [&entry.active, &entry.warming]).flatten();
        let needs = versions.flat_map(|version| read(&version.bytes).0);
        needs.map(|need| target(&need)).collect()
    }

    /// What must hold between any two steps.
    fn check(&mut self) {
        let wanted = self.wanted();
        let mut newest = BTreeMap::new();
        for entry in self.script.engine.store.dump() {
            let key = format!("{} {}", entry.ty.short, entry.name);
            for version in [&entry.active, &entry.warming].into_iter().flatten() {
                newest.insert(key.clone(), read(&version.bytes).1);
            }
            let Some(active) = &entry.active else { continue };
            let (needs, content) = read(&active.bytes);
            let published = self.script.published.get(&key);
            assert_eq!(published, Some(&content), "{key} is published as it is");
            for target in needs.iter().map(|need| target(need)) {
                let complete = self.script.published.contains_key(&target) || self.excused.contains(&target);
                assert!(complete, "{key} is published without {target}");
            }
        }
        for (key, good) in &self.good {
            if is_root(key) || (newest.contains_key(key) && wanted.contains(key)) {
                assert_eq!(newest.get(key), Some(&good.content), "{key}: the last good version");
            }
        }
        let roots = newest.keys().filter(|key| is_root(key));
        roots.for_each(|key| assert!(self.good.contains_key(key), "{key} should be gone"));
        if self.heard {
            let busy = |id: StreamId, ty: &str| self.flights[&id].iter().any(|flight| flight.ty.short == ty);
            self.server.check_subscriptions(&wanted, busy);
        }
        self.server.note_wanted(&wanted);
        self.good.retain(|key, _| is_root(key) || wanted.contains(key));
        self.excused.retain(|key| wanted.contains(key));
    }

    /// From now on the server does all it should; the client must arrive at its state.
    fn behave(&mut self) {
        while self.flights.values().any(|queue| !queue.is_empty()) {
            self.land();
        }
        self.listen();
        for id in self.server.streams() {
            if self.rng.bool() {
                self.breaks(id);
            }
        }
        self.listen();
        for _ in 0..2 {
            for ty in [&CLUSTER, &ASSIGNMENT, &LISTENER, &ROUTE] {
                for id in self.server.streams() {
                    if self.server.is_asked(id, ty) {
                        self.push_all(id, ty);
                    }
                }
            }
        }
        assert_eq!(self.script.published, self.server.desired(), "converged");
        let roots = [&CLUSTER, &LISTENER];
        assert!(roots.iter().all(|ty| self.script.engine.store.warming(ty) == 0));
    }

    /// Sends all that the server has of what this stream asks for.
    fn push_all(&mut self, id: StreamId, ty: ResourceType) {
        let resources = self.server.current(id, ty, &mut self.rng, true);
        let removed = match self.server.mode {
            Mode::Delta => self.server.gone(id, ty),
            Mode::Sotw => Vec::new(),
        };
        self.send(id, ty, resources, removed, false);
        self.land_on(id);
        self.listen();
        self.check();
    }
}

#[test]
fn the_client_survives_a_misbehaving_control_plane_and_converges() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("SEED={seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
}
