//! HTTP between a decrypted byte stream and a leased upstream connection.
//!
//! In: an [`Io`](crate::runtime::io::Io) and a compiled connection manager. Out: each request answered once, recorded once. `pipeline.rs` is the life of a request.

pub mod access_log;
pub mod body;
pub mod call;
pub mod codec;
pub mod connection_manager;
mod cut;
pub mod exchange;
pub mod failure;
pub mod filters;
pub mod header_policy;
pub mod outcome;
pub mod pipeline;
pub mod respond;
pub mod router;
pub mod select_route;
pub mod service;
pub mod stats;
pub mod upgrade;
