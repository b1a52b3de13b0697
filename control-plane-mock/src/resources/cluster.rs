//! Clusters.

use std::time::Duration;

use remora_proto::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use remora_proto::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy, LeastRequestLbConfig,
};
use remora_proto::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, OutlierDetection};
use remora_proto::pb::envoy::config::core::v3::Http2ProtocolOptions;
use remora_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use remora_proto::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config,
};

use super::{UpstreamTlsBuilder, builder, duration, endpoints, from_ads, number, pack, tls_socket};

/// Key of the upstream HTTP protocol options among a cluster's extension options.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

builder! {
    /// A cluster; see [`cluster_static`], [`cluster_eds`] and [`cluster_dns`].
    ClusterBuilder => Cluster
}

/// Limits of a circuit breaker (default priority); a field left `None` keeps Envoy's own limit (1024, retries 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections to the cluster.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending_requests: Option<u32>,
    /// Requests in flight.
    pub requests: Option<u32>,
    /// Retries in flight.
    pub retries: Option<u32>,
}

/// A STATIC cluster with these endpoints, round robin, HTTP/1.1, connect timeout 1 s.
pub fn cluster_static<'a>(name: &str, hosts: impl IntoIterator<Item = (&'a str, u16)>) -> ClusterBuilder {
    let assignment = endpoints(name, hosts).build();
    with_type(name, DiscoveryType::Static).edit(|cluster| cluster.load_assignment = Some(assignment))
}

/// A STRICT_DNS cluster.
pub fn cluster_dns<'a>(name: &str, hosts: impl IntoIterator<Item = (&'a str, u16)>) -> ClusterBuilder {
    cluster_static(name, hosts).strict_dns()
}

/// A cluster whose endpoints come from EDS over the aggregated stream.
pub fn cluster_eds(name: &str) -> ClusterBuilder {
    with_type(name, DiscoveryType::Static).eds()
}

impl ClusterBuilder {
    /// Takes its endpoints from EDS over the aggregated stream, and forgets those it had.
    pub fn eds(self) -> Self {
        self.edit(|cluster| {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
            cluster.load_assignment = None;
            cluster.eds_cluster_config = Some(EdsClusterConfig {
                eds_config: Some(from_ads()),
                ..EdsClusterConfig::default()
            });
        })
    }

    /// The EDS resource name, where it is not the cluster's own.
    pub fn eds_service_name(self, service_name: &str) -> Self {
        self.edit(|cluster| {
            service_name.clone_into(&mut cluster.eds_cluster_config.get_or_insert_default().service_name);
        })
    }

    /// Resolves its endpoints by DNS, all addresses.
    pub fn strict_dns(self) -> Self {
        self.edit(|cluster| {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into()));
        })
    }

    /// Load balancing policy.
    pub fn lb(self, policy: LbPolicy) -> Self {
        self.edit(|cluster| cluster.lb_policy = policy.into())
    }

    /// Round robin (what it is when nothing is said).
    pub fn round_robin(self) -> Self {
        self.lb(LbPolicy::RoundRobin)
    }

    /// Least request, with Envoy's two choices.
    pub fn least_request(self) -> Self {
        self.lb(LbPolicy::LeastRequest).edit(|cluster| {
            let config = LeastRequestLbConfig {
                choice_count: number(2),
                ..LeastRequestLbConfig::default()
            };
            cluster.lb_config = Some(LbConfig::LeastRequestLbConfig(config));
        })
    }

    /// Speaks HTTP/2 to its endpoints.
    pub fn http2(self) -> Self {
        let explicit = ExplicitHttpConfig {
            protocol_config: Some(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                Http2ProtocolOptions::default(),
            )),
        };
        self.http_options(HttpProtocolOptions {
            upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
            ..HttpProtocolOptions::default()
        })
    }

    /// Upstream HTTP protocol options as a whole.
    pub fn http_options(self, options: HttpProtocolOptions) -> Self {
        self.edit(|cluster| {
            cluster
                .typed_extension_protocol_options
                .insert(HTTP_OPTIONS.to_owned(), pack(&options));
        })
    }

    /// Ejects a host after so many 5xx in a row, for this long at first; looked at every `interval`.
    pub fn outlier(self, consecutive_5xx: u32, base_ejection: Duration, interval: Duration) -> Self {
        self.edit(|cluster| {
            cluster.outlier_detection = Some(OutlierDetection {
                consecutive_5xx: number(consecutive_5xx),
                base_ejection_time: duration(base_ejection),
                interval: duration(interval),
                max_ejection_percent: number(100),
                ..OutlierDetection::default()
            });
        })
    }

    /// Circuit breaker of the default priority.
    pub fn circuit_breakers(self, limits: Limits) -> Self {
        let thresholds = Thresholds {
            max_connections: limits.connections.and_then(number),
            max_pending_requests: limits.pending_requests.and_then(number),
            max_requests: limits.requests.and_then(number),
            max_retries: limits.retries.and_then(number),
            ..Thresholds::default()
        };
        self.edit(|cluster| {
            cluster.circuit_breakers = Some(CircuitBreakers {
                thresholds: vec![thresholds],
                ..CircuitBreakers::default()
            });
        })
    }

    /// Time for a connection to be set up.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.edit(|cluster| cluster.connect_timeout = duration(timeout))
    }

    /// Speaks TLS to its endpoints.
    pub fn tls(self, context: UpstreamTlsBuilder) -> Self {
        self.edit(|cluster| cluster.transport_socket = Some(tls_socket(pack(&context.build()))))
    }
}

impl From<ClusterBuilder> for Cluster {
    fn from(builder: ClusterBuilder) -> Self {
        builder.message
    }
}

fn with_type(name: &str, discovery: DiscoveryType) -> ClusterBuilder {
    ClusterBuilder {
        message: Cluster {
            name: name.to_owned(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
            connect_timeout: duration(Duration::from_secs(1)),
            ..Cluster::default()
        },
    }
}
