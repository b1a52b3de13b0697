//! HTTP filters: the trait, what a phase may answer, the registry.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use parking_lot::Mutex;

use crate::config::Compiled;
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
    /// The configured name, for logs and per-route configuration.
    fn name(&self) -> &str;

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
        Self { stages, phases }
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

/// How an extension is registered: by the type of its configuration.
#[derive(Clone, Copy)]
pub struct Registration {
    /// Full protobuf name, without `type.googleapis.com/`.
    pub type_name: &'static str,
    /// Parses and validates the encoded configuration and compiles the stage. The first argument is the configured name.
    pub compile: fn(name: &str, config: &[u8]) -> Compiled<Stage>,
}

/// Ours, by type name.
const BUILT_IN: &[Registration] = &[];

static REGISTERED: Mutex<Vec<Registration>> = Mutex::new(Vec::new());

/// Adds a user's extension. To be called before configuration is loaded; a later registration of the same type wins over an
/// earlier one, and over ours.
pub fn register(registration: Registration) {
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
