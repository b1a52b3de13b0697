//! What the measurements share: configurations built in memory, and a proxy without sockets around them.

pub mod config;
pub mod in_memory;
