//! HTTP filters: the trait, what a phase may answer, the registry.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use parking_lot::Mutex;

pub mod alpn;
pub mod compressor;
pub mod cors;
pub mod ext_authz;
pub mod fault;
pub mod grpc_call;
pub mod grpc_stats;
pub mod istio_stats;
pub mod jwt_authn;
pub mod local_ratelimit;
pub mod peer_metadata;
pub mod per_route;
pub mod rbac;
pub mod set_filter_state;

use crate::config::{BuildContext, Compiled, fields};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::filters::TowerStage;

/// What a phase says.
pub enum Flow {
    Continue,
    /// Answer here: filters and router behind are not called.
    Respond(Box<http::Response<Body>>),
    /// Wait, then as the future says. Only a filter that waits pays for waiting.
    Wait(Pin<Box<dyn Future<Output = Flow> + Send>>),
    /// Go on with the exchange in hand: what a wait leads to, where its outcome changes the request. In header phases only; in a body phase,
    /// which has no exchange, it ends the stream.
    Then(Box<dyn FnOnce(&mut Exchange) -> Flow + Send>),
}

/// Which phases beyond headers a filter wants; bodies are not touched for those that do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    pub request_body: bool,
    pub response_body: bool,
}

/// An HTTP filter, compiled once per filter chain and shared by its requests. State of one request lives in [`Exchange::extensions`];
/// body and trailer phases, which run while the codecs own the stream, see the extensions as they were when the head went by.
///
/// Request phases run in the order of the list, response phases and `log` in reverse.
pub trait Filter: Send + Sync + 'static {
    /// What it is called where no configuration names it.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }

    fn phases(&self) -> Phases {
        Phases::default()
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        let _ = exchange;
        Flow::Continue
    }

    /// One chunk of the request body, which the filter may change; `end` with the last one.
    fn request_body(&self, state: &Extensions, chunk: &mut Bytes, end: bool) -> Flow {
        let _ = (state, chunk, end);
        Flow::Continue
    }

    fn request_trailers(&self, state: &Extensions, trailers: &mut http::HeaderMap) -> Flow {
        let _ = (state, trailers);
        Flow::Continue
    }

    fn response_headers(&self, exchange: &mut Exchange, response: &mut http::Response<Body>) -> Flow {
        let _ = (exchange, response);
        Flow::Continue
    }

    /// Whether the filter will change this response's body, told after its header phases by one that asked for body phases: where none will, the
    /// body keeps its length and is not touched.
    fn changes_response(&self, state: &Extensions) -> bool {
        let _ = state;
        true
    }

    /// One chunk of the response body, which the filter may change.
    fn response_body(&self, state: &Extensions, chunk: &mut Bytes, end: bool) -> Flow {
        let _ = (state, chunk, end);
        Flow::Continue
    }

    fn response_trailers(&self, state: &Extensions, trailers: &mut http::HeaderMap) -> Flow {
        let _ = (state, trailers);
        Flow::Continue
    }

    /// After the last byte (or the reset), once per request.
    fn log(&self, exchange: &mut Exchange) {
        let _ = exchange;
    }
}

/// One entry of a chain's list.
pub enum Stage {
    Filter(Arc<dyn Filter>),
    /// Any `tower::Layer`.
    Tower(TowerStage),
}

/// A chain's HTTP filters in their order, without the router at the end.
#[derive(Default)]
pub struct FilterList {
    stages: Vec<Stage>,
    /// The configured name of each.
    names: Vec<Box<str>>,
    /// A bit for each that is off unless a route switches it on.
    off: u64,
    phases: Phases,
}

impl FilterList {
    pub fn new(stages: Vec<Stage>) -> Self {
        let wants = |phase: fn(Phases) -> bool| {
            stages
                .iter()
                .any(|stage| matches!(stage, Stage::Filter(filter) if phase(filter.phases())))
        };
        let phases = Phases {
            request_body: wants(|phases| phases.request_body),
            response_body: wants(|phases| phases.response_body),
        };
        let names = stages.iter().map(|stage| match stage {
            Stage::Filter(filter) => filter.name().into(),
            Stage::Tower(_) => "".into(),
        });
        Self {
            names: names.collect(),
            stages,
            off: 0,
            phases,
        }
    }

    /// A list whose stages have these names, each on or off to begin with. At most [`FilterList::SWITCHES`] can be told apart.
    pub fn named(stages: Vec<(Stage, Box<str>, bool)>) -> Self {
        let mut off = 0;
        let mut names = Vec::with_capacity(stages.len());
        let mut list = Vec::with_capacity(stages.len());
        for (index, (stage, name, disabled)) in stages.into_iter().enumerate() {
            off |= if disabled { Self::bit(index) } else { 0 };
            names.push(name);
            list.push(stage);
        }
        Self {
            names,
            off,
            ..Self::new(list)
        }
    }

    /// How many stages routes can switch.
    pub const SWITCHES: usize = u64::BITS as usize;

    /// The stage's bit in a set of those that are off.
    pub fn bit(index: usize) -> u64 {
        u32::try_from(index)
            .ok()
            .and_then(|index| 1u64.checked_shl(index))
            .unwrap_or(0)
    }

    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    pub fn off(&self) -> u64 {
        self.off
    }

    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// What any of the filters wants.
    pub fn phases(&self) -> Phases {
        self.phases
    }
}

/// Where a filter stands: what it is compiled with beside its own configuration.
pub struct FilterContext<'a> {
    /// The configured name, by which routes override its configuration.
    pub name: &'a str,
    /// `http.<stat_prefix>.` of its connection manager.
    pub stat_prefix: &'a str,
    pub build: &'a BuildContext,
}

/// How an extension is registered: by the type of its configuration.
#[derive(Clone, Copy)]
pub struct Registration {
    /// Full protobuf name, without `type.googleapis.com/`.
    pub type_name: &'static str,
    /// Parses and validates the encoded configuration and compiles the stage.
    pub compile: fn(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage>,
    /// What routes may say of the filter.
    pub per_route: &'static [PerRoute],
}

/// A type of configuration that stands in `typed_per_filter_config`.
#[derive(Clone, Copy)]
pub struct PerRoute {
    /// Full protobuf name, without `type.googleapis.com/`.
    pub type_name: &'static str,
    /// Validates it when its route configuration arrives: what passes here compiles later.
    pub check: fn(config: &[u8]) -> Compiled<()>,
}

/// Ours, by type name.
const BUILT_IN: &[Registration] = &[
    alpn::REGISTRATION,
    compressor::REGISTRATION,
    cors::REGISTRATION,
    ext_authz::REGISTRATION,
    fault::REGISTRATION,
    grpc_stats::REGISTRATION,
    istio_stats::REGISTRATION,
    jwt_authn::REGISTRATION,
    local_ratelimit::REGISTRATION,
    peer_metadata::REGISTRATION,
    rbac::REGISTRATION,
    set_filter_state::REGISTRATION,
];

static REGISTERED: Mutex<Vec<Registration>> = Mutex::new(Vec::new());

/// Adds a user's extension. To be called before configuration is loaded; a later registration of the same type wins over an
/// earlier one, and over ours.
pub fn register(registration: Registration) {
    fields::admit(registration.type_name);
    REGISTERED.lock().push(registration);
}

/// The extension whose configuration has this type.
pub fn find(type_name: &str) -> Option<Registration> {
    let registered = REGISTERED.lock();
    registered
        .iter()
        .rev()
        .chain(BUILT_IN)
        .find(|registration| registration.type_name == type_name)
        .copied()
}

/// The per-route configuration of this type, whichever filter it belongs to.
pub fn find_per_route(type_name: &str) -> Option<PerRoute> {
    let registered = REGISTERED.lock();
    registered
        .iter()
        .rev()
        .chain(BUILT_IN)
        .flat_map(|registration| registration.per_route)
        .find(|per_route| per_route.type_name == type_name)
        .copied()
}

#[cfg(test)]
mod tests;
