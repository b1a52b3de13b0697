//! The spine's own service traits: as `tower::Service`, without `&mut self` and without readiness, because admission happens in the call.
//!
//! Layers are `tower::Layer`s over them, composed by `tower::ServiceBuilder` with static types.

use std::future::Future;

use super::body::Body;
use super::exchange::{Exchange, Protocol};
use super::failure::Failure;

pub type Response = http::Response<Body>;

/// See [`Service::event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// The peer broke the protocol of its connection.
    ProtocolError,
    /// An interim response went to the client.
    Interim,
    /// Nothing came over it for too long.
    IdleTimeout,
    /// Headers of a request were dropped for their underscores: how many.
    HeadersDropped(Protocol, u64),
    /// A request was refused for a header with an underscore.
    UnderscoreRejected(Protocol),
    /// The peer reset an HTTP/2 stream.
    StreamReset,
    /// An HTTP/2 header block was over the limits.
    HeaderOverflow,
    /// The peer did not answer a ping.
    KeepaliveTimeout,
    /// An HTTP/2 peer is told to go away.
    GoawaySent,
    /// An HTTP/2 peer has reset streams faster than it may.
    ResetFlood,
    /// The connection has become as old as it may (`max_connection_duration`).
    MaxDuration,
    /// The peer did not close in time after we had (`delayed_close_timeout`).
    DelayedClose,
    /// It is told to leave because its listener drains.
    DrainClose,
}

/// A stage that always answers: what codecs call.
pub trait Service: Send + Sync + 'static {
    /// Answers the request in `exchange`. Dropping the future cancels the request.
    fn call(&self, exchange: &mut Exchange) -> impl Future<Output = Response> + Send;

    /// Whether interim responses of the upstream go on to the client (`proxy_100_continue`); else an expectation is answered here.
    fn proxies_interim(&self) -> bool {
        false
    }

    /// Something happened on a connection that no exchange tells of.
    fn event(&self, event: ConnectionEvent) {
        let _ = event;
    }

    /// The head of a response went out that makes the stream a tunnel.
    fn established(&self, exchange: &mut Exchange) {
        let _ = exchange;
    }

    /// After the last byte of the response, or after the stream was cut; exactly once per exchange.
    fn finish(&self, exchange: &mut Exchange) {
        let _ = exchange;
    }
}

/// A stage inside the respond layer: it may fail, and the failure table says how that is answered.
pub trait TryService: Send + Sync + 'static {
    /// Answers the request in `exchange`, or says why not. Dropping the future cancels the request.
    fn try_call(&self, exchange: &mut Exchange) -> impl Future<Output = Result<Response, Failure>> + Send;

    /// See [`Service::finish`].
    fn finish(&self, exchange: &mut Exchange) {
        let _ = exchange;
    }
}
