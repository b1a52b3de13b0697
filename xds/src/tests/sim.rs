//! Seeded simulation: machine, store and graph against a control plane, and files, that misbehave and then behave.
//!
//! Over ADS, or a stream for each type (for each name, of what is named), or with clusters and listeners from files; the streams in both
//! variants: responses are in flight together, nonces come again, resources are bad, are mortal and vouched for, streams break, another
//! process answers; files are moved into place, half written, or gone. `SEED=n cargo test -p remora-xds sim` replays one seed, `SEEDS=n` tries
//! that many. After each step the model checks what was said and what the client holds; it is only trusted because it catches every planted
//! bug.

mod disk;
mod model;
mod plane;
mod planted;
mod server;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, ROUTE, SECRET};
use disk::Disk;
use model::{Model, key};
use server::{Server, Verdict};

const SEEDS: u64 = 256;
const STEPS: usize = 80;
/// Responses of one stream that are on their way at most.
const IN_FLIGHT: usize = 3;

/// One run: a client, its control plane and files, and what must hold between them.
struct Sim {
    script: Script,
    server: Server,
    disk: Disk,
    model: Model,
    rng: fastrand::Rng,
    /// Clusters and listeners come from files.
    from_files: bool,
    flights: BTreeMap<StreamId, VecDeque<Flight>>,
    /// Counts responses: version of each, and mostly its nonce.
    count: u32,
    /// Something has happened since the client was last heard that it may have to ask for.
    may_ask: bool,
    /// All that the client has to say has been heard.
    heard: bool,
}

/// A response that is sent and not delivered, or the content of a file.
#[derive(Clone)]
struct Flight {
    ty: ResourceType,
    nonce: String,
    version: String,
    resources: Vec<Res>,
    removed: Vec<String>,
    /// The first resource is named twice.
    twice: bool,
}

impl Flight {
    /// The resources as they are sent.
    fn all(&self) -> Vec<Res> {
        let again = self.resources.first().filter(|_| self.twice);
        self.resources.iter().chain(again).cloned().collect()
    }
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
    let from_files = rng.u32(0..4) == 0;
    let roots: &[ResourceType] = if from_files { &[] } else { &[&CLUSTER, &LISTENER] };
    let server = Server::new(mode, config.aggregated, &mut rng);
    let mut sim = Sim {
        script: Script::of(source, config, roots, seed),
        server,
        disk: Disk::new(rng.u32(0..4) == 0),
        model: Model::default(),
        rng,
        from_files,
        flights: BTreeMap::new(),
        count: 0,
        may_ask: true,
        heard: false,
    };
    for (path, ty) in [("/cds", &CLUSTER), ("/lds", &LISTENER)] {
        let root = Root {
            source: file_source(path),
            initial_fetch_timeout: Duration::ZERO,
            after: None,
            ..Root::new(ty)
        };
        if from_files {
            sim.script.engine.add_root(root, sim.script.now);
        }
    }
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
            self.disk.closed(id);
            self.flights.remove(&id);
        }
        let rereads = self.script.engine.take_rereads();
        for to_open in self.script.engine.streams_to_open(self.script.now.instant) {
            self.script.engine.on_connected(to_open.id, self.script.now);
            if let Source::Path(file) = &*to_open.source {
                self.disk.opened(to_open.id, &file.path);
                continue;
            }
            self.server.opened(to_open.id, to_open.path);
            self.flights.insert(to_open.id, VecDeque::new());
            self.may_ask = true;
            self.heard = false;
        }
        rereads.into_iter().for_each(|id| self.disk.reread(id));
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
        match self.rng.u32(0..16) {
            0 => self.reconnect(),
            1..=3 => self.server.mutate(&mut self.rng),
            4 => {
                let seconds = self.rng.u64(0..5);
                self.advance(seconds);
                self.connect();
            }
            5..=9 => {
                if let Some((id, ty)) = self.anything() {
                    self.push(id, ty);
                }
            }
            10 | 11 => self.write(),
            _ => self.land(),
        }
        if self.rng.u32(0..4) > 0 {
            self.listen();
        }
    }

    /// A stream that is open, and a type that it could carry.
    fn anything(&mut self) -> Option<(StreamId, ResourceType)> {
        let open: Vec<_> = self.flights.keys().collect();
        let id = **self.rng.choice(&open)?;
        let any = self.rng.choice([&CLUSTER, &LISTENER, &ASSIGNMENT, &ROUTE, &SECRET])?;
        Some((id, self.server.carries(id).unwrap_or(any)))
    }

    fn advance(&mut self, seconds: u64) {
        let wanted = self.wanted();
        self.script.advance(seconds);
        let over = self.model.pass(seconds);
        over.iter().for_each(|key| self.server.forget(key));
        self.note_wanted(&wanted);
    }

    /// Something has happened; `before` is what was wanted until then.
    fn note_wanted(&mut self, before: &BTreeSet<String>) {
        if self.wanted() != *before {
            self.may_ask = true;
            self.heard = false;
        }
    }

    fn reconnect(&mut self) {
        let Some((id, _)) = self.anything() else { return };
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
        self.advance(30);
        self.connect();
    }

    /// Delivers something that is in flight, or lets the client read a file.
    fn land(&mut self) {
        let busy = self.flights.iter().filter(|(_, queue)| !queue.is_empty());
        let busy: Vec<_> = busy.map(|(id, _)| *id).collect();
        let due = self.disk.due();
        match self.rng.usize(0..(busy.len() + due.len()).max(1)) {
            at if at < busy.len() => self.land_on(busy[at]),
            at if at - busy.len() < due.len() => self.read(due[at - busy.len()]),
            _ => {}
        }
    }

    fn land_on(&mut self, id: StreamId) {
        let Some(flight) = self.flights.get_mut(&id).and_then(VecDeque::pop_front) else {
            return;
        };
        let wanted = self.wanted();
        let ty = flight.ty;
        let judged = flight.judge(
            self.server.mode,
            |name| ty.full_state || wanted.contains(&key(ty, name)),
            |name| match self.server.mode {
                Mode::Sotw => self.server.accepted(id, ty),
                Mode::Delta => self.server.version_of(id, ty, name),
            },
        );
        let verdict = Verdict {
            nonce: &flight.nonce,
            version: &flight.version,
            nack: judged.nack,
        };
        self.server.delivered(id, ty, verdict, &judged.good, judged.removed);
        let whole = ty.full_state && self.server.mode == Mode::Sotw;
        self.model.take(&flight, &judged, whole);
        let message = self.message(&flight);
        self.script.deliver(id, message);
        self.landed(ty, &wanted);
    }

    /// After something of `ty` has come, when `wanted` was wanted.
    fn landed(&mut self, ty: ResourceType, wanted: &BTreeSet<String>) {
        self.note_wanted(wanted);
        // A changed cluster asks for its endpoints again, whatever else it names.
        self.may_ask |= *ty == CLUSTER;
        self.heard = false;
        self.connect();
    }

    fn message(&self, flight: &Flight) -> Bytes {
        let removed: Vec<&str> = flight.removed.iter().map(String::as_str).collect();
        match self.server.mode {
            Mode::Sotw => sotw(flight.ty, &flight.version, &flight.nonce, &flight.all()),
            Mode::Delta => delta(flight.ty, &flight.nonce, &flight.all(), &removed),
        }
    }

    /// From now on the server and whoever writes the files do all they should; the client must arrive at their state.
    fn behave(&mut self) {
        while self.flights.values().any(|queue| !queue.is_empty()) {
            self.land();
            self.check();
        }
        self.listen();
        for id in self.server.streams() {
            // One that breaks may outlive what another one was for.
            if self.flights.contains_key(&id) && self.rng.bool() {
                self.breaks(id);
                self.check();
            }
        }
        self.listen();
        self.write_all();
        for _ in 0..2 {
            for ty in [&CLUSTER, &ASSIGNMENT, &LISTENER, &ROUTE, &SECRET] {
                for id in self.server.streams() {
                    if self.server.is_asked(id, ty) {
                        self.push_all(id, ty);
                    }
                }
            }
            self.write_all();
        }
        assert_eq!(self.script.published, self.server.desired(), "converged");
        let roots = [&CLUSTER, &LISTENER];
        assert!(roots.iter().all(|ty| self.script.engine.store.warming(ty) == 0));
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
