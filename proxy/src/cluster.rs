//! Clusters and their hosts: who may get a request now, and why.
//!
//! In: compiled cluster configuration, endpoint assignments, DNS answers, results of health checks and of requests. Out: a
//! host for a request ([`Cluster::pick`]), wait-free. Host state outlives configuration: it hangs off (cluster name, address).

pub mod breaker;
pub mod discovery;
pub mod health_check;
pub mod host;
pub mod lb;
pub mod outlier;
pub mod priority;
pub mod stats;

use std::sync::Arc;
use std::time::Duration;

pub use host::{Host, HostState};
pub use stats::ClusterStats;

use crate::tls::UpstreamTransport;

/// A cluster in use. Its configuration never changes (a changed one is another `Cluster`), its hosts do.
pub struct Cluster {
    pub name: Arc<str>,
    /// Unique per configuration: part of the pool key. Two clusters with equal ids share connections.
    pub id: u64,
    pub stats: Arc<ClusterStats>,
    pub connect_timeout: Duration,
    /// Source address and socket options of its connections.
    pub socket: crate::tcp::connect::SocketOptions,
    pub http: HttpOptions,
    pub breakers: breaker::Breakers,
    pub transport: UpstreamTransport,
    pub hosts: arc_swap::ArcSwap<priority::PrioritySet>,
    pub policy: lb::Policy,
    pub outlier: Option<outlier::Detector>,
    /// `cluster.metadata`, for access logs and subset matching.
    pub metadata: Option<Arc<remora_proto::pb::envoy::config::core::v3::Metadata>>,
}

/// `HttpProtocolOptions` of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpOptions {
    pub protocol: UpstreamProtocol,
    pub idle_timeout: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub max_connection_duration: Option<Duration>,
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
    pub keepalive_interval: Option<Duration>,
    pub keepalive_timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    Http2,
    /// `auto_config`: whatever ALPN says, HTTP/1 without TLS.
    Auto,
    /// `use_downstream_protocol_config`
    Downstream,
}

/// What a load balancer may look at for one request.
#[derive(Default)]
pub struct PickContext<'a> {
    /// From the route's hash policies.
    pub hash: Option<u64>,
    /// Hosts that earlier attempts used (`previous_hosts` predicate).
    pub avoid: &'a [Arc<Host>],
    pub metadata_match: Option<&'a remora_proto::pb::envoy::config::core::v3::Metadata>,
    /// Downstream's original destination, for ORIGINAL_DST clusters.
    pub original_destination: Option<std::net::SocketAddr>,
}

/// Why no host was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// No host that may be used (`no_healthy_upstream`, response flag `UH`).
    NoHealthyHost,
}

impl Cluster {
    /// A host for one request.
    pub fn pick(&self, _context: &PickContext<'_>) -> Result<Arc<Host>, PickError> {
        Err(PickError::NoHealthyHost)
    }
}
