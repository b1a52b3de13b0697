//! Both drivers against the raw `h2` crate, in memory.

mod client;
mod heard;
mod proxied;
mod server;
mod support;
