//! The bootstrap, and how control planes are spoken to.

use remora_proto::ledger::{Allowed, MessageEntry, Verdict::*};

pub(super) const ENTRIES: &[MessageEntry] = &[
    message!("envoy.config.bootstrap.v3.Bootstrap":
        node static_resources dynamic_resources cluster_manager stats_config layered_runtime admin application_log_config
        bootstrap_extensions overload_manager stats_flush_interval stats_flush_on_admin typed_dns_resolver_config
        dns_resolution_config use_tcp_for_dns_lookups;
        deferred_stat_options = Harmless("stats are made by their first use anyway"),
        watchdog = Harmless("watches Envoy's own threads, and acts only when one of them hangs"),
        watchdogs = Harmless("watches Envoy's own threads, and acts only when one of them hangs"),
        memory_allocator_manager = Harmless("tunes tcmalloc, which is not the allocator here"),
        grpc_async_client_manager_config = Harmless("sizes a cache of Envoy's gRPC clients"),
        inline_headers = Harmless("makes Envoy's lookup of a header faster, nothing else"),
        perf_tracing_file_path = Harmless("only builds of Envoy with performance tracing read it"),
        enable_dispatcher_stats = OnlyDefault("there is no event dispatcher with such stats"),
        enable_worker_cpu_affinity = OnlyDefault("workers are not pinned"),
        hds_config = Refused("no control plane orders health checks (HDS)"),
        config_sources = Refused("xdstp names are not resolved"),
        default_config_source = Refused("xdstp names are not resolved"),
        header_prefix = OnlyValues(&[Allowed::Name("x-envoy")], "headers always start with x-envoy-"),
    ),
    message!("envoy.config.bootstrap.v3.Bootstrap.StaticResources": listeners clusters secrets),
    message!("envoy.config.bootstrap.v3.Bootstrap.DynamicResources":
        lds_config cds_config ads_config;
        lds_resources_locator = Refused("xdstp collections are not supported: use lds_config"),
        cds_resources_locator = Refused("xdstp collections are not supported: use cds_config"),
    ),
    message!("envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig": log_format),
    message!("envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig.LogFormat": json_format text_format),
    message!("envoy.config.bootstrap.v3.ClusterManager": outlier_detection local_cluster_name;
        enable_deferred_cluster_creation = Harmless("clusters are always built by their first request"),
        load_stats_config = Refused("loads are not reported (LRS)"),
    ),
    message!("envoy.config.bootstrap.v3.ClusterManager.OutlierDetection":
        event_log_path;
        event_service = Refused("events go to files only"),
    ),
    message!("envoy.config.bootstrap.v3.Admin":
        access_log access_log_path address allow_paths;
        profile_path = Harmless("the profiler's endpoints answer that there is none, in Envoy's usual build too"),
        ignore_global_conn_limit = Harmless("connections to the admin server never count"),
    ),
    message!("envoy.config.bootstrap.v3.LayeredRuntime": layers),
    message!("envoy.config.bootstrap.v3.RuntimeLayer":
        name admin_layer;
        static_layer = Whole,
        rtds_layer = Refused("runtime values are not discovered (RTDS)"),
        disk_layer = Refused("runtime values are not read from a directory"),
    ),
    message!("envoy.config.bootstrap.v3.RuntimeLayer.AdminLayer":),
    message!("envoy.config.metrics.v3.StatsConfig": stats_tags use_all_default_tags stats_matcher histogram_bucket_settings),
    message!("envoy.config.metrics.v3.HistogramBucketSettings": match buckets;
        bins = Harmless("a histogram grows with the decades of values that it has seen"),
    ),
    message!("envoy.config.metrics.v3.TagSpecifier": tag_name regex fixed_value),
    message!("envoy.config.metrics.v3.StatsMatcher": reject_all exclusion_list inclusion_list),
    message!("envoy.type.matcher.v3.ListStringMatcher": patterns),
    message!("envoy.config.overload.v3.OverloadManager":
        resource_monitors;
        refresh_interval = Harmless("only monitors that are refused are polled"),
    ),
    message!("envoy.config.overload.v3.ResourceMonitor": name typed_config),
    message!("envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig":
        max_active_downstream_connections
    ),
    message!("envoy.extensions.bootstrap.internal_listener.v3.InternalListener":;
        buffer_size_kb = Harmless("sizes internal listeners, each of which is refused itself"),
    ),
    message!("envoy.config.core.v3.Node":
        id cluster locality;
        metadata = Whole,
        dynamic_parameters = Whole,
        extensions = Whole,
        client_features = Whole,
        listening_addresses = Whole,
        user_agent_name = Harmless("the program puts its own there, as Envoy does"),
        user_agent_version = Harmless("the program puts its own there, as Envoy does"),
        user_agent_build_version = Harmless("the program puts its own there, as Envoy does"),
    ),
    message!("envoy.config.core.v3.ConfigSource":
        path path_config_source api_config_source ads self initial_fetch_timeout;
        resource_api_version = OnlyValues(&[Allowed::Name("AUTO"), Allowed::Name("V3")], "only V3 is supported"),
    ),
    message!("envoy.config.core.v3.AggregatedConfigSource":),
    message!("envoy.config.core.v3.SelfConfigSource":;
        transport_api_version = OnlyValues(&[Allowed::Name("AUTO"), Allowed::Name("V3")], "only V3 is supported"),
    ),
    message!("envoy.config.core.v3.PathConfigSource":
        path watched_directory;
        poll_interval = Refused("a file is read when it is moved into place, not from time to time"),
    ),
    message!("envoy.config.core.v3.WatchedDirectory": path),
    message!("envoy.config.core.v3.ApiConfigSource":
        grpc_services rate_limit_settings set_node_on_first_message_only cluster_names;
        api_type = OnlyValues(&[Allowed::Name("GRPC"), Allowed::Name("DELTA_GRPC")], "only GRPC and DELTA_GRPC are supported"),
        transport_api_version = OnlyValues(&[Allowed::Name("AUTO"), Allowed::Name("V3")], "only V3 is supported"),
        config_validators = RefusedAlways("no extension validates whole updates"),
        refresh_delay = Harmless("only REST reads it, which is refused"),
        request_timeout = Harmless("only REST reads it, which is refused"),
    ),
    message!("envoy.config.core.v3.RateLimitSettings": max_tokens fill_rate),
    message!("envoy.config.core.v3.GrpcService":
        envoy_grpc initial_metadata retry_policy timeout),
    message!("envoy.config.core.v3.GrpcService.EnvoyGrpc":
        cluster_name authority retry_policy skip_envoy_headers),
    message!("envoy.config.core.v3.RetryPolicy": retry_back_off num_retries),
    message!("envoy.config.core.v3.BackoffStrategy": base_interval max_interval),
];
