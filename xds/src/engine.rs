//! Store and protocol machines joined, still without I/O: what the driver drives and the simulation simulates.
//!
//! In: bytes from streams and files, connects and disconnects, time. Out: streams to open ([`Engine::streams_to_open`]), requests
//! ([`Engine::poll_transmit`]), files to watch, publications (through [`Store`]).

mod record;
mod roots;
mod stream;
mod view;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use record::{Named, Records};
pub use roots::Root;
use roots::RootState;
use view::State;

use crate::bugs::{Bug, planted};
use crate::client::message::Response;
use crate::client::mux::{Mode, Mux, MuxConfig};
use crate::client::request::Request;
use crate::stats::Stats;
use crate::store::{Action, Interpreter, Now, Source, Store};
use crate::types::{self, ResourceType};

/// How a source is spoken to.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    pub mux: MuxConfig,
    /// One stream for all types (ADS), rather than one for each.
    pub aggregated: bool,
    /// A stream for each resource, so that one that the server cannot serve does not take the others down. Envoy does that for all
    /// that is not aggregated.
    pub stream_per_name: bool,
}

impl SourceConfig {
    /// ADS.
    pub fn aggregated(mode: Mode) -> Self {
        Self {
            mux: MuxConfig::new(mode),
            aggregated: true,
            stream_per_name: false,
        }
    }

    /// The services of the single types.
    pub fn separate(mode: Mode) -> Self {
        Self {
            mux: MuxConfig::new(mode),
            aggregated: false,
            stream_per_name: true,
        }
    }
}

/// Names one stream (or watched file) of an engine; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

/// A stream that is to be opened.
#[derive(Clone, Debug)]
pub struct ToOpen {
    pub id: StreamId,
    pub source: Arc<Source>,
    /// Path of the rpc; empty for a file.
    pub path: &'static str,
}

struct Stream {
    id: StreamId,
    source: Arc<Source>,
    /// What a stream that is not aggregated carries.
    ty: Option<ResourceType>,
    name: Option<Arc<str>>,
    mux: Mux,
    state: State,
}

const ADS_SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const ADS_DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Tells how a named source is configured.
pub type Resolve = Arc<dyn Fn(&Source) -> Option<SourceConfig> + Send + Sync>;

/// See the top of this file.
pub struct Engine {
    pub store: Store,
    streams: Vec<Stream>,
    roots: Vec<RootState>,
    records: Records,
    resolve: Resolve,
    clock: Arc<dyn Fn() -> Instant + Send + Sync>,
    rng: fastrand::Rng,
    next_id: u64,
    closed: Vec<StreamId>,
    /// Files that are to be read again: something new is wanted of them.
    rereads: Vec<StreamId>,
    stats: Arc<Stats>,
}

impl Engine {
    /// `clock` only measures what pushes cost; `rng` jitters the back-off.
    pub fn new(
        interpreter: Arc<dyn Interpreter>,
        resolve: Resolve,
        clock: Arc<dyn Fn() -> Instant + Send + Sync>,
        rng: fastrand::Rng,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            store: Store::new(interpreter, stats.clone()),
            streams: Vec::new(),
            roots: Vec::new(),
            records: Records::default(),
            resolve,
            clock,
            rng,
            next_id: 0,
            closed: Vec::new(),
            rereads: Vec::new(),
            stats,
        }
    }

    /// Subscribes to everything of a type.
    pub fn add_root(&mut self, root: Root, now: Now) {
        self.roots.push(RootState::new(root));
        self.advance(now);
    }

    /// The streams that are due to be opened; each is to be followed by [`on_connected`](Self::on_connected).
    pub fn streams_to_open(&self, now: Instant) -> Vec<ToOpen> {
        let due = self.streams.iter().filter(|stream| stream.mux.wants_stream(now));
        due.map(|stream| ToOpen {
            id: stream.id,
            source: stream.source.clone(),
            path: stream.path(),
        })
        .collect()
    }

    /// The streams that nothing needs any more, since the last call.
    pub fn take_closed(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.closed)
    }

    /// The files to read again, since the last call.
    pub fn take_rereads(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.rereads)
    }

    /// The stream can be written to.
    pub fn on_connected(&mut self, id: StreamId, now: Now) {
        if let Some(stream) = self.stream(id) {
            stream.mux.on_connected(now.instant);
            stream.drain_file(now.instant);
        }
    }

    /// The server has taken the stream.
    pub fn on_accepted(&mut self, id: StreamId) {
        if let Some(stream) = self.stream(id) {
            stream.mux.on_accepted();
            stream.state = State::Open;
        }
    }

    /// The stream broke or could not be opened.
    pub fn on_disconnected(&mut self, id: StreamId, now: Now) {
        let stats = self.stats.clone();
        if let Some(stream) = self.stream(id) {
            stream.mux.on_disconnected(now.instant);
            stream.count_failure(&stats);
        }
    }

    /// A message of a stream, or the content of a file as an encoded `DiscoveryResponse`.
    ///
    /// # Errors
    /// The bytes are no discovery response; the stream must be closed (and [`on_disconnected`](Self::on_disconnected) called).
    pub fn on_message(&mut self, id: StreamId, message: Bytes, now: Now) -> Result<(), String> {
        let started = (self.clock)();
        let Some(at) = self.streams.iter().position(|stream| stream.id == id) else {
            return Ok(());
        };
        let stream = &mut self.streams[at];
        let source = stream.source.clone();
        let parsed = match (&*source, stream.ty, stream.mux.mode()) {
            (Source::Path(_), Some(ty), _) => Response::parse_file(&message, ty),
            (_, _, Mode::Sotw) => Response::parse_sotw(&message),
            (_, _, Mode::Delta) => Response::parse_delta(&message),
        };
        let mut response = parsed.map_err(|error| format!("not a discovery response: {error}"))?;
        let is_silent = stream.check_file(&mut response);
        let (size, version) = (response.size, response.version.clone());
        let Some(mut batch) = stream.mux.on_response(response, now.instant) else {
            tracing::debug!(version = &*version, "response of a type that nobody asked for");
            return Ok(());
        };
        let ty = batch.ty;
        let paused = types::ALL
            .iter()
            .copied()
            .filter(|other| ty.pauses.contains(&other.short));
        paused.clone().for_each(|other| stream.mux.pause(other));
        let decoded = (self.clock)();
        let empty = batch.resources.is_empty() && batch.removed.is_empty() && batch.failures.is_empty();
        let no_op = empty && !batch.full && batch.present.is_empty();
        let unheard: Vec<_> = match is_silent {
            true => stream.mux.names().map(|(_, name)| name.clone()).collect(),
            false => Vec::new(),
        };
        let named = match is_silent {
            true => Named::all(ty, &version, unheard.iter(), &source, &self.stats, now),
            false => Named::of(&batch, &source, &self.stats, now),
        };
        self.records.note_reports(&self.stats, &source, &mut batch);
        if source.is_file() {
            stream.state = State::Open;
        }
        let applied = self.store.apply(&mut batch, &source, now, &*self.clock);
        named.count(&self.stats, &applied, now);
        let stream = &mut self.streams[at];
        stream.count_refused(&self.stats, ty, &applied.failures);
        stream.mux.finish(batch, &applied.failures);
        self.records.note(
            &self.stats,
            ty,
            &source,
            version,
            size,
            decoded - started,
            no_op,
            &applied,
            now,
        );
        self.answered(ty);
        unheard.iter().for_each(|name| self.store.give_up(ty, &source, name));
        self.advance(now);
        // What was applied may have closed streams, this one among them: places have moved.
        if let Some(stream) = self.stream(id) {
            paused.for_each(|other| stream.mux.resume(other));
            stream.drain_file(now.instant);
        }
        Ok(())
    }

    /// The content of a file could not be had, or is none; what it said last stays. Whoever waits for its first word goes on without, as in
    /// Envoy.
    pub fn on_unreadable(&mut self, id: StreamId, reason: String, now: Now) {
        let stats = self.stats.clone();
        let Some(stream) = self.stream(id) else { return };
        stream.count_failure(&stats);
        let source = stream.source.clone();
        stream.state = State::Failed(format!("{source}: {reason}"));
        let types: Vec<_> = stream.mux.types().collect();
        let names: Vec<_> = stream.mux.names().map(|(ty, name)| (ty, name.clone())).collect();
        types.into_iter().for_each(|ty| self.answered(ty));
        for (ty, name) in names.iter().filter(|_| !planted(Bug::WaitsForUnreadable)) {
            self.store.give_up(ty, &source, name);
        }
        if planted(Bug::UnreadableFileEmpties) {
            // What an empty file says.
            let _ = self.on_message(id, Bytes::new(), now);
        }
        self.advance(now);
    }

    /// The next request of a stream, if it has one to send.
    pub fn poll_transmit(&mut self, id: StreamId, now: Instant) -> Option<Request> {
        self.stream(id)?.mux.poll_transmit(now)
    }

    /// Pins references of something outside xDS; see [`Store::pin`].
    pub fn pin(&mut self, owner: &Arc<str>, references: Vec<crate::store::Reference>, now: Now) {
        self.store.pin(owner, references, now);
        self.advance(now);
    }

    pub fn unpin(&mut self, owner: &str, now: Now) {
        self.store.unpin(owner);
        self.advance(now);
    }

    /// When [`tick`](Self::tick), a stream or [`streams_to_open`](Self::streams_to_open) may have news.
    pub fn next_deadline(&self) -> Option<Instant> {
        let streams = self.streams.iter().filter_map(|stream| stream.mux.next_deadline());
        let roots = self.roots.iter().filter_map(RootState::next_deadline);
        streams.chain(roots).chain(self.store.next_deadline()).min()
    }

    /// Lets time pass: fetch timeouts and TTLs.
    pub fn tick(&mut self, now: Now) {
        for at in 0..self.streams.len() {
            let source = self.streams[at].source.clone();
            let expired = self.streams[at].mux.tick(now.instant);
            for (ty, name) in &expired {
                tracing::info!(ty = ty.short, name = &**name, "time to live is over");
                self.store.expire(ty, &source, name);
            }
            record::count_expired(&self.stats, &source, &expired, now);
        }
        self.store.tick(now.instant);
        self.advance(now);
    }

    /// # Panics
    /// A part is in a state that it must never be in; tests call this after each step.
    pub fn check_invariants(&self) {
        self.store.check_invariants();
        self.streams.iter().for_each(|stream| stream.mux.check_invariants());
    }

    fn stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.id == id)
    }

    /// Carries out what the store wants of its sources.
    fn route(&mut self) {
        let changes = self.store.take_subscription_changes();
        for change in &changes {
            let per_name = self.stream_per_name(&change.source);
            let name = per_name.then(|| change.name.clone());
            let Some(at) = self.stream_for(&change.source, change.ty, name) else {
                continue;
            };
            if change.action == Action::Subscribe {
                self.stats.subscribed(change.ty, &change.name, &change.source);
            }
            self.streams[at].change(change);
            // One that is new is read as soon as it is watched.
            let is_watched = change.source.is_file() && self.streams[at].mux.is_connected();
            if is_watched && change.action != Action::Unsubscribe && !planted(Bug::MissesReread) {
                self.rereads.push(self.streams[at].id);
            }
            // ADS may fall silent, and is kept: a reconnect would cost every type.
            if !self.streams[at].mux.wants_anything() && *change.source != Source::Ads {
                self.closed.push(self.streams[at].id);
                let gone = self.streams.remove(at);
                gone.mux.stats().connected_state.set(0);
                if let Some(name) = &gone.name {
                    self.stats.set_control_plane(change.ty, &gone.source, name, None);
                }
                if !self.streams.iter().any(|stream| stream.source == gone.source) {
                    self.records.forget(&gone.source);
                }
            }
        }
        // What moved to another source is still subscribed there.
        for change in changes.iter().filter(|change| change.action == Action::Unsubscribe) {
            let moved = |stream: &Stream| stream.mux.names_one(change.ty, &change.name);
            if !self.streams.iter().any(moved) {
                self.stats.unsubscribed(change.ty, &change.name);
            }
        }
    }

    fn stream_per_name(&self, source: &Source) -> bool {
        match source {
            Source::Named(_) => self
                .config_of(source)
                .is_some_and(|config| config.stream_per_name && !config.aggregated),
            Source::Ads | Source::Path(_) => false,
        }
    }

    /// How a source is spoken to. A panic of the embedder's is a source that does not exist, not the end of the client.
    fn config_of(&self, source: &Source) -> Option<SourceConfig> {
        catch_unwind(AssertUnwindSafe(|| (self.resolve)(source))).ok().flatten()
    }

    /// The stream that carries a type (and name) of a source, made if there is none. `None`: there is no such source.
    fn stream_for(&mut self, source: &Arc<Source>, ty: ResourceType, name: Option<Arc<str>>) -> Option<usize> {
        let config = match **source {
            Source::Path(_) => Some(SourceConfig {
                stream_per_name: false,
                ..SourceConfig::separate(Mode::Sotw)
            }),
            Source::Ads | Source::Named(_) => self.config_of(source),
        };
        let Some(config) = config else {
            tracing::warn!(source = %source, ty = ty.short, "no such source is configured");
            return None;
        };
        let (wanted, ty) = (ty, (!config.aggregated).then_some(ty));
        let found = self
            .streams
            .iter()
            .position(|stream| *stream.source == **source && stream.ty == ty && stream.name == name);
        if found.is_some() {
            return found;
        }
        let stats = match &**source {
            Source::Ads => self.stats.control_plane.clone(),
            Source::Named(_) | Source::Path(_) => Arc::default(),
        };
        if matches!(**source, Source::Named(_)) {
            let counters = match &name {
                Some(name) => self.stats.subscribed(wanted, name, source),
                None => Some(self.stats.of(wanted)),
            };
            counters.iter().for_each(|own| own.set_control_plane(stats.clone()));
            if let Some(name) = &name {
                self.stats.set_control_plane(wanted, source, name, Some(&stats));
            }
        }
        self.next_id += 1;
        let mux = Mux::new(config.mux, self.rng.fork(), stats);
        self.streams.push(Stream {
            id: StreamId(self.next_id),
            source: source.clone(),
            ty,
            name,
            mux,
            state: State::default(),
        });
        Some(self.streams.len() - 1)
    }
}
