//! Listeners, filter chains, listener filters and network filters.

use remora_proto::ledger::{MessageEntry, Verdict::*};

pub(super) const ENTRIES: &[MessageEntry] = &[
    message!("envoy.config.listener.v3.Listener":
        name address additional_addresses stat_prefix filter_chains use_original_dst default_filter_chain
        per_connection_buffer_limit_bytes deprecated_v1 drain_type listener_filters listener_filters_timeout
        continue_on_listener_filters_timeout transparent freebind socket_options traffic_direction enable_reuse_port
        tcp_backlog_size bind_to_port tcp_keepalive access_log connection_balance_config ignore_global_conn_limit metadata;
        max_connections_to_accept_per_socket_event = Harmless("says how many are taken at once, not which"),
        bypass_overload_manager = Harmless("no overload action stops listeners"),
        enable_mptcp = OnlyDefault("multipath TCP is not supported"),
        fcds_config = RefusedAlways("filter chains cannot be discovered one by one"),
        filter_chain_matcher = RefusedAlways("match trees are not supported"),
        internal_listener = Refused("internal listeners are not supported: under a warning nothing reaches it"),
        udp_listener_config = RefusedAlways("only TCP is supported"),
        api_listener = RefusedAlways("there is no API listener"),
    ),
    message!("envoy.config.listener.v3.Listener.DeprecatedV1": bind_to_port),
    message!("envoy.config.listener.v3.Listener.ConnectionBalanceConfig":
        exact_balance;
        extend_balance = Refused("balancers are not extensible"),
        cpu_locality_balance = Refused("only exact_balance is supported"),
    ),
    message!("envoy.config.listener.v3.Listener.ConnectionBalanceConfig.ExactBalance":),
    message!("envoy.config.listener.v3.AdditionalAddress": address socket_options tcp_keepalive),
    message!("envoy.config.core.v3.SocketOptionsOverride": socket_options),
    message!("envoy.config.listener.v3.FilterChain":
        filter_chain_match filters transport_socket transport_socket_connect_timeout name metadata;
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
        close_connection_on_client_hello_parsing_errors max_client_hello_size enable_ja3_fingerprinting
        enable_ja4_fingerprinting;
        initial_read_buffer_size = Harmless("only tunes how a ClientHello is read"),
    ),
    message!("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol":
        rules allow_requests_without_proxy_protocol pass_through_tlvs disallowed_versions stat_prefix tlv_location
    ),
    message!("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.Rule": tlv_type on_tlv_present),
    message!("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.KeyValuePair":
        metadata_namespace key value_string_encoding
    ),
    message!("envoy.config.core.v3.ProxyProtocolPassThroughTLVs": match_type tlv_type),
    message!("envoy.config.core.v3.ProxyProtocolConfig": version pass_through_tlvs added_tlvs),
    message!("envoy.config.core.v3.TlvEntry": type value format_string),
    message!("envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport":
        config transport_socket;
        allow_unspecified_address = OnlyDefault("an address that is none is written as UNKNOWN or LOCAL"),
        tlv_as_pool_key = OnlyDefault("pooled connections carry no TLVs of their clients"),
    ),
    message!("envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit":
        stat_prefix token_bucket runtime_enabled
    ),
    message!("envoy.extensions.filters.listener.original_src.v3.OriginalSrc": bind_port mark),
    message!("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy":
        stat_prefix cluster weighted_clusters metadata_match idle_timeout max_connect_attempts backoff_options
        max_downstream_connection_duration max_downstream_connection_duration_jitter_percentage hash_policy access_log
        access_log_flush_interval flush_access_log_on_connected access_log_options tunneling_config
        upstream_connect_mode max_early_data_bytes proxy_protocol_tlvs proxy_protocol_tlv_merge_policy check_drain_close;
        on_demand = Refused("on-demand discovery is not supported"),
    ),
    message!("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster": clusters),
    message!("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight":
        name weight metadata_match
    ),
    message!("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.TunnelingConfig":
        hostname use_post headers_to_add post_path propagate_response_headers propagate_response_trailers
        request_id_extension request_id_header request_id_metadata_key formatters
    ),
    message!("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.TcpAccessLogOptions":
        access_log_flush_interval flush_access_log_on_connected flush_access_log_on_start
    ),
    message!("envoy.extensions.filters.network.sni_cluster.v3.SniCluster":),
    message!("envoy.extensions.filters.network.set_filter_state.v3.Config":
        on_new_connection on_downstream_tls_handshake;
        on_downstream_data = RefusedAlways("filter state is set when a connection starts"),
    ),
    message!("envoy.type.v3.HashPolicy": source_ip filter_state),
    message!("envoy.type.v3.HashPolicy.SourceIp":),
    message!("envoy.type.v3.HashPolicy.FilterState": key),
    message!("envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit":
        stat_prefix max_connections delay runtime_enabled
    ),
    message!("envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit":
        stat_prefix token_bucket runtime_enabled share_key
    ),
    message!("envoy.type.v3.TokenBucket": max_tokens tokens_per_fill fill_interval),
    message!("envoy.extensions.filters.network.direct_response.v3.Config": response),
    message!("envoy.extensions.filters.network.echo.v3.Echo":),
    message!("envoy.tcp.metadataexchange.config.MetadataExchange":
        protocol additional_labels;
        enable_discovery = Harmless("there is no workload discovery to ask, as where istiod does not serve it"),
    ),
];
