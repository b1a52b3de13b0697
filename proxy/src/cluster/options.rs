//! How a cluster speaks to its hosts: protocol options and socket options, compiled.

use std::net::SocketAddr;
use std::time::Duration;

use super::outlier::ErrorMatcher;
use crate::http::codec::h1::{H1Options, HeaderCase};
use crate::http::codec::h2::{FloodLimits, H2Options, KeepaliveOptions};
use crate::listener::SocketOption;

/// `HttpProtocolOptions` of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpOptions {
    pub protocol: UpstreamProtocol,
    /// Whether some connection may speak HTTP/2.
    pub has_http2: bool,
    /// Envoy's default: 1 h.
    pub idle_timeout: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub max_connection_duration: Option<Duration>,
    /// `max_stream_duration` of requests to this cluster.
    pub max_stream_duration: Option<Duration>,
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
    pub header_table_size: u32,
    pub allow_connect: bool,
    pub keepalive_interval: Option<Duration>,
    pub keepalive_timeout: Option<Duration>,
    /// Frames of an upstream that are too many.
    pub floods: FloodLimits,
    /// `max_response_headers_kb`, in bytes; `None`: what each protocol has of its own.
    pub max_response_headers_bytes: Option<u32>,
    pub max_headers_count: u32,
    pub accept_http_10: bool,
    pub enable_trailers: bool,
    /// `header_key_format`
    pub header_case: HeaderCase,
    /// `per_connection_buffer_limit_bytes`; Envoy's default: 1 MiB.
    pub buffer_limit: u32,
    /// `auto_sni`: the SNI is the request's authority.
    pub auto_sni: bool,
    /// `auto_san_validation`: the peer's certificate must name that authority.
    pub auto_san_validation: bool,
    /// The header that `auto_sni` reads instead of the authority.
    pub override_auto_sni_header: Option<http::HeaderName>,
    /// `outlier_detection.error_matcher`
    pub error_matcher: Option<ErrorMatcher>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    Http2,
    /// `auto_config`: whatever ALPN says.
    Auto,
    /// `use_downstream_protocol_config`
    Downstream,
}

impl Default for HttpOptions {
    fn default() -> Self {
        let h2 = H2Options::default();
        Self {
            protocol: UpstreamProtocol::Http1,
            has_http2: false,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_requests_per_connection: None,
            max_connection_duration: None,
            max_stream_duration: None,
            max_concurrent_streams: h2.max_concurrent_streams,
            initial_stream_window: h2.initial_stream_window,
            initial_connection_window: h2.initial_connection_window,
            header_table_size: h2.header_table_size,
            allow_connect: false,
            keepalive_interval: None,
            keepalive_timeout: None,
            floods: h2.floods,
            max_response_headers_bytes: None,
            max_headers_count: 100,
            accept_http_10: false,
            enable_trailers: false,
            header_case: HeaderCase::Lower,
            buffer_limit: 1 << 20,
            auto_sni: false,
            auto_san_validation: false,
            override_auto_sni_header: None,
            error_matcher: None,
        }
    }
}

/// Of HTTP/1: Envoy's is more than that for requests.
const MAX_RESPONSE_HEAD: u32 = 80 << 10;

impl HttpOptions {
    /// For a connection that speaks HTTP/1.
    pub fn h1_options(&self) -> H1Options {
        H1Options {
            max_head_bytes: self.max_response_headers_bytes.unwrap_or(MAX_RESPONSE_HEAD) as usize,
            max_headers: self.max_headers_count as usize,
            accept_http_10: self.accept_http_10,
            buffer_limit: self.buffer_limit as usize,
            enable_trailers: self.enable_trailers,
            header_case: self.header_case,
            // The pool counts; names that upstreams send are none of a client's.
            ..H1Options::default()
        }
    }

    /// For a connection that speaks HTTP/2.
    pub fn h2_options(&self) -> H2Options {
        let h2 = H2Options::default();
        H2Options {
            max_concurrent_streams: self.max_concurrent_streams,
            initial_stream_window: self.initial_stream_window,
            initial_connection_window: self.initial_connection_window,
            header_table_size: self.header_table_size,
            max_header_list_size: self.max_response_headers_bytes.unwrap_or(h2.max_header_list_size),
            max_headers_count: self.max_headers_count as usize,
            allow_connect: self.allow_connect,
            idle_timeout: self.idle_timeout,
            keepalive: self.keepalive_interval.map(|interval| KeepaliveOptions {
                interval,
                timeout: self.keepalive_timeout.unwrap_or(interval),
            }),
            max_requests_per_connection: self.max_requests_per_connection,
            max_connection_duration: self.max_connection_duration,
            floods: self.floods,
            ..h2
        }
    }
}

/// `upstream_bind_config` and `upstream_connection_options`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SocketOptions {
    /// Addresses to connect from; the first of the destination's family is used, else the first.
    pub bind: Vec<Source>,
    /// `socket_options`, of sockets whose source has none of its own.
    pub options: Vec<SocketOption>,
    /// `IP_FREEBIND`
    pub freebind: bool,
    pub keepalive: Option<Keepalive>,
    pub eyeballs: Eyeballs,
}

/// `happy_eyeballs_config`: in which turns addresses of one host are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eyeballs {
    /// Whether IPv6 comes first; `None`: what the first address is.
    pub v6_first: Option<bool>,
    /// So many addresses of the first family before one of the other.
    pub count: usize,
}

impl Default for Eyeballs {
    fn default() -> Self {
        Self {
            v6_first: None,
            count: 1,
        }
    }
}

/// An address to connect from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub address: SocketAddr,
    /// In place of the cluster's, for sockets that are bound to it.
    pub options: Option<Vec<SocketOption>>,
}

impl SocketOptions {
    /// The source of connections to `destination`, if any is configured. One of the other family cannot be bound: a connection that may come
    /// from there alone is none, as in Envoy.
    pub fn source_for(&self, destination: SocketAddr) -> Option<&Source> {
        let fits = |source: &&Source| source.address.is_ipv4() == destination.is_ipv4();
        self.bind.iter().find(fits).or(self.bind.first())
    }
}

impl From<SocketAddr> for Source {
    fn from(address: SocketAddr) -> Self {
        Self { address, options: None }
    }
}

/// `TcpKeepalive`; what is unset is the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_responses_may_be_longer_over_http_1() {
        let options = HttpOptions::default();
        assert_eq!(options.h1_options().max_head_bytes, 80 << 10);
        assert_eq!(options.h2_options().max_header_list_size, 60 << 10);
        let own = HttpOptions {
            max_response_headers_bytes: Some(20 << 10),
            ..options
        };
        assert_eq!(own.h1_options().max_head_bytes, 20 << 10);
        assert_eq!(own.h2_options().max_header_list_size, 20 << 10);
    }
}
