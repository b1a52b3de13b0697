//! Seeded simulation: machine, store and graph against a control plane that misbehaves and then behaves.
//!
//! `SEED=n cargo test -p remora-xds sim` replays one seed, `SEEDS=n` tries that many. After each step the model server checks what it was told and what the
//! client holds; it is only trusted because it catches every planted bug.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::bugs::{Bug, plant};
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, ROUTE};
use server::Server;

const SEEDS: u64 = 256;
const STEPS: usize = 60;

/// One run: a client, its control plane, and what must hold between them.
struct Sim {
    script: Script,
    server: Server,
    rng: fastrand::Rng,
    /// Newest accepted content of each cluster and listener, by `type name`.
    good: BTreeMap<String, Res>,
    /// Targets that the server answered for with something other than a good version.
    excused: BTreeSet<String>,
    nonce: u32,
}

fn run(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mode = if rng.bool() { Mode::Sotw } else { Mode::Delta };
    let script = Script::with(SourceConfig::aggregated(mode), &[&CLUSTER, &LISTENER], seed);
    let server = Server::new(mode, &mut rng);
    let (good, excused) = (BTreeMap::new(), BTreeSet::new());
    let mut sim = Sim {
        script,
        server,
        rng,
        good,
        excused,
        nonce: 0,
    };
    sim.connect();
    for _ in 0..STEPS {
        sim.step();
        sim.check();
    }
    sim.behave();
}

impl Sim {
    fn connect(&mut self) {
        self.server.new_stream();
        for to_open in self.script.engine.streams_to_open(self.script.now.instant) {
            self.script.engine.on_connected(to_open.id, self.script.now);
            self.script.streams = vec![to_open.id];
        }
        self.listen();
    }

    /// Lets the server read what the client has to say.
    fn listen(&mut self) {
        for request in self.script.requests() {
            self.server.read(&request);
        }
    }

    fn step(&mut self) {
        match self.rng.u32(0..12) {
            0 => self.reconnect(),
            1..=3 => self.server.mutate(&mut self.rng),
            4 => self.script.advance(self.rng.u64(0..5)),
            _ => {
                let ty = [&CLUSTER, &LISTENER, &ASSIGNMENT, &ROUTE][self.rng.usize(0..4)];
                self.push(ty);
            }
        }
    }

    fn reconnect(&mut self) {
        self.script
            .engine
            .on_disconnected(self.script.streams[0], self.script.now);
        self.script.advance(30);
        if self.rng.bool() {
            // Another process in its place, which counts otherwise.
            self.nonce += 1000;
            self.server.restart();
        }
        self.connect();
    }

    /// Sends a response of `ty`, good or bad, and checks the answer.
    fn push(&mut self, ty: ResourceType) {
        if !self.server.is_asked(ty) {
            // Unsolicited: must be ignored, without an answer.
            let message = self.message(ty, &[res("x", "1")], &[], "unasked");
            self.script.deliver(self.script.streams[0], message);
            self.listen();
            return;
        }
        let mut resources = self.server.current(ty, &mut self.rng, false);
        let mut removed = Vec::new();
        let mut nack = self.spoil(&mut resources);
        if self.server.mode == Mode::Delta {
            removed = self.server.gone(ty, &mut self.rng);
            removed.retain(|name| resources.iter().all(|resource| resource.name != *name));
        }
        if self.rng.u32(0..12) == 0 {
            resources.clear();
            nack = false;
        }
        if !resources.is_empty() && self.rng.u32(0..16) == 0 {
            self.send_twice(ty, resources, removed);
            return;
        }
        self.send(ty, resources, removed, nack);
    }

    /// Sends one name twice: a delta response is refused as a whole, of a SotW one the first copy counts.
    fn send_twice(&mut self, ty: ResourceType, once: Vec<Res>, removed: Vec<String>) {
        let mut twice = once.clone();
        twice.push(once[0].clone());
        let message = self.begin(ty, &twice, &removed);
        let (good, removed) = match self.server.mode {
            Mode::Sotw => (once.as_slice(), removed),
            Mode::Delta => (&[][..], Vec::new()),
        };
        self.server.sent(ty, &self.nonce(), true, good, &removed);
        if self.server.mode == Mode::Sotw {
            self.note(ty, good, &removed);
        }
        self.excused.insert(format!("{} {}", ty.short, once[0].name));
        self.finish(message);
    }

    fn nonce(&self) -> String {
        format!("n{}", self.nonce)
    }

    /// Makes some of the resources bad. Returns whether the response must be refused.
    fn spoil(&mut self, resources: &mut [Res]) -> bool {
        let mut nack = false;
        for resource in resources {
            match self.rng.u32(0..10) {
                0 => resource.content = "BAD".into(),
                1 => *resource = resource.clone().foreign(),
                _ => continue,
            }
            // The server counts every attempt as a version of its own.
            resource.version = format!("bad-{}", self.nonce);
            nack = true;
        }
        nack
    }

    fn send(&mut self, ty: ResourceType, resources: Vec<Res>, removed: Vec<String>, nack: bool) {
        let message = self.begin(ty, &resources, &removed);
        self.server.sent(ty, &self.nonce(), nack, &resources, &removed);
        self.note(ty, &resources, &removed);
        self.finish(message);
    }

    fn begin(&mut self, ty: ResourceType, resources: &[Res], removed: &[String]) -> Bytes {
        self.nonce += 1;
        let names: Vec<&str> = removed.iter().map(String::as_str).collect();
        self.message(ty, resources, &names, &self.nonce())
    }

    fn finish(&mut self, message: Bytes) {
        self.script.deliver(self.script.streams[0], message);
        self.listen();
        self.server.check_answered();
    }

    fn message(&self, ty: ResourceType, resources: &[Res], removed: &[&str], nonce: &str) -> Bytes {
        match self.server.mode {
            Mode::Sotw => sotw(ty, &format!("v{}", self.nonce), nonce, resources),
            Mode::Delta => delta(ty, nonce, resources, removed),
        }
    }

    /// What the client must now hold as its last good state.
    fn note(&mut self, ty: ResourceType, resources: &[Res], removed: &[String]) {
        let key = |name: &str| format!("{} {name}", ty.short);
        for resource in resources {
            if resource.content == "BAD" || resource.foreign {
                self.excused.insert(key(&resource.name));
            } else {
                self.good.insert(key(&resource.name), resource.clone());
            }
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

    /// What must hold between any two steps.
    fn check(&mut self) {
        let (mut wanted, mut newest) = (BTreeSet::new(), BTreeMap::new());
        for entry in self.script.engine.store.dump() {
            let key = format!("{} {}", entry.ty.short, entry.name);
            let versions = [&entry.active, &entry.warming];
            for version in versions.into_iter().flatten() {
                let (needs, content) = read(&version.bytes);
                wanted.extend(needs);
                newest.insert(key.clone(), content);
            }
            if let Some(active) = &entry.active {
                assert_eq!(
                    self.script.published.get(&key),
                    Some(&read(&active.bytes).1),
                    "{key} is published as it is"
                );
                for need in read(&active.bytes).0 {
                    let target = need.replace(':', " ");
                    let complete = self.script.published.contains_key(&target) || self.excused.contains(&target);
                    assert!(complete, "{key} is published without {target}");
                }
            }
        }
        for (key, good) in &self.good {
            let is_root = key.starts_with("cds") || key.starts_with("lds");
            if is_root || (newest.contains_key(key) && wanted.contains(&key.replace(' ', ":"))) {
                assert_eq!(newest.get(key), Some(&good.content), "{key}: the last good version");
            }
        }
        let roots = newest
            .keys()
            .filter(|key| key.starts_with("cds") || key.starts_with("lds"));
        roots.for_each(|key| assert!(self.good.contains_key(key), "{key} should be gone"));
        self.server.check_subscriptions(&wanted);
        self.server.note_wanted(&wanted);
        self.good.retain(|key, _| {
            key.starts_with("cds") || key.starts_with("lds") || wanted.contains(&key.replace(' ', ":"))
        });
    }

    /// From now on the server does all it should; the client must arrive at its state.
    fn behave(&mut self) {
        self.reconnect();
        for ty in [
            &CLUSTER,
            &ASSIGNMENT,
            &LISTENER,
            &ROUTE,
            &CLUSTER,
            &ASSIGNMENT,
            &LISTENER,
            &ROUTE,
        ] {
            if !self.server.is_asked(ty) {
                continue;
            }
            let resources = self.server.current(ty, &mut self.rng, true);
            let removed = self.server.all_gone(ty);
            self.send(ty, resources, removed, false);
            self.check();
        }
        assert_eq!(self.script.published, self.server.desired(), "converged");
        assert!(
            [&CLUSTER, &LISTENER]
                .iter()
                .all(|ty| self.script.engine.store.warming(ty) == 0)
        );
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

/// The first seed that notices `bug`.
fn caught_by(bug: Bug) -> Option<u64> {
    plant(Some(bug));
    let found = (0..SEEDS).find(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err());
    plant(None);
    found
}

macro_rules! planted {
    ($($test:ident: $bug:ident,)*) => {
        $(#[test]
        fn $test() {
            assert!(caught_by(Bug::$bug).is_some(), "no seed notices {:?}", Bug::$bug);
        })*
    };
}

planted! {
    catches_an_ack_instead_of_a_nack: AckInsteadOfNack,
    catches_a_nack_with_the_rejected_version: NackWithNewVersion,
    catches_a_stale_nonce: StaleNonce,
    catches_a_nonce_that_survives_a_reconnect: NonceSurvivesReconnect,
    catches_a_bad_version_that_drops_the_good_one: BadDropsGood,
    catches_bad_taken_for_deleted: BadIsDeleted,
    catches_skipped_warming: SkipWarming,
    catches_break_before_make: BreakBeforeMake,
    catches_an_empty_first_request: EmptyFirstDelta,
    catches_a_recorded_bad_version: RecordsBadVersion,
    catches_an_unanswered_empty_response: SilentOnEmpty,
    catches_a_lost_unsubscription: LostUnsubscribe,
    catches_subscriptions_forgotten_at_a_reconnect: ForgetsOnReconnect,
}
