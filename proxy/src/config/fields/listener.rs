//! Listeners, filter chains, listener filters and network filters.

use remora_proto::ledger::{MessageEntry, Verdict::*};

pub(super) const ENTRIES: &[MessageEntry] = &[
    message!("envoy.config.listener.v3.Listener":
        name address additional_addresses stat_prefix filter_chains use_original_dst default_filter_chain
        per_connection_buffer_limit_bytes deprecated_v1 drain_type listener_filters listener_filters_timeout
        continue_on_listener_filters_timeout transparent freebind socket_options traffic_direction enable_reuse_port
        tcp_backlog_size max_connections_to_accept_per_socket_event bind_to_port tcp_keepalive access_log;
        metadata = Harmless("read by no filter and no access-log operator that is supported"),
        connection_balance_config = Harmless("says which thread serves a connection, not how"),
        ignore_global_conn_limit = Harmless("there is no global connection limit"),
        bypass_overload_manager = Harmless("there is no overload manager"),
        enable_mptcp = OnlyDefault("multipath TCP is not supported"),
        fcds_config = RefusedAlways("filter chains cannot be discovered one by one"),
        filter_chain_matcher = RefusedAlways("match trees are not supported"),
        internal_listener = RefusedAlways("internal listeners are not supported"),
        udp_listener_config = RefusedAlways("only TCP is supported"),
        api_listener = RefusedAlways("there is no API listener"),
    ),
    message!("envoy.config.listener.v3.Listener.DeprecatedV1": bind_to_port),
    message!("envoy.config.listener.v3.AdditionalAddress": address),
    message!("envoy.config.listener.v3.FilterChain":
        filter_chain_match filters transport_socket transport_socket_connect_timeout name;
        metadata = Harmless("read by no filter and no access-log operator that is supported"),
        use_proxy_proto = OnlyDefaultAlways("use the proxy_protocol listener filter"),
    ),
    message!("envoy.config.listener.v3.FilterChainMatch":
        destination_port prefix_ranges direct_source_prefix_ranges source_type source_prefix_ranges source_ports
        server_names transport_protocol application_protocols;
        address_suffix = RefusedAlways("suffixes of addresses are not matched; Envoy ignores them"),
        suffix_len = RefusedAlways("suffixes of addresses are not matched; Envoy ignores them"),
    ),
    message!("envoy.config.listener.v3.Filter":
        name typed_config;
        config_discovery = RefusedAlways("extensions cannot be discovered"),
    ),
    message!("envoy.config.listener.v3.ListenerFilter":
        name filter_disabled typed_config;
        config_discovery = RefusedAlways("extensions cannot be discovered"),
    ),
    message!("envoy.config.listener.v3.ListenerFilterChainMatchPredicate":
        or_match and_match not_match any_match destination_port_range
    ),
    message!("envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet": rules),
    message!("envoy.extensions.filters.listener.original_dst.v3.OriginalDst":),
    message!("envoy.extensions.filters.listener.http_inspector.v3.HttpInspector":),
    message!("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector":
        close_connection_on_client_hello_parsing_errors max_client_hello_size;
        initial_read_buffer_size = Harmless("only tunes how a ClientHello is read"),
        enable_ja3_fingerprinting = OnlyDefault("fingerprints are not taken"),
        enable_ja4_fingerprinting = OnlyDefault("fingerprints are not taken"),
    ),
    message!("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol":
        allow_requests_without_proxy_protocol;
        disallowed_versions = RefusedAlways("every version is allowed"),
    ),
    message!("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy":
        stat_prefix cluster weighted_clusters idle_timeout max_connect_attempts max_downstream_connection_duration
        hash_policy access_log;
        metadata_match = RefusedAlways("subsets of a cluster are not supported"),
        tunneling_config = RefusedAlways("tunnelling is not supported"),
        on_demand = Refused("on-demand discovery is not supported"),
    ),
    message!("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster": clusters),
    message!("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight":
        name weight;
        metadata_match = RefusedAlways("subsets of a cluster are not supported"),
    ),
    message!("envoy.type.v3.HashPolicy": source_ip),
    message!("envoy.type.v3.HashPolicy.SourceIp":),
    message!("envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit":
        stat_prefix max_connections delay runtime_enabled
    ),
    message!("envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit":
        stat_prefix token_bucket runtime_enabled;
        share_key = RefusedAlways("buckets are not shared"),
    ),
    message!("envoy.type.v3.TokenBucket": max_tokens tokens_per_fill fill_interval),
    message!("envoy.extensions.filters.network.direct_response.v3.Config": response),
    message!("envoy.extensions.filters.network.echo.v3.Echo":),
    message!("envoy.tcp.metadataexchange.config.MetadataExchange":
        protocol additional_labels;
        enable_discovery = Harmless("there is no workload discovery to ask, as where istiod does not serve it"),
    ),
];
