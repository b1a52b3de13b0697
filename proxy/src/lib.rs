//! Remora: a service-mesh sidecar proxy driven by Envoy's own configuration.
//!
//! Two flows, each one way:
//!
//! ```text
//! config:  stream ─▶ xds::client ─▶ xds::store ─▶ snapshot ─▶ ArcSwap ─▶ workers
//! traffic: socket ─▶ listener ─▶ (tls) ─▶ codec ─▶ pipeline ─▶ route ─▶ filters ─▶ cluster/pick ─▶ pool ─▶ (tls) ─▶ host
//! ```
//!
//! Start with `http/pipeline.rs` (the life of a request) and `app.rs` (who is built when).

pub mod admin;
pub mod app;
pub mod bootstrap;
pub mod cli;
pub mod cluster;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod filters;
pub mod http;
pub mod inject;
pub mod listener;
pub mod pool;
pub mod restart;
pub mod route;
pub mod runtime;
pub mod snapshot;
pub mod tcp;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod validate;

/// The allocator of our programs.
pub type Allocator = mimalloc::MiMalloc;

/// Its one instance.
pub const ALLOCATOR: Allocator = mimalloc::MiMalloc;
