//! The spine's own service trait: as `tower::Service`, without `&mut self` and without readiness, because admission happens in the call.
//!
//! Layers are `tower::Layer`s over it, composed by `tower::ServiceBuilder` with static types.

use std::future::Future;

use super::body::Body;
use super::exchange::Exchange;

pub type Response = http::Response<Body>;

/// One stage of the pipeline. It may look at and change the exchange before and after the stages inside it.
pub trait Service: Send + Sync + 'static {
    /// Answers the request in `exchange`. Never fails: a failure is a response by the time it leaves the respond layer.
    /// Dropping the future cancels the request.
    fn call(&self, exchange: &mut Exchange) -> impl Future<Output = Response> + Send;

    /// Called by the codec once per stream, after its last byte or its reset: where the access log and the stats of the request are written.
    fn finish(&self, exchange: &mut Exchange) {
        let _ = exchange;
    }
}
