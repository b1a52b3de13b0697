//! TCP: connections to hosts, bidirectional copy, and `tcp_proxy`.
//!
//! In: an accepted stream and a compiled [`TcpProxy`], or a picked host. Out: bytes both ways until both sides have ended, or a connected [`Io`](crate::runtime::io::Io)
//! for the HTTP pools.

pub mod connect;
pub mod copy;
pub mod proxy;
pub mod proxy_header;

pub use proxy::TcpProxy;
