//! Access logs: operators, JSON, filters; every listener has a log of its own kind.

use super::{bootstrap, cluster};
use crate::harness::{Case, Wire, World, get, named, raw};

/// Operators whose values two proxies must agree on, a line of each.
const OPERATORS: &[&str] = &[
    "%PROTOCOL% %UPSTREAM_PROTOCOL% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%",
    "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %BYTES_RECEIVED% %BYTES_SENT% %BYTES_RETRANSMITTED% %PACKETS_RETRANSMITTED%",
    "%REQUEST_HEADERS_BYTES%",
    "%ROUTE_NAME% %VIRTUAL_CLUSTER_NAME% %UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW% %FILTER_CHAIN_NAME%",
    "%UPSTREAM_HOST% %UPSTREAM_HOST_NAME% %UPSTREAM_HOST_NAME_WITHOUT_PORT% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "%UPSTREAM_HOSTS_ATTEMPTED% %UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT% %UPSTREAM_HOST_NAMES_ATTEMPTED%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    "%REQUESTED_SERVER_NAME% %ACCESS_LOG_TYPE% %STREAM_ID%",
    "%REQ(:METHOD)% %REQ(:PATH):6% %REQ(X-NONE?X-IN):3% %REQ(X-IN)% %REQ(X-NONE)%",
    "%RESP(X-BACKEND)% %RESP(:STATUS)% %RESP(X-NONE)% %TRAILER(X-TRAILER)% %PATH(NQ)% %PATH(WQ:ORIG)% %PATH(NQ:PATH)%",
    "%QUERY_PARAM(q)% %QUERY_PARAM(none)%",
    "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%",
    "%DYNAMIC_METADATA(some:key)% %CLUSTER_METADATA(of:text)% %CLUSTER_METADATA(of:number)% %UPSTREAM_METADATA(of:text)%",
    "%METADATA(ROUTE:of:text)% %METADATA(ROUTE:of)% %METADATA(CLUSTER:of:nested:deep)% %METADATA(VIRTUAL_HOST:of:host)%",
    "%METADATA(LISTENER:of:text)% %METADATA(LISTENER:of)% %METADATA(LISTENER_FILTER_CHAIN:of:nested:deep)% %METADATA(LISTENER:none:key)%",
    "%FILTER_STATE(none)% %FILTER_STATE(none:PLAIN)% %UPSTREAM_FILTER_STATE(none)%",
    "%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% %DOWNSTREAM_PEER_CERT%",
    "%UPSTREAM_TLS_VERSION% %UPSTREAM_PEER_SUBJECT% %DOWNSTREAM_TRANSPORT_FAILURE_REASON% %TRACE_ID% %CUSTOM_FLAGS%",
    "%LISTENER_NAME% %ROUTE_RESOLUTION_COUNT% %DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)%",
    "%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%|%DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID%|%UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID%",
    "%QUERY_PARAMS% %QUERY_PARAMS(DECODED)% %QUERY_PARAMS(ORIG):5% %REQUEST_HEADER(x-in)% %RESPONSE_HEADER(x-backend)%",
    "%RESPONSE_TRAILER(x-trailer)% %STREAM_INFO_REQ(x-in)% %RESPONSE_TRAILERS_BYTES% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%",
    "%REQUESTED_SERVER_NAME(SNI_ONLY)% %REQUESTED_SERVER_NAME(SNI_FIRST:HOST)% %REQUESTED_SERVER_NAME(HOST_FIRST:ORIG)%",
    "%COALESCE({\"operators\": [\"TRACE_ID\", {\"command\": \"REQ\", \"param\": \"x-in\", \"max_length\": 2}, \"PROTOCOL\"]}):6%",
    "%DOWNSTREAM_HANDSHAKE_DURATION% %ROUNDTRIP_DURATION% %DOWNSTREAM_PEER_IP_SAN% %DOWNSTREAM_PEER_EMAIL_SAN% %DOWNSTREAM_PEER_OTHERNAME_SAN%",
    "%DOWNSTREAM_PEER_FINGERPRINT_1% %DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256% %DOWNSTREAM_PEER_CHAIN_SERIALS% %DOWNSTREAM_PEER_ISSUER_SERIAL%",
    "%DOWNSTREAM_PEER_CERT_V_START% %DOWNSTREAM_PEER_CERT_V_END(%Y)% %DOWNSTREAM_LOCAL_IP_SAN% %DOWNSTREAM_TLS_GROUP% %UPSTREAM_TLS_GROUP%",
    "%UPSTREAM_PEER_CERT% %UPSTREAM_PEER_CERT_V_START% %UPSTREAM_PEER_IP_SAN% %UPSTREAM_LOCAL_IP_SAN% %UPSTREAM_SERVER_NAME%",
    "%DOWNSTREAM_DETECTED_CLOSE_TYPE% %UPSTREAM_DETECTED_CLOSE_TYPE% %DOWNSTREAM_LOCAL_CLOSE_REASON% %UPSTREAM_LOCAL_CLOSE_REASON%",
    "%START_TIME_LOCAL(%Y-%m %z)% %EMIT_TIME_LOCAL(%Y-%m %Z)%",
    "100%% %START_TIME(%m)% %START_TIME(%Y-%m)% %ENVIRONMENT(PARITY_NONE)% %LOCAL_REPLY_BODY%",
];

const TYPED: &str = r#"{proto: "%PROTOCOL%", code: "%RESPONSE_CODE%", text: "code=%RESPONSE_CODE%", none: "%REQ(X-NONE)%", mixed: "-%REQ(X-NONE)%-", bytes: "%BYTES_SENT%", flag: true, number: 1.5, whole: 7, nothing: null, quoted: "%REQ(X-IN)%", deep: {list: ["%REQ(:METHOD)%", 1, {in: "%ROUTE_NAME%"}]}, meta: "%METADATA(ROUTE:of)%", metanumber: "%METADATA(ROUTE:of:number)%", "a\"b": plain}"#;

/// Bytes on either side, where nothing that a clock says is among them.
const WIRE: &[&str] = &[
    "%REQUEST_HEADERS_BYTES% %RESPONSE_HEADERS_BYTES% %RESPONSE_TRAILERS_BYTES% %BYTES_RECEIVED% %BYTES_SENT%",
    "%DOWNSTREAM_HEADER_BYTES_RECEIVED% %DOWNSTREAM_HEADER_BYTES_SENT% %DOWNSTREAM_WIRE_BYTES_RECEIVED% %DOWNSTREAM_WIRE_BYTES_SENT%",
    "%DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED% %DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT%",
    "%UPSTREAM_HEADER_BYTES_SENT% %UPSTREAM_HEADER_BYTES_RECEIVED% %UPSTREAM_WIRE_BYTES_SENT% %UPSTREAM_WIRE_BYTES_RECEIVED%",
    "%UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT% %UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED%",
];

/// Moments of a stream, from its beginning; whether there is one is compared, not when.
const TIMES: &str = "head ~%COMMON_DURATION(DS_RX_BEG:DS_RX_HDR_END:us)% request ~%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)% \
     connection ~%COMMON_DURATION(DS_CX_BEG:DS_RX_BEG:us)% ~%COMMON_DURATION(DS_RX_BEG:DS_CX_END:us)% ~%COMMON_DURATION(DS_CX_BEG:DS_HS_END:us)% \
     up ~%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:ns)% ~%COMMON_DURATION(DS_RX_BEG:US_TX_END)% back ~%COMMON_DURATION(DS_RX_BEG:US_RX_BEG)% \
     ~%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)% ~%COMMON_DURATION(DS_RX_BEG:US_RX_END:us)% down ~%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)% \
     ~%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)% other ~%COMMON_DURATION(DS_RX_BEG:of_a_filter:us)% ~%COMMON_DURATION(US_RX_BEG:DS_RX_BEG:us)% \
     plain ~%REQUEST_DURATION% ~%REQUEST_TX_DURATION% ~%RESPONSE_DURATION% ~%RESPONSE_TX_DURATION% ~%DURATION%";

/// The same of the upstream's connection, whose first request alone has them.
const CONNECTED: &str = "~%COMMON_DURATION(DS_RX_BEG:US_CX_BEG:us)% ~%COMMON_DURATION(US_CX_BEG:US_CX_END:us)% ~%COMMON_DURATION(US_CX_BEG:US_HS_END:us)%";

/// Filters, by the name of their listener.
const FILTERS: &[(&str, &str)] = &[
    (
        "eq",
        "status_code_filter: {comparison: {op: EQ, value: {default_value: 418, runtime_key: k}}}",
    ),
    (
        "ge",
        "status_code_filter: {comparison: {op: GE, value: {default_value: 500, runtime_key: k}}}",
    ),
    (
        "le",
        "status_code_filter: {comparison: {op: LE, value: {default_value: 299, runtime_key: k}}}",
    ),
    (
        "ne",
        "status_code_filter: {comparison: {op: NE, value: {default_value: 200, runtime_key: k}}}",
    ),
    (
        "slow",
        "duration_filter: {comparison: {op: GE, value: {default_value: 200, runtime_key: k}}}",
    ),
    ("healthy", "not_health_check_filter: {}"),
    (
        "never",
        "runtime_filter: {runtime_key: k, percent_sampled: {numerator: 0}}",
    ),
    (
        "always",
        "runtime_filter: {runtime_key: k, percent_sampled: {numerator: 100}}",
    ),
    ("unset", "runtime_filter: {runtime_key: k}"),
    ("header", "header_filter: {header: {name: x-log, present_match: true}}"),
    ("flags", "response_flag_filter: {flags: [NR, UF]}"),
    ("anyflag", "response_flag_filter: {}"),
    ("grpc", "grpc_status_filter: {statuses: [UNAVAILABLE, NOT_FOUND]}"),
    ("notgrpc", "grpc_status_filter: {statuses: [OK], exclude: true}"),
    (
        "metadata",
        "metadata_filter: {matcher: {filter: some, path: [{key: a}], value: {string_match: {exact: x}}}, match_if_key_not_found: false}",
    ),
    (
        "nometadata",
        "metadata_filter: {matcher: {filter: some, path: [{key: a}], value: {string_match: {exact: x}}}}",
    ),
    ("kind", "log_type_filter: {types: [DownstreamEnd]}"),
    ("otherkind", "log_type_filter: {types: [DownstreamStart]}"),
    (
        "and",
        "and_filter: {filters: [{header_filter: {header: {name: x-log, present_match: true}}}, {status_code_filter: {comparison: {op: GE, value: {default_value: 400, runtime_key: k}}}}]}",
    ),
    (
        "or",
        "or_filter: {filters: [{header_filter: {header: {name: x-log, present_match: true}}}, {status_code_filter: {comparison: {op: GE, value: {default_value: 400, runtime_key: k}}}}]}",
    ),
];

const ROUTES: &str = r#"
          route_config:
            name: routes
            virtual_hosts:
            - name: host
              domains: ["*"]
              metadata: {filter_metadata: {of: {host: "yes"}}}
              virtual_clusters: [{name: gets, headers: [{name: ":method", string_match: {exact: GET}}]}]
              routes:
              - {name: closed, match: {prefix: /closed}, route: {cluster: closed}}
              - {name: chosen, match: {prefix: /chosen}, route: {cluster_header: x-cluster}}
              - {name: direct, match: {path: /direct}, direct_response: {status: 202, body: {inline_string: direct}}}
              - name: all
                match: {prefix: /}
                metadata: {filter_metadata: {of: {text: words, number: 7, nested: {deep: true}}}}
                route: {cluster: a, prefix_rewrite: /to/, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}}}
"#;

fn logger(name: &str, filter: &str, format: &str) -> String {
    let filter = if filter.is_empty() {
        String::new()
    } else {
        format!("            filter: {{{filter}}}\n")
    };
    format!(
        r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    metadata: {{filter_metadata: {{of: {{text: of the listener}}}}}}
    filter_chains:
    - name: the-chain
      metadata: {{filter_metadata: {{of: {{nested: {{deep: 5}}}}}}}}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          generate_request_id: false
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          access_log:
          - name: envoy.access_loggers.file
{filter}            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: "{{{{log}}}}"
              {format}
{ROUTES}"#
    )
}

/// Logs with lines of streams that are not over; the second by the older field.
fn periodic() -> Vec<String> {
    const FIELDS: &str = "%ACCESS_LOG_TYPE% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
         %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %ROUTE_NAME% %RESP(X-BACKEND)% %UPSTREAM_REQUEST_ATTEMPT_COUNT%";
    let format = format!("log_format: {{text_format_source: {{inline_string: \"{FIELDS}\\n\"}}}}");
    let with = |name: &str, filter: &str, options: &str| {
        logger(name, filter, &format).replace(
            "          generate_request_id: false\n",
            &format!(
                "          generate_request_id: false\n          stream_idle_timeout: 1.1s\n          {options}\n"
            ),
        )
    };
    vec![
        with(
            "periodic",
            "",
            "access_log_options: {access_log_flush_interval: 0.4s, flush_access_log_on_new_request: true}",
        ),
        with(
            "older",
            "log_type_filter: {types: [DownstreamPeriodic]}",
            "access_log_flush_interval: 0.4s",
        ),
    ]
}

/// Streams that take a second, whoever is waited for.
fn slow() -> Vec<Case> {
    let h2 = |name, plan: &'static str| Case {
        wire: Wire::Http2 {
            method: "GET",
            host: "parity.test",
            path: "/x",
            headers: vec![("x-do", plan)],
            body: b"",
            trailers: Vec::new(),
        },
        ..get(name, 200, "/x", "")
    };
    let halting = "POST /x HTTP/1.1\nhost: parity.test\ncontent-length: 10\n\nhello";
    let cases = vec![
        get("an answer that comes late", 200, "/x", "x-do: delay=1000\n"),
        get("an answer that halts", 200, "/x", "x-do: stall\n"),
        raw("a request that halts", 408, halting),
        h2("over HTTP/2, an answer that comes late", "delay=1000"),
        h2("over HTTP/2, an answer that halts", "stall"),
    ];
    cases.into_iter().map(|case| case.on("periodic").logs(4)).collect()
}

/// Streams whose moments are told.
fn timed() -> Vec<Case> {
    let h2 = |name, method, body: &'static [u8]| Case {
        wire: Wire::Http2 {
            method,
            host: "parity.test",
            path: "/x",
            headers: Vec::new(),
            body,
            trailers: Vec::new(),
        },
        ..get(name, 200, "/x", "")
    };
    let post = |path: &str| format!("POST {path} HTTP/1.1\nhost: parity.test\ncontent-length: 5\n\nhello");
    let chunks = "POST /x HTTP/1.1\nhost: parity.test\ntransfer-encoding: chunked\n\n5\nhello\n0\n\n";
    let mut cases = vec![
        get("moments of an answer", 200, "/x", ""),
        get("moments of an answer without a body", 200, "/x", "x-do: body=0\n"),
        get("moments of a direct answer", 202, "/direct", ""),
        get("moments of a refused connection", 503, "/closed", ""),
        get("moments of a retry", 503, "/x", "x-do: status=503|status=503\n"),
        raw("moments of a body", 200, &post("/x")),
        raw("moments of chunks", 200, chunks),
        h2("moments over HTTP/2", "GET", b""),
        h2("moments of a body over HTTP/2", "POST", b"hello"),
    ];
    cases = cases.into_iter().map(|case| case.on("times")).collect();
    for name in ["a connection's moments", "those of the next"] {
        cases.push(get(name, 200, "/chosen", "x-cluster: fresh\n").on("connected"));
    }
    cases
}

pub fn world() -> World {
    let operators = OPERATORS.join(" | ").replace('"', "\\\"");
    let mut listeners = vec![
        logger(
            "text",
            "",
            &format!("log_format: {{text_format_source: {{inline_string: \"{operators}\\n\"}}}}"),
        ),
        logger(
            "omit",
            "",
            "log_format: {omit_empty_values: true, text_format_source: {inline_string: \"[%REQ(X-NONE)%] [%UPSTREAM_CLUSTER%] [%RESPONSE_FLAGS%]\\n\"}}",
        ),
        logger("json", "", &format!("log_format: {{json_format: {TYPED}}}")),
        logger(
            "omitjson",
            "",
            &format!("log_format: {{omit_empty_values: true, json_format: {TYPED}}}"),
        ),
        logger("typed", "", &format!("typed_json_format: {TYPED}")),
        logger(
            "twice",
            "",
            "log_format: {text_format_source: {inline_string: \"first %RESPONSE_CODE%\\n\"}}\n          - name: second\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n              path: \"{{log}}\"\n              log_format: {text_format_source: {inline_string: \"second %REQ(:PATH)%\\n\"}}",
        ),
    ];
    let began = "log_format: {text_format_source: {inline_string: \"%ACCESS_LOG_TYPE% %REQ(:PATH)% %RESPONSE_CODE% %ROUTE_NAME% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %CLUSTER_METADATA(of:text)%\\n\"}}";
    let begins = logger("begins", "", began);
    listeners.push(begins.replace(
        "          generate_request_id: false\n",
        "          generate_request_id: false\n          access_log_options: {flush_access_log_on_new_request: true}\n",
    ));
    listeners.extend(periodic());
    for (name, format) in [("times", TIMES), ("connected", CONNECTED)] {
        let format = format!("log_format: {{text_format_source: {{inline_string: \"{format}\\n\"}}}}");
        listeners.push(logger(name, "", &format));
    }
    for (name, filter) in FILTERS {
        let format = "log_format: {text_format_source: {inline_string: \"%REQ(:PATH)% %RESPONSE_CODE%\\n\"}}";
        listeners.push(logger(name, filter, format));
    }
    let wire = format!(
        "log_format: {{text_format_source: {{inline_string: \"{}\\n\"}}}}",
        WIRE.join(" | ")
    );
    let router = "extensions.filters.http.router.v3.Router";
    listeners.push(logger("wire", "", &wire).replace(
        &format!("{router}}}"),
        &format!("{router}, suppress_envoy_headers: true}}"),
    ));
    let metadata =
        "metadata: {filter_metadata: {of: {text: \"of the cluster\", number: 1.5, nested: {deep: [1, two]}}}}";
    World {
        name: "logging",
        yaml: bootstrap(
            &listeners,
            &[
                cluster("a", &["{{a}}"], metadata),
                cluster("closed", &["{{closed}}"], ""),
                cluster(
                    "fresh",
                    &["{{a}}"],
                    "max_requests_per_connection: 1\nalt_stat_name: other",
                ),
            ],
        ),
        cases: cases(),
        stats: &[],
    }
}

/// What a filter lets pass: name of the listener, and of requests (status, path, headers) how many lines they leave.
const PASSES: &[(&str, u16, &str, &str, usize)] = &[
    ("eq", 418, "/x", "x-do: status=418\n", 1),
    ("eq", 200, "/x", "", 0),
    ("ge", 503, "/x", "x-do: status=503\n", 1),
    ("ge", 404, "/x", "x-do: status=404\n", 0),
    ("le", 200, "/x", "", 1),
    ("le", 300, "/x", "x-do: status=300\n", 0),
    ("ne", 404, "/x", "x-do: status=404\n", 1),
    ("ne", 200, "/x", "", 0),
    ("slow", 200, "/x", "x-do: delay=300\n", 1),
    ("slow", 202, "/direct", "", 0),
    ("healthy", 200, "/x", "", 1),
    ("never", 200, "/x", "", 0),
    ("always", 200, "/x", "", 1),
    ("unset", 200, "/x", "", 0),
    ("header", 200, "/x", "x-log: 1\n", 1),
    ("header", 200, "/x", "", 0),
    ("flags", 503, "/closed", "", 1),
    ("flags", 503, "/x", "x-do: status=503\n", 0),
    ("anyflag", 503, "/closed", "", 1),
    ("anyflag", 200, "/x", "", 0),
    ("grpc", 200, "/closed", "content-type: application/grpc\n", 1),
    ("grpc", 404, "/x", "x-do: status=404\n", 0),
    ("notgrpc", 503, "/closed", "", 1),
    ("metadata", 200, "/x", "", 0),
    ("nometadata", 200, "/x", "", 1),
    ("kind", 200, "/x", "", 1),
    ("otherkind", 200, "/x", "", 0),
    ("and", 404, "/x", "x-log: 1\nx-do: status=404\n", 1),
    ("and", 200, "/x", "x-log: 1\n", 0),
    ("or", 200, "/x", "x-log: 1\n", 1),
    ("or", 200, "/x", "", 0),
];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for listener in ["text", "omit", "json", "omitjson", "typed", "wire"] {
        let name = |what: &str| -> &'static str { Box::leak(format!("{listener}, {what}").into_boxed_str()) };
        cases.extend([
            get(name("an answer"), 200, "/some?q=v%20w&z", "x-in: a\"b\\c\n").on(listener),
            get(
                name("a retry"),
                503,
                "/x",
                "x-request-id: abc\nx-do: status=503|status=503\n",
            )
            .on(listener),
            get(name("a direct answer"), 202, "/direct", "").on(listener),
            get(name("a refused connection"), 503, "/closed", "").on(listener),
            raw(
                name("a body"),
                200,
                "POST /x HTTP/1.1\nhost: parity.test\ncontent-length: 5\n\nhello",
            )
            .on(listener),
        ]);
    }
    // How many chunks an answer goes on in is a matter of timing, and counts on the wire: not on that listener.
    for listener in ["text", "omit", "json", "omitjson", "typed"] {
        let name: &'static str = Box::leak(format!("{listener}, a trailer").into_boxed_str());
        cases.push(get(name, 200, "/x", "te: trailers\nx-do: trailer\n").on(listener));
    }
    cases.push(get("a line at the beginning", 200, "/x", "").on("begins").logs(2));
    cases.push(
        get("a line at the beginning, no route", 503, "/closed", "")
            .on("begins")
            .logs(2),
    );
    for (cluster, status) in [("a", 200), ("nobody", 503)] {
        let name = named(format!("a line at the beginning, to {cluster}"));
        let headers = format!("x-cluster: {cluster}\n");
        cases.push(get(name, status, "/chosen", &headers).on("begins").logs(2));
    }
    cases.push(
        get("a line at the beginning, no cluster", 503, "/chosen", "")
            .on("begins")
            .logs(2),
    );
    cases.extend(slow());
    cases.extend(timed());
    cases.push(
        get("only lines meanwhile", 200, "/x", "x-do: delay=1000\n")
            .on("older")
            .logs(2),
    );
    cases.push(get("two logs", 200, "/x", "").on("twice").logs(2));
    for (number, (listener, status, path, headers, lines)) in PASSES.iter().enumerate() {
        let name: &'static str = Box::leak(format!("filter {listener} {number}").into_boxed_str());
        cases.push(get(name, *status, path, headers).on(listener).logs(*lines));
    }
    cases
}
