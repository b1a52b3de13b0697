//! HTTP filters: the trait, what a phase may answer, the registry.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::Compiled;
use crate::http::body::Body;
use crate::http::exchange::Exchange;

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

/// An HTTP filter, compiled once per filter chain and shared by its requests. State of one request lives in [`Exchange::extensions`].
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
    fn request_body(&self, exchange: &mut Exchange, chunk: &mut Bytes, end: bool) -> Flow {
        let _ = (exchange, chunk, end);
        Flow::Continue
    }

    fn request_trailers(&self, exchange: &mut Exchange, trailers: &mut http::HeaderMap) -> Flow {
        let _ = (exchange, trailers);
        Flow::Continue
    }

    fn response_headers(&self, exchange: &mut Exchange, response: &mut http::Response<Body>) -> Flow {
        let _ = (exchange, response);
        Flow::Continue
    }

    /// One chunk of the response body, which the filter may change.
    fn response_body(&self, exchange: &mut Exchange, chunk: &mut Bytes, end: bool) -> Flow {
        let _ = (exchange, chunk, end);
        Flow::Continue
    }

    fn response_trailers(&self, exchange: &mut Exchange, trailers: &mut http::HeaderMap) -> Flow {
        let _ = (exchange, trailers);
        Flow::Continue
    }

    /// After the last byte (or the reset), once per request.
    fn log(&self, exchange: &mut Exchange) {
        let _ = exchange;
    }
}

/// How an extension is registered: by the type URL of its configuration.
pub struct Registration {
    /// Full protobuf name, without `type.googleapis.com/`.
    pub type_name: &'static str,
    /// Parses and validates the configuration and compiles the filter.
    pub compile: fn(name: &str, config: &[u8]) -> Compiled<Arc<dyn Filter>>,
}
