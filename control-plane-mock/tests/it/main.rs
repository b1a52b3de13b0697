//! The control plane as a client sees it, through tonic's own gRPC client.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test is its own runtime and has no injected clock"
)]

mod binary;
mod client;
mod delta;
mod directory;
mod pki;
mod scenario;
mod script;
mod sotw;
