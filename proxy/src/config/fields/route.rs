//! Route configurations: virtual hosts, routes, their matchers and actions.

use remora_proto::ledger::{Allowed, MessageEntry, Verdict::*};

/// Why nothing about tracing has an effect.
const UNTRACED: &str = "without a provider nothing is traced, and providers are refused";
/// Why descriptors have no effect.
const UNLIMITED: &str = "only the rate limit filter reads it, which is refused";

pub(super) const ENTRIES: &[MessageEntry] = &[
    message!("envoy.config.route.v3.RouteConfiguration":
        name virtual_hosts response_headers_to_add response_headers_to_remove request_headers_to_add
        request_headers_to_remove most_specific_header_mutations_wins max_direct_response_body_size_bytes
        ignore_port_in_host_matching request_mirror_policies internal_only_headers vhost_header ignore_path_parameters_in_path_matching typed_per_filter_config
        metadata validate_clusters;
        vhds = RefusedAlways("virtual hosts cannot be discovered one by one"),
        route_specifiers = RefusedAlways("route specifiers are not supported"),
        cluster_specifier_plugins = RefusedAlways("cluster specifier plugins are not supported"),
    ),
    message!("envoy.config.route.v3.VirtualHost":
        name domains routes require_tls request_headers_to_add request_headers_to_remove response_headers_to_add
        response_headers_to_remove typed_per_filter_config include_request_attempt_count retry_policy
        per_request_buffer_limit_bytes request_body_buffer_limit request_mirror_policies metadata include_attempt_count_in_response virtual_clusters hedge_policy
        include_is_timeout_retry_header;
        rate_limits = Harmless(UNLIMITED),
        matcher = RefusedAlways("match trees are not supported"),
        cors = RefusedAlways("use typed_per_filter_config"),
        route_specifiers = RefusedAlways("route specifiers are not supported"),
    ),
    message!("envoy.config.route.v3.VirtualCluster": name headers),
    message!("envoy.config.route.v3.Route":
        name match metadata typed_per_filter_config request_headers_to_add request_headers_to_remove
        response_headers_to_add response_headers_to_remove per_request_buffer_limit_bytes request_body_buffer_limit route stat_prefix
        redirect direct_response non_forwarding_action tracing decorator;
        filter_action = RefusedAlways("routes cannot be left to a filter"),
        route_specifiers = RefusedAlways("route specifiers are not supported"),
    ),
    message!("envoy.config.route.v3.Decorator": operation propagate),
    message!("envoy.config.route.v3.Tracing":
        client_sampling random_sampling overall_sampling;
        custom_tags = Harmless(UNTRACED),
        operation = RefusedAlways("spans are not supported"),
        upstream_operation = RefusedAlways("spans are not supported"),
    ),
    message!("envoy.config.route.v3.RouteMatch":
        prefix path safe_regex connect_matcher path_separated_prefix path_match_policy case_sensitive runtime_fraction
        headers query_parameters cookies grpc tls_context dynamic_metadata filter_state
    ),
    message!("envoy.config.route.v3.RouteMatch.ConnectMatcher":),
    message!("envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions":),
    message!("envoy.config.route.v3.RouteMatch.TlsContextMatchOptions": presented validated),
    message!("envoy.config.route.v3.HeaderMatcher":
        name invert_match treat_missing_header_as_empty exact_match safe_regex_match range_match present_match
        prefix_match suffix_match contains_match string_match
    ),
    message!("envoy.config.route.v3.QueryParameterMatcher": name string_match present_match),
    message!("envoy.config.route.v3.CookieMatcher": name string_match invert_match),
    message!("envoy.config.route.v3.RouteAction":
        cluster cluster_header weighted_clusters cluster_not_found_response_code metadata_match prefix_rewrite
        regex_rewrite path_rewrite_policy host_rewrite_literal auto_host_rewrite host_rewrite_header
        host_rewrite_path_regex append_x_forwarded_host timeout retry_policy priority hash_policy max_grpc_timeout
        grpc_timeout_offset max_stream_duration upgrade_configs request_mirror_policies internal_redirect_policy hedge_policy
        idle_timeout;
        rate_limits = Harmless(UNLIMITED),
        include_vh_rate_limits = Harmless(UNLIMITED),
        cluster_specifier_plugin = RefusedAlways("cluster specifier plugins are not supported"),
        inline_cluster_specifier_plugin = RefusedAlways("cluster specifier plugins are not supported"),
        cors = RefusedAlways("use typed_per_filter_config"),
        internal_redirect_action = OnlyDefaultAlways("use internal_redirect_policy"),
        max_internal_redirects = RefusedAlways("use internal_redirect_policy"),
    ),
    message!("envoy.config.route.v3.RouteAction.MaxStreamDuration":
        max_stream_duration grpc_timeout_header_max grpc_timeout_header_offset
    ),
    message!("envoy.config.route.v3.RouteAction.RequestMirrorPolicy":
        cluster cluster_header runtime_fraction disable_shadow_host_suffix_append host_rewrite_literal;
        trace_sampled = Harmless(UNTRACED),
        request_headers_mutations = Refused("mirrors get the request's own headers"),
    ),
    message!("envoy.config.route.v3.HedgePolicy":
        hedge_on_per_try_timeout;
        initial_requests = OnlyValues(&[Allowed::Number(1)], "Envoy does not implement it either"),
        additional_request_chance = Refused("Envoy does not implement it either"),
    ),
    message!("envoy.config.route.v3.InternalRedirectPolicy":
        max_internal_redirects redirect_response_codes predicates allow_cross_scheme_redirect response_headers_to_copy
    ),
    message!("envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig": allowed_route_names),
    message!("envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig":),
    message!("envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig":),
    message!("envoy.config.route.v3.WeightedCluster":
        clusters total_weight header_name use_hash_policy runtime_key_prefix
    ),
    message!("envoy.config.route.v3.WeightedCluster.ClusterWeight":
        name cluster_header weight metadata_match request_headers_to_add request_headers_to_remove response_headers_to_add
        response_headers_to_remove typed_per_filter_config host_rewrite_literal
    ),
    message!("envoy.config.route.v3.FilterConfig":
        config is_optional disabled
    ),
    message!("envoy.config.route.v3.RedirectAction":
        host_redirect port_redirect response_code strip_query https_redirect scheme_redirect path_redirect prefix_rewrite
        regex_rewrite path_rewrite
    ),
    message!("envoy.config.route.v3.DirectResponseAction": status body body_format),
    message!("envoy.config.route.v3.NonForwardingAction":),
    message!("envoy.config.route.v3.RouteAction.UpgradeConfig":
        upgrade_type enabled connect_config
    ),
    message!("envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig":
        allow_post;
        proxy_protocol_config = RefusedAlways("no PROXY header goes before the payload"),
    ),
    message!("envoy.config.route.v3.RouteAction.HashPolicy":
        terminal header cookie connection_properties query_parameter filter_state
    ),
    message!("envoy.config.route.v3.RouteAction.HashPolicy.Header": header_name regex_rewrite),
    message!("envoy.config.route.v3.RouteAction.HashPolicy.Cookie": name ttl path attributes),
    message!("envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute": name value),
    message!("envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties": source_ip),
    message!("envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter": name),
    message!("envoy.config.route.v3.RouteAction.HashPolicy.FilterState": key),
    message!("envoy.config.route.v3.RetryPolicy":
        retry_on num_retries per_try_timeout per_try_idle_timeout retry_host_predicate retriable_status_codes retry_back_off
        rate_limited_retry_back_off retriable_headers retriable_request_headers retry_priority
        host_selection_retry_max_attempts
    ),
    message!("envoy.config.route.v3.RetryPolicy.RetryHostPredicate": name typed_config),
    message!("envoy.config.route.v3.RetryPolicy.RetryPriority": name typed_config),
    message!("envoy.config.route.v3.RetryPolicy.RetryBackOff": base_interval max_interval),
    message!("envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff": reset_headers max_interval),
    message!("envoy.config.route.v3.RetryPolicy.ResetHeader": name format),
    message!("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate":),
    message!("envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate":),
    message!("envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig": metadata_match),
    message!("envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig": update_frequency),
    message!("envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig": path_template),
    message!("envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig": path_template_rewrite),
];
