//! The protocol: sans-IO machine, stream pump, file sources.
//!
//! In: what to subscribe to, bytes of responses, the passing of time. Out: bytes of requests, and each response as a
//! [`Batch`] for the store. Nothing here knows what a resource means.

mod batch;
pub mod connect;
pub mod file;
pub mod message;
pub mod mux;
pub mod pacing;
pub mod request;
mod session;
pub mod stream;
mod ttl;
pub mod wire;

pub use batch::Batch;
pub use connect::{Connect, GrpcConnector, channel};
pub use mux::{Mode, Mux, MuxConfig};
pub use pacing::{Backoff, RateLimit};
