//! Scripted conversations and the simulation, both over an [`Engine`] without I/O.
//!
//! Resources of these tests are messages of three fields: 1 name, 2 (repeated) `type:name` of what it needs, 3 content. Content
//! that starts with `BAD` is refused.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(
    clippy::disallowed_methods,
    reason = "the first instant of a simulation comes from somewhere"
)]

mod counting;
mod delta;
mod edges;
mod files;
mod pacing;
mod rules;
mod scale;
mod sim;
mod sotw;
mod sotw_apply;
mod store;
mod warming;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};

use crate::client::mux::Mode;
use crate::client::request::{Body, Request};
use crate::client::wire::{self, Reader, Value};
use crate::engine::{Engine, Root, SourceConfig, StreamId};
use crate::stats::Stats;
use crate::store::{Now, PathSource, Reference, Source, Updates};
use crate::types::{self, ResourceType};

/// A resource of these tests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Res {
    pub(crate) name: String,
    /// What the payload calls itself, if not so.
    own_name: Option<String>,
    pub(crate) needs: Vec<String>,
    pub(crate) content: String,
    pub(crate) version: String,
    ttl: Option<u64>,
    absent: bool,
    wrapped: bool,
    foreign: bool,
    aliases: Vec<String>,
}

/// `res("a", "x")` needs nothing; `.needs("eds:a")` makes it.
pub(crate) fn res(name: &str, content: &str) -> Res {
    Res {
        name: name.into(),
        content: content.into(),
        version: content.into(),
        ..Res::default()
    }
}

impl Res {
    pub(crate) fn needs(mut self, what: &str) -> Self {
        self.needs.push(what.into());
        self
    }

    fn version(mut self, version: &str) -> Self {
        self.version = version.into();
        self
    }

    fn ttl(mut self, seconds: u64) -> Self {
        self.ttl = Some(seconds);
        self.wrapped = true;
        self
    }

    fn wrapped(mut self) -> Self {
        self.wrapped = true;
        self
    }

    /// No payload: a heartbeat if the version is right.
    fn absent(mut self) -> Self {
        self.absent = true;
        self.wrapped = true;
        self
    }

    /// The payload has another name than its wrapper.
    fn calling_itself(mut self, name: &str) -> Self {
        self.own_name = Some(name.into());
        self.wrapped = true;
        self
    }

    fn alias(mut self, alias: &str) -> Self {
        self.aliases.push(alias.into());
        self
    }

    /// Of a type that does not match the response.
    pub(crate) fn foreign(mut self) -> Self {
        self.foreign = true;
        self
    }

    fn any(&self, ty: ResourceType) -> BytesMut {
        let (mut payload, mut any) = (BytesMut::new(), BytesMut::new());
        wire::put_text(&mut payload, 1, self.own_name.as_ref().unwrap_or(&self.name));
        self.needs.iter().for_each(|need| wire::put_text(&mut payload, 2, need));
        wire::put_text(&mut payload, 3, &self.content);
        wire::put_text(
            &mut any,
            1,
            if self.foreign {
                "type.googleapis.com/other"
            } else {
                ty.url
            },
        );
        wire::put_bytes(&mut any, 2, &payload);
        any
    }

    fn entry(&self, ty: ResourceType) -> BytesMut {
        let mut entry = BytesMut::new();
        wire::put_text(&mut entry, 1, &self.version);
        if !self.absent {
            wire::put_bytes(&mut entry, 2, &self.any(ty));
        }
        wire::put_text(&mut entry, 3, &self.name);
        self.aliases
            .iter()
            .for_each(|alias| wire::put_text(&mut entry, 4, alias));
        if let Some(seconds) = self.ttl {
            let mut duration = BytesMut::new();
            wire::put_number(&mut duration, 1, seconds);
            wire::put_bytes(&mut entry, 6, &duration);
        }
        entry
    }
}

/// An encoded SotW response.
pub(crate) fn sotw(ty: ResourceType, version: &str, nonce: &str, resources: &[Res]) -> Bytes {
    let mut out = BytesMut::new();
    wire::put_text(&mut out, 1, version);
    for resource in resources {
        let mut any = resource.any(ty);
        if resource.wrapped {
            any.clear();
            wire::put_text(&mut any, 1, types::WRAPPER_URL);
            wire::put_bytes(&mut any, 2, &resource.entry(ty));
        }
        wire::put_bytes(&mut out, 2, &any);
    }
    wire::put_text(&mut out, 4, ty.url);
    wire::put_text(&mut out, 5, nonce);
    out.freeze()
}

/// An encoded delta response.
pub(crate) fn delta(ty: ResourceType, nonce: &str, resources: &[Res], removed: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    resources
        .iter()
        .for_each(|resource| wire::put_bytes(&mut out, 2, &resource.entry(ty)));
    wire::put_text(&mut out, 4, ty.url);
    wire::put_text(&mut out, 5, nonce);
    removed
        .iter()
        .for_each(|name| wire::put_bytes(&mut out, 6, name.as_bytes()));
    out.freeze()
}

/// What one resource says: its needs and its content.
pub(crate) fn read(bytes: &Bytes) -> (Vec<String>, String) {
    let (mut needs, mut content) = (Vec::new(), String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.field().unwrap() {
        let Value::Span(span) = value else { continue };
        let text = wire::text(bytes, span).unwrap().to_owned();
        match number {
            2 => needs.push(text),
            3 => content = text,
            _ => {}
        }
    }
    (needs, content)
}

pub(crate) fn by_short(short: &str) -> ResourceType {
    types::ALL.iter().copied().find(|ty| ty.short == short).unwrap()
}

/// `eds:name`, `eds:name@source` for a named source, `eds:name@/path` for a file, `eds:name/30` with a timeout of 30 s, `eds:name?` when not
/// required.
fn reference(need: &str) -> Reference {
    let (need, required) = need.strip_suffix('?').map_or((need, true), |need| (need, false));
    let (need, file) = need
        .split_once("@/")
        .map_or((need, None), |(need, path)| (need, Some(path)));
    let (need, timeout) = need
        .split_once('/')
        .map_or((need, 0), |(need, seconds)| (need, seconds.parse().unwrap()));
    let (need, source) = need
        .split_once('@')
        .map_or((need, Source::Ads), |(n, s)| (n, Source::Named(s.into())));
    let source = file.map_or(source, |path| file_source(&format!("/{path}")));
    let (ty, name) = need.split_once(':').unwrap();
    let initial_fetch_timeout = Duration::from_secs(timeout);
    Reference {
        source,
        initial_fetch_timeout,
        required,
        ..Reference::new(by_short(ty), name)
    }
}

/// The file at `path`, watched in its own directory.
pub(crate) fn file_source(path: &str) -> Source {
    Source::Path(PathSource {
        path: path.into(),
        watched_directory: None,
    })
}

fn interpret(_: &str, _: &str, bytes: &Bytes) -> Result<Vec<Reference>, String> {
    let (needs, content) = read(bytes);
    match content.as_str() {
        "BAD" => Err("content: is bad".to_owned()),
        "BAD LONG" => Err("ü".repeat(5000)),
        "BAD PANIC" => panic!("a bug of the interpreter"),
        _ => Ok(needs.iter().map(|need| reference(need)).collect()),
    }
}

/// An engine with its clock and one follower.
pub(crate) struct Script {
    pub(crate) engine: Engine,
    pub(crate) now: Now,
    pub(crate) stats: Arc<Stats>,
    updates: Updates,
    /// What a follower knows, `type name` to content.
    pub(crate) published: BTreeMap<String, String>,
    /// The last update, as `+type name` and `-type name`.
    order: Vec<String>,
    initialized: Vec<&'static str>,
    pub(crate) streams: Vec<StreamId>,
}

impl Script {
    /// ADS with CDS and LDS.
    pub(crate) fn new(mode: Mode) -> Self {
        Self::with(SourceConfig::aggregated(mode), &[&types::CLUSTER, &types::LISTENER], 1)
    }

    pub(crate) fn with(config: SourceConfig, roots: &[ResourceType], seed: u64) -> Self {
        Self::of(Source::Ads, config, roots, seed)
    }

    /// Roots that come from `source`, which is spoken to as `config` says if it is ADS or called `plane`.
    pub(crate) fn of(source: Source, config: SourceConfig, roots: &[ResourceType], seed: u64) -> Self {
        let resolve = Arc::new(move |source: &Source| match source {
            Source::Named(name) if &**name == "nowhere" => None,
            Source::Named(name) if &**name == "plane" => Some(config.clone()),
            Source::Named(_) => Some(SourceConfig::separate(Mode::Sotw)),
            _ => Some(config.clone()),
        });
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
        };
        let stats = Arc::new(Stats::default());
        let (rng, measured) = (fastrand::Rng::with_seed(seed), now.instant);
        let mut engine = Engine::new(
            Arc::new(interpret),
            resolve,
            Arc::new(move || measured),
            rng,
            stats.clone(),
        );
        let updates = engine.store.follow();
        for root in roots {
            engine.add_root(
                Root {
                    source: source.clone(),
                    initial_fetch_timeout: Duration::ZERO,
                    after: None,
                    ..Root::new(root)
                },
                now,
            );
        }
        let (published, order, initialized, streams) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            engine,
            now,
            stats,
            updates,
            published,
            order,
            initialized,
            streams,
        }
    }

    /// Opens every stream that is due and returns what is sent on them.
    pub(crate) fn connect(&mut self) -> Vec<String> {
        for to_open in self.engine.streams_to_open(self.now.instant) {
            self.engine.on_connected(to_open.id, self.now);
            self.streams.retain(|id| *id != to_open.id);
            self.streams.push(to_open.id);
        }
        self.sent()
    }

    /// The ADS stream is gone and back again.
    fn reconnect(&mut self) -> Vec<String> {
        self.engine.on_disconnected(self.streams[0], self.now);
        self.advance(30);
        self.connect()
    }

    fn advance(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.wall += Duration::from_secs(seconds);
        self.engine.tick(self.now);
        self.look();
    }

    pub(crate) fn requests(&mut self) -> Vec<Request> {
        let mut sent = Vec::new();
        for id in self.streams.clone() {
            sent.extend(std::iter::from_fn(|| self.engine.poll_transmit(id, self.now.instant)));
        }
        self.engine.check_invariants();
        sent
    }

    pub(crate) fn sent(&mut self) -> Vec<String> {
        self.requests().iter().map(line).collect()
    }

    /// Hands a message to the ADS stream and returns the requests that follow.
    pub(crate) fn receive(&mut self, message: Bytes) -> Vec<String> {
        self.receive_on(0, message)
    }

    fn receive_on(&mut self, stream: usize, message: Bytes) -> Vec<String> {
        self.deliver(self.streams[stream], message);
        self.sent()
    }

    pub(crate) fn deliver(&mut self, id: StreamId, message: Bytes) {
        self.engine.on_message(id, message, self.now).unwrap();
        self.look();
    }

    /// Takes what was published.
    pub(crate) fn look(&mut self) {
        let update = self.updates.take();
        self.initialized = update.initialized.iter().map(|ty| ty.short).collect();
        self.order.clear();
        for change in update.changes {
            let key = format!("{} {}", change.ty.short, change.name);
            match change.resource {
                Some(resource) => {
                    self.order.push(format!("+{key}"));
                    self.published.insert(key, read(&resource.bytes).1);
                }
                None => {
                    self.order.push(format!("-{key}"));
                    self.published.remove(&key);
                }
            }
        }
    }

    /// The published names and contents of a type.
    fn has(&self, short: &str) -> Vec<String> {
        let of_type = self
            .published
            .iter()
            .filter_map(|(key, content)| Some((key.strip_prefix(short)?, content)));
        of_type
            .map(|(name, content)| format!("{}={content}", name.trim()))
            .collect()
    }
}

/// A request on one line: `cds v=1 n=c1 [a,b]`, or `eds n= +[a] -[b] {a:5}`; then ` node`, ` NACK reason`.
pub(crate) fn line(request: &Request) -> String {
    let short = types::by_url(request.type_url).unwrap().short;
    let mut line = match &request.body {
        Body::Sotw { version, names } => {
            format!("{short} v={version} n={} [{}]", request.nonce, names.to_vec().join(","))
        }
        Body::Delta {
            subscribe,
            unsubscribe,
            initial,
        } => {
            let initial: Vec<_> = initial
                .iter()
                .map(|(name, version)| format!("{name}:{version}"))
                .collect();
            let (add, remove) = (subscribe.join(","), unsubscribe.join(","));
            format!(
                "{short} n={} +[{add}] -[{remove}] {{{}}}",
                request.nonce,
                initial.join(",")
            )
        }
    };
    line.push_str(if request.node { " node" } else { "" });
    if let Some(error) = &request.error {
        line.push_str(" NACK ");
        line.push_str(error);
    }
    line
}
