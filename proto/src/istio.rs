//! Istio's own messages, which `envoy-types` lacks. Their descriptors, for JSON and the ledger, are in `build/istio.rs`; a test holds
//! the two against each other.

/// `istio.alpn`, the HTTP filter that overrides the upstream ALPN.
pub mod alpn {
    use std::collections::HashMap;

    /// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct FilterConfig {
        #[prost(message, repeated, tag = "1")]
        pub alpn_override: Vec<AlpnOverride>,
    }

    impl prost::Name for FilterConfig {
        const NAME: &'static str = "FilterConfig";
        const PACKAGE: &'static str = "istio.envoy.config.filter.http.alpn.v2alpha1";
    }

    impl FilterConfig {
        /// The ALPN lists by the upstream's protocol; the last one of a protocol counts.
        pub fn by_protocol(&self) -> HashMap<Protocol, &[String]> {
            self.alpn_override
                .iter()
                .map(|one| (one.upstream_protocol(), one.alpn_override.as_slice()))
                .collect()
        }
    }

    /// `FilterConfig.AlpnOverride`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AlpnOverride {
        #[prost(enumeration = "Protocol", tag = "1")]
        pub upstream_protocol: i32,
        #[prost(string, repeated, tag = "2")]
        pub alpn_override: Vec<String>,
    }

    /// `FilterConfig.Protocol`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    pub enum Protocol {
        Http10 = 0,
        Http11 = 1,
        Http2 = 2,
    }
}

/// TCP metadata exchange: a network filter, downstream and upstream.
pub mod metadata_exchange {
    /// `envoy.tcp.metadataexchange.config.MetadataExchange`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetadataExchange {
        #[prost(string, tag = "1")]
        pub protocol: String,
        #[prost(bool, tag = "2")]
        pub enable_discovery: bool,
        #[prost(string, repeated, tag = "3")]
        pub additional_labels: Vec<String>,
    }

    impl prost::Name for MetadataExchange {
        const NAME: &'static str = "MetadataExchange";
        const PACKAGE: &'static str = "envoy.tcp.metadataexchange.config";
    }
}

/// HTTP peer metadata: who is at the other end, learned from headers.
pub mod peer_metadata {
    /// `io.istio.http.peer_metadata.Config`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Config {
        #[prost(message, repeated, tag = "1")]
        pub downstream_discovery: Vec<DiscoveryMethod>,
        #[prost(message, repeated, tag = "2")]
        pub upstream_discovery: Vec<DiscoveryMethod>,
        #[prost(message, repeated, tag = "3")]
        pub downstream_propagation: Vec<PropagationMethod>,
        #[prost(message, repeated, tag = "4")]
        pub upstream_propagation: Vec<PropagationMethod>,
        #[prost(bool, tag = "5")]
        pub shared_with_upstream: bool,
        #[prost(string, repeated, tag = "6")]
        pub additional_labels: Vec<String>,
    }

    impl prost::Name for Config {
        const NAME: &'static str = "Config";
        const PACKAGE: &'static str = "io.istio.http.peer_metadata";
    }

    /// `Config.Baggage`.
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Baggage {}

    /// `Config.WorkloadDiscovery`.
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct WorkloadDiscovery {}

    /// `Config.IstioHeaders`.
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct IstioHeaders {
        #[prost(bool, tag = "1")]
        pub skip_external_clusters: bool,
    }

    /// `Config.DiscoveryMethod`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct DiscoveryMethod {
        #[prost(oneof = "Discovery", tags = "1, 2, 3")]
        pub method_specifier: Option<Discovery>,
    }

    /// How the peer is found.
    #[derive(Clone, Copy, PartialEq, prost::Oneof)]
    pub enum Discovery {
        #[prost(message, tag = "1")]
        Baggage(Baggage),
        #[prost(message, tag = "2")]
        WorkloadDiscovery(WorkloadDiscovery),
        #[prost(message, tag = "3")]
        IstioHeaders(IstioHeaders),
    }

    /// `Config.PropagationMethod`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PropagationMethod {
        #[prost(oneof = "Propagation", tags = "1, 2")]
        pub method_specifier: Option<Propagation>,
    }

    /// How the peer is told.
    #[derive(Clone, Copy, PartialEq, prost::Oneof)]
    pub enum Propagation {
        #[prost(message, tag = "1")]
        IstioHeaders(IstioHeaders),
        #[prost(message, tag = "2")]
        Baggage(Baggage),
    }
}

/// `istio.stats`, the HTTP and network filter that counts Istio's standard metrics.
pub mod stats {
    use std::collections::HashMap;

    use crate::pb::google::protobuf::Duration;

    /// `stats.PluginConfig`. Fields 1 to 5 are of the WebAssembly filter that came before, and do nothing.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PluginConfig {
        #[prost(bool, tag = "1")]
        pub debug: bool,
        #[prost(int32, tag = "2")]
        pub max_peer_cache_size: i32,
        #[prost(string, tag = "3")]
        pub stat_prefix: String,
        #[prost(string, tag = "4")]
        pub field_separator: String,
        #[prost(string, tag = "5")]
        pub value_separator: String,
        #[prost(bool, tag = "6")]
        pub disable_host_header_fallback: bool,
        #[prost(message, optional, tag = "7")]
        pub tcp_reporting_duration: Option<Duration>,
        #[prost(message, repeated, tag = "8")]
        pub metrics: Vec<MetricConfig>,
        #[prost(message, repeated, tag = "9")]
        pub definitions: Vec<MetricDefinition>,
        #[prost(enumeration = "Reporter", tag = "10")]
        pub reporter: i32,
        #[prost(message, optional, tag = "11")]
        pub rotation_interval: Option<Duration>,
        #[prost(message, optional, tag = "12")]
        pub graceful_deletion_interval: Option<Duration>,
    }

    impl prost::Name for PluginConfig {
        const NAME: &'static str = "PluginConfig";
        const PACKAGE: &'static str = "stats";
    }

    /// `stats.MetricConfig`: changes to one metric, or to all of them when it has no name.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricConfig {
        #[prost(map = "string, string", tag = "1")]
        pub dimensions: HashMap<String, String>,
        #[prost(string, tag = "2")]
        pub name: String,
        #[prost(string, repeated, tag = "3")]
        pub tags_to_remove: Vec<String>,
        #[prost(string, tag = "4")]
        pub r#match: String,
        #[prost(bool, tag = "5")]
        pub drop: bool,
    }

    /// `stats.MetricDefinition`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricDefinition {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
        #[prost(enumeration = "MetricType", tag = "3")]
        pub r#type: i32,
    }

    /// `stats.MetricType`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    pub enum MetricType {
        Counter = 0,
        Gauge = 1,
        Histogram = 2,
    }

    /// `stats.Reporter`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    pub enum Reporter {
        Unspecified = 0,
        ServerGateway = 1,
    }
}

#[cfg(test)]
mod tests;
