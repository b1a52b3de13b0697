//! How a client is put together.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::core::v3::Node;
use tokio::sync::mpsc;

use super::handle::ClientHandle;
use super::{Connectors, Driver};
use crate::client::connect::{Connect, GrpcConnector, channel};
use crate::client::mux::Mode;
use crate::engine::{Engine, Resolve, Root, SourceConfig};
use crate::stats::Stats;
use crate::store::{Change, Interpreter, Now, Reference, Source};
use crate::types::ResourceType;

/// Turns the content of a file (whose name tells the format) into an encoded `DiscoveryResponse`.
pub type Decode = Arc<dyn Fn(&[u8], &Path) -> Result<Bytes, String> + Send + Sync>;

type Named = Arc<dyn Fn(&str) -> Option<(SourceConfig, Arc<dyn Connect>)> + Send + Sync>;

/// The way in: [`Client::builder`].
pub struct Client;

impl Client {
    /// A client that introduces itself as `node`.
    pub fn builder(node: &Node) -> Builder {
        Builder {
            node: node.encode_to_vec().into(),
            ads: None,
            named: None,
            interpreter: Arc::new(|_: &str, _: &str, _: &Bytes| Ok(Vec::new())),
            roots: Vec::new(),
            pins: Vec::new(),
            fixed: Vec::new(),
            decode: None,
            stats: Arc::default(),
            rng: fastrand::Rng::new(),
            clock: system_clock,
        }
    }
}

/// Collects what a client needs; only what it is asked for is necessary.
pub struct Builder {
    node: Bytes,
    ads: Option<(SourceConfig, Arc<dyn Connect>)>,
    named: Option<Named>,
    interpreter: Arc<dyn Interpreter>,
    roots: Vec<Root>,
    pins: Vec<(Arc<str>, Vec<Reference>)>,
    fixed: Vec<(ResourceType, Arc<str>)>,
    decode: Option<Decode>,
    stats: Arc<Stats>,
    rng: fastrand::Rng,
    clock: fn() -> Now,
}

impl Builder {
    /// ADS of the control plane at `target`, as [`channel`] reads it. What needs other settings is given to [`ads`](Self::ads).
    ///
    /// # Errors
    /// `target` is no address.
    pub fn control_plane(self, target: &str, mode: Mode) -> Result<Self, tonic::transport::Error> {
        let connector = GrpcConnector::new(channel(target)?).called(target);
        Ok(self.ads(SourceConfig::aggregated(mode), connector))
    }

    /// The control plane of [`Source::Ads`].
    pub fn ads(mut self, config: SourceConfig, connector: impl Connect + 'static) -> Self {
        self.ads = Some((config, Arc::new(connector)));
        self
    }

    /// Finds the control plane of a [`Source::Named`], when one is first referred to and at each connect. `None`: there is no such.
    pub fn named<F>(mut self, find: F) -> Self
    where
        F: Fn(&str) -> Option<(SourceConfig, Arc<dyn Connect>)> + Send + Sync + 'static,
    {
        self.named = Some(Arc::new(find));
        self
    }

    /// Without one, everything is accepted and refers to nothing.
    pub fn interpreter(mut self, interpreter: impl Interpreter + 'static) -> Self {
        self.interpreter = Arc::new(interpreter);
        self
    }

    /// Subscribes to everything of a type.
    pub fn root(mut self, root: Root) -> Self {
        self.roots.push(root);
        self
    }

    /// See [`ClientHandle::pin`].
    pub fn pin(mut self, owner: impl Into<Arc<str>>, references: Vec<Reference>) -> Self {
        self.pins.push((owner.into(), references));
        self
    }

    /// Refuses dynamic resources of these names: the bootstrap has them.
    pub fn fixed(mut self, ty: ResourceType, names: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        self.fixed.extend(names.into_iter().map(|name| (ty, name.into())));
        self
    }

    /// Reads the files of [`Source::Path`].
    pub fn decode_files<F>(mut self, decode: F) -> Self
    where
        F: Fn(&[u8], &Path) -> Result<Bytes, String> + Send + Sync + 'static,
    {
        self.decode = Some(Arc::new(decode));
        self
    }

    /// Counts into these, which somebody may have begun to [watch](Stats::watch) already.
    pub fn stats(mut self, stats: Arc<Stats>) -> Self {
        self.stats = stats;
        self
    }

    /// Source of the back-off's jitter.
    pub fn rng(mut self, rng: fastrand::Rng) -> Self {
        self.rng = rng;
        self
    }

    /// Both clocks, instead of the system's (the monotonic one follows tokio's paused time by default).
    pub fn clock(mut self, clock: fn() -> Now) -> Self {
        self.clock = clock;
        self
    }

    /// The whole client as one future: hands every change of what is published to `each`, in an order that is safe to apply one by one.
    /// Ends only if the runtime does. `each` is called on the task that moves the bytes: what takes long, or wants more than changes, is for a
    /// [`build`](Self::build) and a follower on a task of its own ([`ClientHandle::updates`]).
    ///
    /// # Cancel safety
    /// Dropping the future ends the client and its streams.
    pub async fn watch(self, mut each: impl FnMut(Change)) {
        let (client, driver) = self.build();
        let follow = async {
            let Ok(mut updates) = client.updates().await else {
                return;
            };
            while updates.changed().await {
                updates.take().changes.into_iter().for_each(&mut each);
            }
        };
        tokio::join!(driver.run(), follow);
    }

    /// Nothing happens before the [`Driver`] runs.
    pub fn build(self) -> (ClientHandle, Driver) {
        let stats = self.stats;
        let (ads, named) = (self.ads, self.named);
        let find = Arc::new(move |source: &Source| match source {
            Source::Ads => ads.clone(),
            Source::Named(name) => named.as_ref().and_then(|named| named(name)),
            Source::Path(_) => None,
        });
        let configs = find.clone();
        let resolve: Resolve = Arc::new(move |source| configs(source).map(|(config, _)| config));
        let connectors: Connectors = Arc::new(move |source| find(source).map(|(_, connector)| connector));
        let clock = self.clock;
        let measure = Arc::new(move || clock().instant);
        let mut engine = Engine::new(self.interpreter, resolve, measure, self.rng, stats.clone());
        let now = clock();
        for (ty, name) in self.fixed {
            engine.store.fix(ty, name);
        }
        for (owner, references) in self.pins {
            engine.pin(&owner, references, now);
        }
        for root in self.roots {
            engine.add_root(root, now);
        }
        let (commands, queue) = mpsc::channel(16);
        let driver = Driver {
            engine: Some(Box::new(engine)),
            connectors,
            decode: self.decode,
            node: self.node,
            commands: queue,
            open: Vec::new(),
            clock,
        };
        (ClientHandle { commands, stats }, driver)
    }
}

#[allow(clippy::disallowed_methods)]
fn system_clock() -> Now {
    Now {
        instant: tokio::time::Instant::now().into_std(),
        wall: SystemTime::now(),
    }
}
