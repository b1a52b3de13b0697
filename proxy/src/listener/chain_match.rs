//! Filter-chain match: the table, and the walk over it in Envoy's exact order, without backtracking.

use std::sync::Arc;

use crate::runtime::drain::Drain;

/// A compiled filter chain. Its identity is the hash of its bytes: an update that keeps the hash keeps the chain and its connections.
pub struct FilterChain {
    pub name: Arc<str>,
    pub hash: u64,
    pub tls: Option<Arc<crate::tls::DownstreamTls>>,
    /// `transport_socket_connect_timeout`; `None`: no limit.
    pub handshake_timeout: Option<std::time::Duration>,
    /// Network filters before the terminal one.
    pub filters: Vec<Arc<dyn crate::filters::network::NetworkFilter>>,
    pub terminal: Terminal,
    /// Advanced when the chain vanishes from its listener (D12) or the listener drains.
    pub drain: Drain,
}

/// What ends a chain.
pub enum Terminal {
    Http(Arc<crate::http::pipeline::ConnectionManager>),
    Tcp(Arc<crate::tcp::TcpProxy>),
    /// `envoy.filters.network.echo`
    Echo,
    /// `envoy.filters.network.direct_response`
    DirectResponse(bytes::Bytes),
    /// No filter at all: Envoy closes the connection.
    Close,
}

/// The filter chains of a listener, indexed for the match.
#[derive(Default)]
pub struct ChainTable;
