//! Clusters and endpoint assignments.

use remora_proto::ledger::{MessageEntry, Verdict::*};

pub(super) const ENTRIES: &[MessageEntry] = &[
    message!("envoy.config.cluster.v3.Cluster":
        name alt_stat_name type cluster_type transport_socket transport_socket_matches eds_cluster_config
        connect_timeout lb_policy load_balancing_policy load_assignment health_checks max_requests_per_connection
        circuit_breakers upstream_http_protocol_options common_http_protocol_options http_protocol_options
        http2_protocol_options typed_extension_protocol_options protocol_selection dns_refresh_rate dns_jitter
        dns_failure_refresh_rate respect_dns_ttl dns_lookup_family outlier_detection cleanup_interval
        upstream_bind_config common_lb_config metadata upstream_connection_options ring_hash_lb_config
        maglev_lb_config original_dst_lb_config least_request_lb_config round_robin_lb_config filters lb_subset_config
        ignore_health_on_host_removal preconnect_policy typed_dns_resolver_config dns_resolution_config
        dns_resolvers use_tcp_for_dns_lookups wait_for_warm_on_init connection_pool_per_downstream_connection
        close_connections_on_host_health_failure;
        track_timeout_budgets = OnlyDefault("timeout budgets are not tracked"),
        lrs_report_endpoint_metrics = Harmless("loads are not reported: lrs_server is refused"),
        transport_socket_matcher = RefusedAlways("match trees are not supported"),
        upstream_config = RefusedAlways("custom upstreams are not supported"),
        lrs_server = Refused("loads are not reported"),
        track_cluster_stats = Refused("these stats are not kept"),
        per_connection_buffer_limit_bytes = Harmless("buffers have a bound of their own: only memory use differs"),
    ),
    message!("envoy.config.core.v3.DnsResolutionConfig": resolvers dns_resolver_options),
    message!("envoy.config.core.v3.DnsResolverOptions": use_tcp_for_dns_lookups no_default_search_domain),
    message!("envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig":
        resolvers use_resolvers_as_fallback dns_resolver_options query_timeout_seconds query_tries rotate_nameservers
        edns0_max_payload_size;
        udp_max_queries = Harmless("each query has a socket of its own"),
        max_udp_channel_duration = Harmless("each query has a socket of its own"),
        reinit_channel_on_timeout = Harmless("each query has a socket of its own"),
    ),
    message!("envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig":
        num_retries;
        num_resolver_threads = Harmless("lookups run on the pool of threads that may block"),
    ),
    message!("envoy.config.cluster.v3.Cluster.PreconnectPolicy": per_upstream_preconnect_ratio predictive_preconnect_ratio),
    message!("envoy.config.cluster.v3.Filter":
        name typed_config;
        config_discovery = RefusedAlways("extensions cannot be discovered"),
    ),
    message!("envoy.config.cluster.v3.Cluster.CustomClusterType": name typed_config),
    message!("envoy.extensions.clusters.dns.v3.DnsCluster":
        dns_refresh_rate dns_failure_refresh_rate respect_dns_ttl dns_jitter dns_lookup_family
        all_addresses_in_single_endpoint dns_min_refresh_rate typed_dns_resolver_config
    ),
    message!("envoy.extensions.clusters.dns.v3.DnsCluster.RefreshRate": base_interval max_interval),
    message!("envoy.config.cluster.v3.Cluster.RefreshRate": base_interval max_interval),
    message!("envoy.config.cluster.v3.Cluster.TransportSocketMatch": name transport_socket; match = Whole),
    message!("envoy.config.cluster.v3.Cluster.EdsClusterConfig": eds_config service_name),
    message!("envoy.config.cluster.v3.Cluster.CommonLbConfig":
        healthy_panic_threshold ignore_new_hosts_until_first_hc consistent_hashing_lb_config zone_aware_lb_config
        locality_weighted_lb_config close_connections_on_host_set_change;
        override_host_status = Harmless("nobody overrides the balancer's choice: stateful sessions are refused"),
        update_merge_window = Harmless("updates are applied as they come, which only is sooner"),
    ),
    message!("envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig":
        use_hostname_for_hashing hash_balance_factor
    ),
    message!("envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig":),
    message!("envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig":
        fail_traffic_on_panic routing_enabled min_cluster_size
    ),
    message!("envoy.config.cluster.v3.Cluster.LbSubsetConfig":
        fallback_policy subset_selectors locality_weight_aware scale_locality_weight panic_mode_any list_as_any
        metadata_fallback_policy;
        default_subset = Whole,
    ),
    message!("envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector":
        keys single_host_per_subset fallback_policy fallback_keys_subset
    ),
    message!("envoy.extensions.load_balancing_policies.subset.v3.Subset":
        fallback_policy subset_selectors allow_redundant_keys locality_weight_aware scale_locality_weight panic_mode_any
        list_as_any metadata_fallback_policy subset_lb_policy;
        default_subset = Whole,
    ),
    message!("envoy.extensions.load_balancing_policies.subset.v3.Subset.LbSubsetSelector":
        keys single_host_per_subset fallback_policy fallback_keys_subset
    ),
    message!("envoy.config.cluster.v3.Cluster.LeastRequestLbConfig": choice_count active_request_bias slow_start_config),
    message!("envoy.config.cluster.v3.Cluster.RoundRobinLbConfig": slow_start_config),
    message!("envoy.config.cluster.v3.Cluster.SlowStartConfig": slow_start_window aggression min_weight_percent),
    message!("envoy.config.cluster.v3.Cluster.RingHashLbConfig":
        minimum_ring_size maximum_ring_size hash_function
    ),
    message!("envoy.config.cluster.v3.Cluster.MaglevLbConfig": table_size),
    message!("envoy.config.cluster.v3.Cluster.OriginalDstLbConfig":
        use_http_header http_header_name upstream_port_override metadata_key
    ),
    message!("envoy.type.metadata.v3.MetadataKey": key path),
    message!("envoy.type.metadata.v3.MetadataKey.PathSegment": key),
    message!("envoy.config.cluster.v3.LoadBalancingPolicy": policies),
    message!("envoy.config.cluster.v3.LoadBalancingPolicy.Policy": typed_extension_config),
    message!("envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin": slow_start_config locality_lb_config),
    message!("envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest":
        choice_count active_request_bias slow_start_config locality_lb_config enable_full_scan selection_method
    ),
    message!("envoy.extensions.load_balancing_policies.random.v3.Random": locality_lb_config),
    message!("envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash":
        minimum_ring_size maximum_ring_size use_hostname_for_hashing hash_balance_factor consistent_hashing_lb_config
        locality_weighted_lb_config hash_function
    ),
    message!("envoy.extensions.load_balancing_policies.maglev.v3.Maglev":
        table_size consistent_hashing_lb_config locality_weighted_lb_config
    ),
    message!("envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality": endpoint_picking_policy),
    message!("envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided":),
    message!("envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig":
        slow_start_window aggression min_weight_percent
    ),
    message!("envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig":
        use_hostname_for_hashing hash_balance_factor
    ),
    message!("envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig":
        zone_aware_lb_config locality_weighted_lb_config
    ),
    message!("envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig":),
    message!("envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig":
        fail_traffic_on_panic routing_enabled min_cluster_size force_locality_direct_routing force_local_zone locality_basis
    ),
    message!("envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig.ForceLocalZone": min_size),
    message!("envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma":
        decay_time default_rtt penalty_value;
        aggregation_interval = Harmless("times are known to all workers at once, not once per interval"),
        max_samples_per_host = Harmless("each answer is counted at once, none is buffered"),
    ),
    message!("envoy.config.cluster.v3.CircuitBreakers": thresholds per_host_thresholds),
    message!("envoy.config.cluster.v3.CircuitBreakers.Thresholds":
        priority max_connections max_pending_requests max_requests max_retries retry_budget track_remaining
        max_connection_pools
    ),
    message!("envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget": budget_percent min_retry_concurrency budget_interval),
    message!("envoy.config.cluster.v3.OutlierDetection":
        consecutive_5xx interval base_ejection_time max_ejection_percent enforcing_consecutive_5xx enforcing_success_rate
        success_rate_minimum_hosts success_rate_request_volume success_rate_stdev_factor consecutive_gateway_failure
        enforcing_consecutive_gateway_failure split_external_local_origin_errors consecutive_local_origin_failure
        enforcing_consecutive_local_origin_failure enforcing_local_origin_success_rate failure_percentage_threshold
        enforcing_failure_percentage enforcing_failure_percentage_local_origin failure_percentage_minimum_hosts
        failure_percentage_request_volume max_ejection_time max_ejection_time_jitter
        successful_active_health_check_uneject_host always_eject_one_host detect_degraded_hosts
    ),
    message!("envoy.config.core.v3.HealthCheck":
        timeout interval initial_jitter interval_jitter interval_jitter_percent unhealthy_threshold healthy_threshold
        alt_port no_traffic_interval no_traffic_healthy_interval unhealthy_interval unhealthy_edge_interval
        healthy_edge_interval http_health_check tcp_health_check grpc_health_check tls_options event_log_path event_logger
        always_log_health_check_failures always_log_health_check_success reuse_connection;
        transport_socket_match_criteria = Whole,
    ),
    message!("envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink": event_log_path),
    message!("envoy.config.core.v3.HealthCheck.HttpHealthCheck":
        host path request_headers_to_add expected_statuses retriable_statuses codec_client_type method send receive
        response_buffer_size request_headers_to_remove service_name_matcher
    ),
    message!("envoy.config.core.v3.HealthCheck.GrpcHealthCheck": service_name authority initial_metadata),
    message!("envoy.config.core.v3.HealthCheck.TlsOptions": alpn_protocols),
    message!("envoy.config.core.v3.HealthCheck.TcpHealthCheck": send receive),
    message!("envoy.config.core.v3.HealthCheck.Payload": text binary),
    message!("envoy.config.core.v3.BindConfig":
        source_address freebind socket_options additional_source_addresses extra_source_addresses
    ),
    message!("envoy.config.core.v3.ExtraSourceAddress": address socket_options),
    message!("envoy.config.cluster.v3.UpstreamConnectionOptions":
        tcp_keepalive happy_eyeballs_config;
        set_local_interface_name_on_upstream_connections = OnlyDefault("interfaces have no names in the stream's state"),
    ),
    message!("envoy.config.cluster.v3.UpstreamConnectionOptions.HappyEyeballsConfig":
        first_address_family_version first_address_family_count
    ),
    message!("envoy.config.endpoint.v3.ClusterLoadAssignment": cluster_name endpoints policy),
    message!("envoy.config.endpoint.v3.ClusterLoadAssignment.Policy":
        overprovisioning_factor weighted_priority_health drop_overloads endpoint_stale_after
    ),
    message!("envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.DropOverload":
        drop_percentage;
        category = Harmless("the name of the share in load reports, which are not made"),
    ),
    message!("envoy.config.endpoint.v3.LocalityLbEndpoints":
        locality metadata lb_endpoints load_balancing_weight priority load_balancer_endpoints;
        proximity = Harmless("Envoy does not read it either"),
        leds_cluster_locality_config = RefusedAlways("endpoints cannot be discovered by locality"),
    ),
    message!("envoy.config.endpoint.v3.LocalityLbEndpoints.LbEndpointList": lb_endpoints),
    message!("envoy.config.endpoint.v3.LbEndpoint": health_status metadata load_balancing_weight endpoint),
    message!("envoy.config.endpoint.v3.Endpoint":
        address health_check_config hostname additional_addresses
    ),
    message!("envoy.config.endpoint.v3.Endpoint.AdditionalAddress": address),
    message!("envoy.config.endpoint.v3.Endpoint.HealthCheckConfig":
        port_value hostname address disable_active_health_check
    ),
];
