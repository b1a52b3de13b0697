//! The HTTP connection manager, its filters and the protocol options of both sides.

use remora_proto::ledger::{Allowed, MessageEntry, Verdict::*};

/// Why nothing about tracing has an effect.
const UNTRACED: &str = "without a provider nothing is traced, and providers are refused";

pub(super) const ENTRIES: &[MessageEntry] = &[
    message!("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager":
        stat_prefix http_filters add_user_agent tracing common_http_protocol_options http_protocol_options
        http2_protocol_options server_name server_header_transformation max_request_headers_kb stream_idle_timeout
        drain_timeout request_timeout delayed_close_timeout
        request_headers_timeout access_log use_remote_address xff_num_trusted_hops original_ip_detection_extensions
        internal_address_config skip_xff_append via generate_request_id preserve_external_request_id
        always_set_request_id_in_response forward_client_cert_details set_current_client_cert_details proxy_100_continue
        upgrade_configs normalize_path merge_slashes path_with_escaped_slashes_action request_id_extension
        strip_matching_host_port strip_any_host_port strip_trailing_host_dot append_x_forwarded_port rds route_config
        local_reply_config access_log_options flush_access_log_on_new_request access_log_flush_interval;
        codec_type = OnlyValues(
            &[Allowed::Name("AUTO"), Allowed::Name("HTTP1"), Allowed::Name("HTTP2")], "HTTP/3 is not supported"),
        stream_error_on_invalid_http_message = OnlyDefault("an invalid message ends its connection"),
        http1_safe_max_connection_duration = OnlyDefault("connections of any protocol end by draining"),
        append_local_overload = OnlyDefault("there is no overload manager"),
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6 = OnlyDefaultAlways("addresses keep their family"),
        forward_client_cert_matcher = RefusedAlways("match trees are not supported"),
        path_normalization_options = RefusedAlways("use normalize_path and merge_slashes"),
        typed_header_validation_config = RefusedAlways("header validators are not supported"),
        early_header_mutation_extensions = RefusedAlways("early header mutations are not supported"),
        scoped_routes = RefusedAlways("scoped routes are not supported"),
        http3_protocol_options = Refused("HTTP/3 is not supported"),
    ),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.HcmAccessLogOptions":
        access_log_flush_interval flush_access_log_on_new_request flush_log_on_tunnel_successfully_established
    ),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig": mappers body_format),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper":
        filter status_code body body_format_override headers_to_add
    ),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing":
        client_sampling random_sampling overall_sampling;
        provider = Refused("tracing is not supported"),
        verbose = Harmless(UNTRACED),
        max_path_tag_length = Harmless(UNTRACED),
        custom_tags = Harmless(UNTRACED),
        spawn_upstream_span = Harmless(UNTRACED),
        no_context_propagation = Harmless(UNTRACED),
        operation = Harmless(UNTRACED),
        upstream_operation = Harmless(UNTRACED),
    ),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.InternalAddressConfig":
        unix_sockets cidr_ranges
    ),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails":
        subject cert chain dns uri;
        issuer = OnlyDefaultAlways("the issuer is not written"),
        format = OnlyDefaultAlways("only TEXT is written"),
    ),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig":
        upgrade_type enabled;
        filters = RefusedAlways("an upgrade has no filter chain of its own"),
    ),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.Rds": config_source route_config_name),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.RequestIDExtension": typed_config),
    message!("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig":
        pack_trace_reason use_request_id_for_trace_sampling
    ),
    message!("envoy.extensions.http.original_ip_detection.xff.v3.XffConfig":
        xff_num_trusted_hops xff_trusted_cidrs skip_xff_append
    ),
    message!("envoy.extensions.http.original_ip_detection.xff.v3.XffTrustedCidrs": cidrs),
    message!("envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig":
        header_name allow_extension_to_set_address_as_trusted reject_with_status
    ),
    message!("envoy.type.v3.HttpStatus": code),
    message!("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter":
        name is_optional typed_config disabled;
        config_discovery = RefusedAlways("extensions cannot be discovered"),
    ),
    message!("envoy.extensions.filters.http.router.v3.Router":
        suppress_envoy_headers;
        dynamic_stats = OnlyValues(&[Allowed::Number(1)], "stats cannot be switched off"),
        start_child_span = Harmless(UNTRACED),
        suppress_grpc_request_failure_code_stats = OnlyDefault("stats cannot be switched off"),
        respect_expected_rq_timeout = OnlyDefault("x-envoy-expected-rq-timeout-ms is always set anew"),
        reject_connect_request_early_data = OnlyDefault("early data is kept until the tunnel stands"),
        strict_check_headers = RefusedAlways("headers are not checked strictly"),
        upstream_http_filters = RefusedAlways("upstream HTTP filters are not supported"),
        upstream_log = Refused("upstream requests are not logged"),
    ),
    message!("envoy.config.core.v3.HttpProtocolOptions":
        idle_timeout max_connection_duration max_headers_count max_response_headers_kb max_requests_per_connection max_stream_duration
        headers_with_underscores_action max_connection_duration_jitter
    ),
    message!("envoy.config.core.v3.Http1ProtocolOptions":
        accept_http_10 enable_trailers header_key_format;
        allow_absolute_url = OnlyValues(&[Allowed::Number(1)], "absolute URLs are always understood"),
        use_balsa_parser = Harmless("chooses one of Envoy's own parsers"),
        allow_chunked_length = OnlyDefaultAlways("a message with both lengths is always refused"),
        override_stream_error_on_invalid_http_message = OnlyDefault("an invalid message ends its connection"),
        send_fully_qualified_url = OnlyDefault("requests go out in origin form"),
    ),
    message!("envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat": proper_case_words stateful_formatter),
    message!("envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.ProperCaseWords":),
    message!("envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig":
        formatter_type_on_envoy_headers;
        forward_reason_phrase = OnlyDefault("reason phrases are the status's own"),
    ),
    message!("envoy.config.core.v3.Http2ProtocolOptions":
        hpack_table_size max_concurrent_streams initial_stream_window_size initial_connection_window_size allow_connect
        connection_keepalive max_consecutive_inbound_frames_with_empty_payload max_inbound_priority_frames_per_stream
        max_inbound_window_update_frames_per_data_frame_sent max_outbound_frames max_outbound_control_frames;
        use_oghttp2_codec = Harmless("chooses one of Envoy's own codecs"),
        allow_metadata = OnlyDefault("METADATA frames are not supported"),
        stream_error_on_invalid_http_messaging = OnlyDefault("one of two names: use override_stream_error_on_invalid_http_message"),
        override_stream_error_on_invalid_http_message = OnlyValues(&[Allowed::Number(0), Allowed::Number(1)],
            "an invalid message always resets its stream, and others on its connection go on (RFC 9113, 8.1.1)"),
    ),
    message!("envoy.config.core.v3.KeepaliveSettings":
        interval timeout;
        interval_jitter = Harmless("pings go out without jitter: a peer cannot tell"),
    ),
    message!("envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
        common_http_protocol_options upstream_http_protocol_options explicit_http_config use_downstream_protocol_config
        auto_config outlier_detection;
        http_filters = RefusedAlways("upstream HTTP filters are not supported"),
        header_validation_config = RefusedAlways("header validators are not supported"),
    ),
    message!("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.OutlierDetection": error_matcher),
    message!("envoy.config.common.matcher.v3.MatchPredicate":
        or_match and_match not_match any_match http_response_headers_match;
        http_request_headers_match = Refused("nothing but the head of an answer is looked at, as in Envoy"),
        http_request_trailers_match = Refused("nothing but the head of an answer is looked at, as in Envoy"),
        http_response_trailers_match = Refused("nothing but the head of an answer is looked at, as in Envoy"),
        http_request_generic_body_match = Refused("nothing but the head of an answer is looked at, as in Envoy"),
        http_response_generic_body_match = Refused("nothing but the head of an answer is looked at, as in Envoy"),
    ),
    message!("envoy.config.common.matcher.v3.MatchPredicate.MatchSet": rules),
    message!("envoy.config.common.matcher.v3.HttpHeadersMatch": headers),
    message!("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig":
        http_protocol_options http2_protocol_options
    ),
    message!("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig":
        http_protocol_options http2_protocol_options
    ),
    message!("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig":
        http_protocol_options http2_protocol_options
    ),
    message!("envoy.config.core.v3.UpstreamHttpProtocolOptions": auto_sni auto_san_validation override_auto_sni_header),
];
