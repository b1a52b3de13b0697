//! HTTP/2: the server driver and upstream client connections, over a codec of our own ([`wire`]).
//!
//! In: an [`Io`](crate::runtime::io::Io) on either side. Out: to the pipeline, [`Exchange`](crate::http::exchange::Exchange)s whose bodies are
//! [`RecvBody`]s; to the pools, [`ClientConnection`]s that take requests and yield responses.
//!
//! One task drives a connection, one more each downstream stream. An upstream stream has no task of its own: its request body is pumped by
//! whoever waits for its response; only a body that outlasts the response headers (bidirectional streaming) moves to a task. Data never waits in a
//! queue of ours: a frame is taken from a body when the peer's window has room, and a window is reopened when a frame is handed on.
//!
//! Above this file an upgrade has one form, HTTP/1's (`GET` + `upgrade`, answered by 101): extended CONNECT (RFC 8441) is translated here, both ways.

mod bell;
mod body;
pub mod client;
mod headers;
mod keepalive;
mod options;
mod patience;
mod pump;
mod resets;
pub mod server;
mod stream;
pub mod wire;

#[cfg(test)]
mod tests;

pub use body::RecvBody;
pub use client::{ClientConnection, ClientHooks, Outcome};
pub use options::{FloodLimits, H2Options, KeepaliveOptions};
pub use wire::Protocol;
