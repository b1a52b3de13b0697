//! HTTP between a decrypted byte stream and a leased upstream connection.
//!
//! In: an [`Io`](crate::runtime::io::Io) and a compiled connection manager. Out: each request answered once, recorded once. `pipeline.rs` is the life of a request.

pub mod body;
pub mod codec;
pub mod exchange;
pub mod failure;
pub mod header_policy;
pub mod pipeline;
pub mod service;
pub mod upgrade;
