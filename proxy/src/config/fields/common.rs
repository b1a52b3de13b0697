//! What many resources share: addresses, matchers, header options, access logs.

use remora_proto::ledger::{MessageEntry, Verdict::*};

pub(super) const ENTRIES: &[MessageEntry] = &[
    message!("envoy.config.core.v3.Address":
        socket_address pipe envoy_internal_address
    ),
    message!("envoy.config.core.v3.SocketAddress":
        address port_value ipv4_compat;
        protocol = OnlyDefaultAlways("only TCP is supported"),
        named_port = RefusedAlways("ports have numbers"),
        resolver_name = RefusedAlways("custom resolvers are not supported"),
        network_namespace_filepath = RefusedAlways("other network namespaces are not supported"),
    ),
    message!("envoy.config.core.v3.Pipe": path mode),
    message!("envoy.config.core.v3.EnvoyInternalAddress": server_listener_name endpoint_id),
    message!("envoy.config.core.v3.CidrRange": address_prefix prefix_len),
    message!("envoy.config.core.v3.SocketOption":
        level name state int_value buf_value;
        description = Harmless("a comment"),
    ),
    message!("envoy.config.core.v3.TcpKeepalive": keepalive_probes keepalive_time keepalive_interval),
    message!("envoy.config.core.v3.Locality": region zone sub_zone),
    message!("envoy.config.core.v3.Metadata": filter_metadata; typed_filter_metadata = Whole),
    message!("envoy.config.core.v3.TypedExtensionConfig": name typed_config),
    message!("envoy.config.core.v3.DataSource":
        filename inline_bytes inline_string environment_variable;
        watched_directory = Refused("files are read once"),
    ),
    message!("envoy.config.core.v3.HeaderValue": key value raw_value),
    message!("envoy.config.core.v3.HeaderValueOption": header append append_action keep_empty_value),
    message!("envoy.config.core.v3.RuntimeDouble": default_value runtime_key),
    message!("envoy.config.core.v3.RuntimeUInt32": default_value runtime_key),
    message!("envoy.config.core.v3.RuntimeFeatureFlag": default_value runtime_key),
    message!("envoy.config.core.v3.RuntimeFractionalPercent": default_value runtime_key),
    message!("envoy.type.v3.Percent": value),
    message!("envoy.type.v3.FractionalPercent": numerator denominator),
    message!("envoy.type.v3.Int32Range": start end),
    message!("envoy.type.v3.Int64Range": start end),
    message!("envoy.type.v3.DoubleRange": start end),
    message!("envoy.type.matcher.v3.StringMatcher":
        exact prefix suffix safe_regex contains ignore_case;
        custom = RefusedAlways("custom string matchers are not supported"),
    ),
    message!("envoy.type.matcher.v3.RegexMatcher":
        regex;
        google_re2 = Harmless("only says how large a program of RE2 may be"),
    ),
    message!("envoy.type.matcher.v3.RegexMatchAndSubstitute": pattern substitution),
    message!("envoy.type.matcher.v3.MetadataMatcher": filter path value invert),
    message!("envoy.type.matcher.v3.MetadataMatcher.PathSegment": key),
    message!("envoy.type.matcher.v3.ValueMatcher":
        null_match double_match string_match bool_match present_match list_match or_match
    ),
    message!("envoy.type.matcher.v3.ValueMatcher.NullMatch":),
    message!("envoy.type.matcher.v3.DoubleMatcher": range exact),
    message!("envoy.type.matcher.v3.ListMatcher": one_of),
    message!("envoy.type.matcher.v3.OrMatcher": value_matchers),
    message!("envoy.type.matcher.v3.FilterStateMatcher":
        key string_match;
        address_match = RefusedAlways("addresses in the filter state are not matched"),
    ),
    message!("envoy.config.accesslog.v3.AccessLog": name filter typed_config),
    message!("envoy.config.accesslog.v3.AccessLogFilter":
        status_code_filter duration_filter not_health_check_filter traceable_filter runtime_filter and_filter or_filter
        header_filter response_flag_filter grpc_status_filter metadata_filter log_type_filter
    ),
    message!("envoy.config.accesslog.v3.ComparisonFilter": op value),
    message!("envoy.config.accesslog.v3.StatusCodeFilter": comparison),
    message!("envoy.config.accesslog.v3.DurationFilter": comparison),
    message!("envoy.config.accesslog.v3.NotHealthCheckFilter":),
    message!("envoy.config.accesslog.v3.TraceableFilter":),
    message!("envoy.config.accesslog.v3.RuntimeFilter":
        runtime_key percent_sampled use_independent_randomness
    ),
    message!("envoy.config.accesslog.v3.AndFilter": filters),
    message!("envoy.config.accesslog.v3.OrFilter": filters),
    message!("envoy.config.accesslog.v3.HeaderFilter": header),
    message!("envoy.config.accesslog.v3.ResponseFlagFilter": flags),
    message!("envoy.config.accesslog.v3.GrpcStatusFilter": statuses exclude),
    message!("envoy.config.accesslog.v3.MetadataFilter": matcher match_if_key_not_found),
    message!("envoy.config.accesslog.v3.LogTypeFilter": types exclude),
    message!("envoy.extensions.access_loggers.file.v3.FileAccessLog": path format typed_json_format log_format),
    message!("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog": log_format),
    message!("envoy.extensions.access_loggers.stream.v3.StderrAccessLog": log_format),
    message!("envoy.config.core.v3.SubstitutionFormatString":
        text_format json_format text_format_source omit_empty_values formatters content_type json_format_options
    ),
    message!("envoy.config.core.v3.JsonFormatOptions":; sort_properties = Harmless("properties are always sorted")),
    message!("envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery":),
    message!("envoy.extensions.formatter.metadata.v3.Metadata":),
];
