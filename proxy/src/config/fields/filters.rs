//! Filters: HTTP ones, what routes say of them, and the access control that connections share with them.

use remora_proto::ledger::{MessageEntry, Verdict::*};

const NO_CEL: &str = "CEL expressions are not evaluated";
const NO_DESCRIPTORS: &str = "requests have no descriptors: there is one bucket";
const OLD_COMPRESSOR: &str = "deprecated: say it in response_direction_config";
const SIZE_ONLY: &str = "tunes size and memory of what is compressed, not what it says";
const LEGACY: &str = "of a WebAssembly filter that came before; Istio's own proxy ignores it too";

pub(super) const ENTRIES: &[MessageEntry] = &[
    message!("envoy.extensions.filters.http.compressor.v3.Compressor":
        compressor_library response_direction_config;
        content_length = Refused(OLD_COMPRESSOR),
        content_type = Refused(OLD_COMPRESSOR),
        disable_on_etag_header = Refused(OLD_COMPRESSOR),
        remove_accept_encoding_header = Refused(OLD_COMPRESSOR),
        runtime_enabled = Refused(OLD_COMPRESSOR),
        request_direction_config = Refused("requests are not compressed"),
        choose_first = OnlyDefault("the client's order decides among equal weights"),
    ),
    message!("envoy.extensions.filters.http.compressor.v3.Compressor.ResponseDirectionConfig":
        common_config disable_on_etag_header uncompressible_response_codes;
        remove_accept_encoding_header = OnlyDefault("the application sees what the client accepts"),
    ),
    message!("envoy.extensions.filters.http.compressor.v3.Compressor.CommonDirectionConfig":
        min_content_length content_type;
        enabled = Refused("a compressor cannot be switched while it runs"),
    ),
    message!("envoy.extensions.compression.gzip.compressor.v3.Gzip":
        compression_level;
        memory_level = Harmless(SIZE_ONLY),
        compression_strategy = Harmless(SIZE_ONLY),
        window_bits = Harmless(SIZE_ONLY),
        chunk_size = Harmless(SIZE_ONLY),
    ),
    message!("envoy.extensions.compression.brotli.compressor.v3.Brotli":
        quality window_bits;
        encoder_mode = Harmless(SIZE_ONLY),
        input_block_bits = Harmless(SIZE_ONLY),
        chunk_size = Harmless(SIZE_ONLY),
        disable_literal_context_modeling = Harmless(SIZE_ONLY),
    ),
    message!("envoy.extensions.compression.zstd.compressor.v3.Zstd":
        compression_level;
        strategy = Harmless(SIZE_ONLY),
        chunk_size = Harmless(SIZE_ONLY),
        enable_checksum = OnlyDefault("frames have no checksum"),
        dictionary = Refused("there are no dictionaries"),
    ),
    message!("envoy.extensions.filters.http.rbac.v3.RBAC":
        rules rules_stat_prefix matcher shadow_rules shadow_rules_stat_prefix shadow_matcher;
        track_per_rule_stats = OnlyDefault("policies have no stats of their own"),
    ),
    message!("envoy.extensions.filters.http.rbac.v3.RBACPerRoute": rbac),
    message!("envoy.extensions.filters.network.rbac.v3.RBAC":
        rules matcher shadow_rules shadow_rules_stat_prefix shadow_matcher stat_prefix delay_deny enforcement_type
    ),
    message!("envoy.extensions.filters.network.ext_authz.v3.ExtAuthz":
        stat_prefix grpc_service failure_mode_allow include_peer_certificate filter_enabled_metadata bootstrap_metadata_labels_key
        include_tls_session metadata_context_namespaces;
        transport_api_version = Harmless("V3 is the only version that is left"),
        send_tls_alert_on_denial = Refused("a connection ends without an alert"),
        typed_metadata_context_namespaces = RefusedAlways("there is no typed dynamic metadata"),
        shadow_mode = RefusedAlways("a decision is always enforced"),
    ),
    message!("envoy.config.rbac.v3.RBAC": action policies audit_logging_options),
    message!("envoy.config.rbac.v3.Action": name action),
    message!("xds.type.matcher.v3.Matcher": matcher_list matcher_tree on_no_match),
    message!("xds.type.matcher.v3.Matcher.OnMatch":
        matcher action;
        keep_matching = OnlyDefaultAlways("the first match decides"),
    ),
    message!("xds.type.matcher.v3.Matcher.MatcherList": matchers),
    message!("xds.type.matcher.v3.Matcher.MatcherList.FieldMatcher": predicate on_match),
    message!("xds.type.matcher.v3.Matcher.MatcherList.Predicate": single_predicate or_matcher and_matcher not_matcher),
    message!("xds.type.matcher.v3.Matcher.MatcherList.Predicate.SinglePredicate": input value_match custom_match),
    message!("xds.type.matcher.v3.Matcher.MatcherList.Predicate.PredicateList": predicate),
    message!("xds.type.matcher.v3.Matcher.MatcherTree":
        input exact_match_map prefix_match_map;
        custom_match = RefusedAlways("trees are maps of exact values or of prefixes"),
    ),
    message!("xds.type.matcher.v3.Matcher.MatcherTree.MatchMap": map),
    message!("xds.type.matcher.v3.StringMatcher":
        exact prefix suffix safe_regex contains ignore_case;
        custom = RefusedAlways("custom string matchers are not supported"),
    ),
    message!("xds.type.matcher.v3.RegexMatcher": regex google_re2),
    message!("xds.type.matcher.v3.RegexMatcher.GoogleRE2":),
    message!("xds.core.v3.TypedExtensionConfig": name typed_config),
    message!("envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput":),
    message!("envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput":),
    message!("envoy.extensions.matching.common_inputs.network.v3.SourceIPInput":),
    message!("envoy.extensions.matching.common_inputs.network.v3.SourcePortInput":),
    message!("envoy.extensions.matching.common_inputs.network.v3.DirectSourceIPInput":),
    message!("envoy.extensions.matching.common_inputs.network.v3.ServerNameInput":),
    message!("envoy.extensions.matching.common_inputs.network.v3.FilterStateInput":
        key;
        field = RefusedAlways("only state that is text is matched"),
    ),
    message!("envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput":),
    message!("envoy.extensions.matching.common_inputs.ssl.v3.DnsSanInput":),
    message!("envoy.extensions.matching.common_inputs.ssl.v3.SubjectInput":),
    message!("envoy.type.matcher.v3.HttpRequestHeaderMatchInput": header_name),
    message!("envoy.extensions.matching.input_matchers.ip.v3.Ip":
        cidr_ranges;
        stat_prefix = Harmless("counts addresses that are none, and only addresses are matched"),
    ),
    message!("envoy.config.rbac.v3.RBAC.AuditLoggingOptions":;
        audit_condition = Harmless("without a logger nothing is written, and loggers are refused"),
        logger_configs = RefusedAlways("audit loggers are not supported"),
    ),
    message!("envoy.config.rbac.v3.Policy":
        permissions principals;
        condition = RefusedAlways(NO_CEL),
        checked_condition = RefusedAlways(NO_CEL),
        cel_config = RefusedAlways(NO_CEL),
    ),
    message!("envoy.config.rbac.v3.Permission":
        and_rules or_rules any header url_path destination_ip destination_port destination_port_range metadata not_rule
        requested_server_name uri_template sourced_metadata;
        matcher = RefusedAlways("matchers that are extensions are not supported"),
    ),
    message!("envoy.config.rbac.v3.Permission.Set": rules),
    message!("envoy.config.rbac.v3.Principal":
        and_ids or_ids any authenticated source_ip direct_remote_ip remote_ip header url_path metadata filter_state not_id
        sourced_metadata;
        custom = RefusedAlways("principals that are extensions are not supported"),
    ),
    message!("envoy.config.rbac.v3.Principal.Set": ids),
    message!("envoy.config.rbac.v3.Principal.Authenticated": principal_name),
    message!("envoy.config.rbac.v3.SourcedMetadata":
        metadata_matcher;
        metadata_source = OnlyDefaultAlways("only dynamic metadata is matched"),
    ),
    message!("envoy.type.matcher.v3.PathMatcher": path),
    message!("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz":
        grpc_service http_service failure_mode_allow failure_mode_allow_header_add with_request_body clear_route_cache status_on_error
        validate_mutations metadata_context_namespaces filter_enabled filter_enabled_metadata deny_at_disable include_peer_certificate
        stat_prefix allowed_headers disallowed_headers include_tls_session charge_cluster_response_stats encode_raw_headers;
        transport_api_version = Harmless("V3 is the only version that is left"),
        typed_metadata_context_namespaces = RefusedAlways("there is no typed dynamic metadata"),
        route_metadata_context_namespaces = RefusedAlways("a route's metadata is not told"),
        route_typed_metadata_context_namespaces = RefusedAlways("a route's metadata is not told"),
        bootstrap_metadata_labels_key = RefusedAlways("labels are not told"),
        decoder_header_mutation_rules = RefusedAlways("what a service changes is not limited"),
        enable_dynamic_metadata_ingestion = RefusedAlways("metadata of answers is always taken"),
        filter_metadata = RefusedAlways("is not supported"),
        emit_filter_state_stats = Refused("no filter state is left"),
        max_denied_response_body_bytes = Refused("is not supported"),
        enforce_response_header_limits = RefusedAlways("is not supported"),
        shadow_mode = RefusedAlways("a decision is always enforced"),
        emit_client_span = Refused("there are no spans"),
    ),
    message!("envoy.config.core.v3.HttpUri": uri cluster timeout),
    message!("envoy.extensions.filters.http.ext_authz.v3.BufferSettings": max_request_bytes allow_partial_message pack_as_bytes),
    message!("envoy.extensions.filters.http.ext_authz.v3.HttpService":
        server_uri path_prefix authorization_request authorization_response;
        retry_policy = Refused("a check is sent once"),
    ),
    message!("envoy.extensions.filters.http.ext_authz.v3.AuthorizationRequest": allowed_headers headers_to_add),
    message!("envoy.extensions.filters.http.ext_authz.v3.AuthorizationResponse":
        allowed_upstream_headers allowed_upstream_headers_to_append allowed_client_headers allowed_client_headers_on_success
        dynamic_metadata_from_headers;
    ),
    message!("envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute": disabled check_settings),
    message!("envoy.extensions.filters.http.ext_authz.v3.CheckSettings":
        context_extensions disable_request_body_buffering with_request_body;
        http_service = RefusedAlways("routes cannot ask another service"),
        grpc_service = RefusedAlways("routes cannot ask another service"),
    ),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication":
        providers rules bypass_cors_preflight requirement_map strip_failure_response stat_prefix;
        filter_state_rules = RefusedAlways("requirements are not chosen by filter state"),
    ),
    message!("envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig": disabled requirement_name),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwtProvider":
        issuer audiences subjects require_expiration max_lifetime local_jwks remote_jwks forward from_headers from_params from_cookies
        forward_payload_header pad_forward_payload_header payload_in_metadata normalize_payload_in_metadata
        header_in_metadata clock_skew_seconds claim_to_headers clear_route_cache;
        failed_status_in_metadata = Refused("a refusal leaves no metadata"),
        jwt_cache_config = Harmless("tokens are verified anew each time"),
    ),
    message!("envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks": http_uri cache_duration async_fetch retry_policy),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwksAsyncFetch":
        failed_refetch_duration;
        fast_listener = Harmless("requests wait for keys, never a listener"),
    ),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.NormalizePayload": space_delimited_claims),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwtCacheConfig":;
        jwt_cache_size = Harmless("tokens are verified anew each time"),
        jwt_max_token_size = Harmless("tokens are verified anew each time"),
    ),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwtHeader": name value_prefix),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader":
        header_name claim_name;
        claim_path = Refused("claims are found by claim_name"),
    ),
    message!("envoy.extensions.filters.http.jwt_authn.v3.RequirementRule": match requires requirement_name),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement":
        provider_name provider_and_audiences requires_any requires_all allow_missing_or_failed allow_missing;
        extract_only_without_validation = RefusedAlways("tokens are never believed unverified"),
    ),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementOrList": requirements),
    message!("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementAndList": requirements),
    message!("envoy.extensions.filters.http.jwt_authn.v3.ProviderWithAudiences": provider_name audiences),
    message!("envoy.extensions.filters.http.cors.v3.Cors":),
    message!("envoy.extensions.filters.http.cors.v3.CorsPolicy":
        allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials filter_enabled
        shadow_enabled allow_private_network_access forward_not_matching_preflights
    ),
    message!("envoy.extensions.filters.http.fault.v3.HTTPFault":
        delay abort upstream_cluster headers downstream_nodes max_active_faults disable_downstream_cluster_stats
        delay_percent_runtime abort_percent_runtime delay_duration_runtime abort_http_status_runtime max_active_faults_runtime
        abort_grpc_status_runtime;
        response_rate_limit = Refused("responses are not slowed down"),
        filter_metadata = Refused("faults leave no metadata"),
        response_rate_limit_percent_runtime = Harmless("responses are not slowed down"),
    ),
    message!("envoy.extensions.filters.http.fault.v3.FaultAbort":
        http_status grpc_status header_abort percentage response_body
    ),
    message!("envoy.extensions.filters.http.fault.v3.FaultAbort.HeaderAbort":),
    message!("envoy.extensions.filters.common.fault.v3.FaultDelay": fixed_delay header_delay percentage),
    message!("envoy.extensions.filters.common.fault.v3.FaultDelay.HeaderDelay":),
    message!("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit":
        stat_prefix status token_bucket filter_enabled filter_enforced request_headers_to_add_when_not_enforced
        response_headers_to_add rate_limited_as_resource_exhausted;
        descriptors = RefusedAlways(NO_DESCRIPTORS),
        rate_limits = RefusedAlways(NO_DESCRIPTORS),
        stage = OnlyDefaultAlways(NO_DESCRIPTORS),
        vh_rate_limits = Harmless(NO_DESCRIPTORS),
        always_consume_default_token_bucket = Harmless(NO_DESCRIPTORS),
        max_dynamic_descriptors = Harmless(NO_DESCRIPTORS),
        local_rate_limit_per_downstream_connection = OnlyDefaultAlways("a bucket is for all connections"),
        local_cluster_rate_limit = RefusedAlways("a bucket is not shared between proxies"),
        enable_x_ratelimit_headers = OnlyDefault("clients are not told what is left"),
    ),
    message!("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig":
        individual_method_stats_allowlist stats_for_all_methods replace_dots_in_grpc_service_name;
        emit_filter_state = Harmless("istio.stats, its reader, counts messages without it"),
        enable_upstream_stats = OnlyDefault("calls are not timed"),
    ),
    message!("envoy.config.core.v3.GrpcMethodList": services),
    message!("envoy.config.core.v3.GrpcMethodList.Service": name method_names),
    message!("envoy.extensions.filters.http.set_filter_state.v3.Config": on_request_headers clear_route_cache),
    message!("envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue":
        object_key factory_key format_string skip_if_empty;
        read_only = OnlyDefaultAlways("every value can be overwritten"),
        shared_with_upstream = OnlyDefault("filter state ends with its stream"),
    ),
    message!("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig": alpn_override),
    message!("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig.AlpnOverride": upstream_protocol alpn_override),
    message!("io.istio.http.peer_metadata.Config":
        downstream_discovery upstream_discovery downstream_propagation upstream_propagation additional_labels;
        shared_with_upstream = OnlyDefault("peers are known to their own stream only"),
    ),
    message!("io.istio.http.peer_metadata.Config.DiscoveryMethod":
        istio_headers;
        workload_discovery = Harmless("finds nobody, as in Istio's proxy where no workloads are served to it"),
        baggage = Refused("baggage is not read"),
    ),
    message!("io.istio.http.peer_metadata.Config.WorkloadDiscovery":),
    message!("io.istio.http.peer_metadata.Config.PropagationMethod":
        istio_headers;
        baggage = Refused("baggage is not written"),
    ),
    message!("io.istio.http.peer_metadata.Config.IstioHeaders": skip_external_clusters),
    message!("stats.PluginConfig":
        disable_host_header_fallback metrics tcp_reporting_duration;
        debug = Harmless(LEGACY),
        max_peer_cache_size = Harmless(LEGACY),
        stat_prefix = Harmless(LEGACY),
        field_separator = Harmless(LEGACY),
        value_separator = Harmless(LEGACY),
        definitions = Refused("there are no metrics but the standard ones"),
        reporter = OnlyDefault("gateways and waypoints are not told apart"),
        rotation_interval = Refused("metrics live as long as the process"),
        graceful_deletion_interval = Refused("metrics live as long as the process"),
    ),
    message!("stats.MetricConfig":
        name dimensions tags_to_remove drop;
        match = Refused(NO_CEL),
    ),
];
