//! An xDS control plane to test against: scriptable, honest about what it saw, and with a small PKI.
//!
//! In: resources (pushed by a test, a scenario file or a watched directory) and a script of things to do late, wrong or not at all.
//! Out: xDS streams in all four variants (state of the world and delta, aggregated and per type), and a transcript of every message.
//!
//! [`ControlPlane`] is the server and its owner, [`Handle`] what tests talk to, [`resources`] builds Envoy's messages, [`pki`] the
//! certificates in them.

pub mod directory;
pub mod grpc;
mod handle;
pub mod pki;
pub mod resources;
pub mod scenario;
pub mod script;
mod server;
pub mod session;
mod shared;
mod snapshot;
pub mod store;
mod stream;
mod task;
pub mod text;
pub mod transcript;
pub mod types;

pub use handle::{Handle, NothingMatched, PATIENCE};
pub use script::{Ending, Fault, Manner, Pace};
pub use server::{Builder, ControlPlane, Listen};
pub use store::{IntoResource, Snapshot, Store};
pub use transcript::{Entry, What};
