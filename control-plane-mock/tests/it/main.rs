//! The control plane as a client sees it, through tonic's own gRPC client.

#![allow(clippy::unwrap_used, clippy::panic)]

mod client;
mod delta;
mod pki;
mod script;
mod sotw;
