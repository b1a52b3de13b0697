//! The harness of the rungs that need more than one crate.
//!
//! In: a bootstrap as text, bytes for clients to send, and instructions to the backends inside those bytes. Out: [`Answer`]s that tests
//! assert on or compare. Everything binds 127.0.0.1 with a free port and ends when its owner is dropped.
//!
//! [`backend`] answers as the request tells it to, [`Http1`] and [`Http2`] are clients that hide nothing, [`Sidecar`] is a proxy in this
//! process, [`External`] one in a process of its own (the real Envoy). [`frames`] writes HTTP/2 as no client would.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a harness fails loudly, with the place"
)]

pub mod answer;
mod authz;
pub mod backend;
mod external;
pub mod frames;
pub mod http1;
mod http2;
mod load;
mod mesh;
mod program;
mod sidecar;
pub mod sources;
mod static_http;
mod wait;

pub use answer::{Answer, Ending};
pub use authz::AuthzService;
pub use backend::Backend;
pub use external::External;
pub use http1::Http1;
pub use http2::{Http2, Http2Stream};
pub use load::Load;
pub use mesh::Mesh;
pub use program::Program;
pub use sidecar::{Sidecar, admin as ask_admin};
pub use static_http::static_http;
pub use wait::{PATIENCE, until, within};
