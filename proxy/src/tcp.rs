//! TCP: bidirectional copy and `tcp_proxy`.
/// A compiled `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
pub struct TcpProxy;
