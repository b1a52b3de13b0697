//! Fields of connection managers and routes that the other worlds leave unset, each with what it changes.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, Wire, World, get, raw};

const MANAGER: &str = r#"
add_user_agent: true
strip_any_host_port: true
append_x_forwarded_port: true
drain_timeout: 1s
delayed_close_timeout: 1s
forward_client_cert_details: SANITIZE_SET
set_current_client_cert_details: {subject: true, cert: true, chain: true, dns: true, uri: true}
internal_address_config: {unix_sockets: true}
request_id_extension: {typed_config: {"@type": type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig}}
common_http_protocol_options: {idle_timeout: 60s, max_connection_duration: 60s, max_stream_duration: 0.3s}
upgrade_configs: [{upgrade_type: websocket, enabled: false}]
http_protocol_options:
  header_key_format:
    stateful_formatter:
      name: preserve
      typed_config: {"@type": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig, formatter_type_on_envoy_headers: PROPER_CASE}
http2_protocol_options:
  hpack_table_size: 1024
  max_concurrent_streams: 5
  initial_stream_window_size: 65535
  initial_connection_window_size: 65535
  allow_connect: true
  connection_keepalive: {interval: 30s, timeout: 5s}
  max_consecutive_inbound_frames_with_empty_payload: 2
  max_inbound_priority_frames_per_stream: 10
  max_inbound_window_update_frames_per_data_frame_sent: 2
  max_outbound_frames: 5000
  max_outbound_control_frames: 500
"#;

const ROUTES: &str = r#"
route_config:
  name: routes
  max_direct_response_body_size_bytes: 6
  ignore_port_in_host_matching: true
  ignore_path_parameters_in_path_matching: true
  internal_only_headers: [x-inside]
  metadata: {filter_metadata: {of: {routes: true}}}
  virtual_hosts:
  - name: deprecated
    domains: [old.test]
    per_request_buffer_limit_bytes: 5
    routes:
    - {name: exact, match: {prefix: /, headers: [{name: x-kind, exact_match: one}]}, direct_response: {status: 201}}
    - {name: regex, match: {prefix: /, headers: [{name: x-kind, safe_regex_match: {regex: "t[wv]o"}}]}, direct_response: {status: 202}}
    - {name: prefix, match: {prefix: /, headers: [{name: x-kind, prefix_match: thr}]}, direct_response: {status: 203}}
    - {name: suffix, match: {prefix: /, headers: [{name: x-kind, suffix_match: our}]}, direct_response: {status: 204}}
    - {name: contains, match: {prefix: /, headers: [{name: x-kind, contains_match: iv}]}, direct_response: {status: 206}}
    - {name: retried, match: {prefix: /retried}, route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 1}}}
    - {name: none, match: {prefix: /}, direct_response: {status: 404}}
  - name: limited
    domains: [limited.test]
    request_body_buffer_limit: 5
    hedge_policy: {hedge_on_per_try_timeout: false}
    routes:
    - {name: own, match: {prefix: /own}, request_body_buffer_limit: 100, route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 1}}}
    - {name: all, match: {prefix: /}, route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 1}}}
  - name: all
    domains: ["*"]
    routes:
    - {name: state, match: {prefix: /, filter_state: [{key: nobody, string_match: {exact: "1"}}]}, direct_response: {status: 418}}
    - {name: secure, match: {prefix: /secure}, redirect: {scheme_redirect: https}}
    - {name: short, match: {path: /short}, direct_response: {status: 200, body: {inline_string: "direct"}}}
    - {name: urgent, match: {prefix: /urgent}, route: {cluster: a, priority: HIGH}}
    - {name: socket, match: {prefix: /socket}, route: {cluster: a, upgrade_configs: [{upgrade_type: websocket, enabled: true}]}}
    - {name: same, match: {prefix: /same}, route: {cluster: same}}
    - {name: tight, match: {prefix: /tight}, route: {cluster: tight}}
    - name: weighted
      match: {prefix: /weighted}
      route:
        weighted_clusters:
          total_weight: 1
          use_hash_policy: true
          clusters: [{cluster_header: x-cluster, weight: 1, metadata_match: {filter_metadata: {envoy.lb: {stage: prod}}}}]
        hash_policy:
        - {connection_properties: {source_ip: true}}
        - {filter_state: {key: nobody}}
        - {header: {header_name: x-key, regex_rewrite: {pattern: {regex: "a.*"}, substitution: b}}}
    - name: later
      match: {prefix: /later}
      route:
        cluster: a
        retry_policy:
          retry_on: retriable-status-codes
          retriable_status_codes: [503]
          num_retries: 1
          rate_limited_retry_back_off: {reset_headers: [{name: retry-after, format: SECONDS}, {name: x-reset, format: UNIX_TIMESTAMP}]}
          retry_host_predicate:
          - name: omit
            typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig, metadata_match: {filter_metadata: {envoy.lb: {canary: true}}}}
    - {name: all, match: {prefix: /}, route: {cluster: a}}
"#;

const PLAIN: &str = r#"
route_config:
  name: plain
  vhost_header: x-vhost
  virtual_hosts:
  - {name: named, domains: [named.test], routes: [{match: {prefix: /}, route: {cluster: a}}]}
  - {name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 404}}]}
"#;

/// Fields that Envoy deprecates are among those that are compared.
const RUNTIME: &str = "layered_runtime: {layers: [{name: static, static_layer: {envoy.features.enable_all_deprecated_features: true}}]}\n";

const OPTIONS: &str = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
"#;

pub fn world() -> World {
    let detection = |kind: &str, fields: &str| {
        format!(
            "original_ip_detection_extensions:\n- name: detection\n  typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.http.original_ip_detection.{kind}, {fields}}}\n{PLAIN}"
        )
    };
    let listeners = [
        listener("http", &format!("{MANAGER}{ROUTES}")),
        listener(
            "dots",
            &format!("strip_trailing_host_dot: true\nflush_access_log_on_new_request: true\n{PLAIN}"),
        ),
        listener(
            "hops",
            &detection("xff.v3.XffConfig", "xff_num_trusted_hops: 1, skip_xff_append: false"),
        ),
        listener(
            "nets",
            &detection(
                "xff.v3.XffConfig",
                "xff_trusted_cidrs: {cidrs: [{address_prefix: 127.0.0.0, prefix_len: 8}, {address_prefix: 10.0.0.0, prefix_len: 8}]}, \
                 skip_xff_append: true",
            ),
        ),
        listener(
            "told",
            &detection(
                "custom_header.v3.CustomHeaderConfig",
                "header_name: x-address, allow_extension_to_set_address_as_trusted: true",
            ),
        ),
    ];
    let same = "  use_downstream_protocol_config: {http_protocol_options: {}, http2_protocol_options: {}}\n";
    let tight = "  explicit_http_config: {http_protocol_options: {}}\n";
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster(
            "same",
            &["{{b}}"],
            &format!("{OPTIONS}  {same}    upstream_http_protocol_options: {{}}"),
        ),
        cluster(
            "tight",
            &["{{a}}"],
            &format!("{OPTIONS}  {tight}    common_http_protocol_options: {{max_response_headers_kb: 1}}"),
        ),
    ];
    let router = "- name: envoy.filters.http.router\n";
    let optional = format!("{router}            is_optional: true\n");
    World {
        name: "fields",
        yaml: RUNTIME.to_owned() + &bootstrap(&listeners, &clusters).replace(router, &optional),
        cases: cases().into_iter().chain(matches()).chain(clients()).collect(),
        stats: &[
            "cluster.a.upstream_rq",
            // Envoy closes the connection of an answer that is retried; here it is read to its end and used again.
            "!cluster.a.upstream_rq_pending_total",
            "cluster.same.upstream_rq",
            "http.http.downstream_rq",
        ],
    }
}

fn cases() -> Vec<Case> {
    let post = |name, host: &str, path: &str, more: &str| {
        raw(
            name,
            200,
            &format!("POST {path} HTTP/1.1\nhost: {host}\n{more}content-length: 10\n\n0123456789"),
        )
    };
    let websocket = "connection: upgrade\nupgrade: websocket\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-version: 13\n";
    vec![
        get("a user agent is added", 200, "/", ""),
        get("a user agent is kept", 200, "/", "user-agent: own\n"),
        raw(
            "the port of the host goes",
            200,
            "GET / HTTP/1.1\nhost: parity.test:8080\n\n",
        ),
        get(
            "certificates that nobody showed",
            200,
            "/",
            "x-forwarded-client-cert: Hash=abc\n",
        ),
        get("spelled as the client does", 200, "/", "X-SPELLED-So: 1\n"),
        get("inside headers", 200, "/", "x-inside: 1\nx-forwarded-for: 192.0.2.1\n"),
        get("longer than a stream may last", 504, "/", "x-do: hang\n"),
        get("an upgrade that is off", 403, "/", websocket),
        get("an upgrade that the route switches on", 101, "/socket", websocket),
        get("a body that is just short enough", 200, "/short", ""),
        get("urgent", 200, "/urgent", ""),
        get("to https", 301, "/secure/x?y", ""),
        get("over the client's protocol", 200, "/same", ""),
        h2("over the client's protocol, HTTP/2", "/same"),
        get(
            "an answer whose head is too long",
            502,
            "/tight",
            &format!(
                "x-do: raw=HTTP/1.1 200 OK\\nx-long: {}\\ncontent-length: 0\\n\\n\n",
                "y".repeat(2000)
            ),
        ),
        post("too long to be sent again", "limited.test", "/", ""),
        post("long, and the route buffers it", "limited.test", "/own", ""),
        post("too long for the older field", "old.test", "/retried", ""),
        get("by weight", 200, "/weighted", "x-cluster: a\nx-key: abc\n"),
        get("by weight, to nobody", 503, "/weighted", "x-cluster: nobody\n"),
        get("later", 503, "/later", "x-do: status=503\n"),
    ]
}

/// Deprecated matchers, and those of what the request does not have.
fn matches() -> Vec<Case> {
    let of = |name, status, kind: &str| {
        raw(
            name,
            status,
            &format!("GET / HTTP/1.1\nhost: old.test:80\nx-kind: {kind}\n\n"),
        )
    };
    vec![
        of("exact", 201, "one"),
        of("regex", 202, "two"),
        of("prefix", 203, "three"),
        of("suffix", 204, "four"),
        of("contains", 206, "five"),
        of("none of them", 404, "six"),
        get("path parameters do not count", 200, "/short;v=1", ""),
    ]
}

/// Who the client is, and which virtual host it gets.
fn clients() -> Vec<Case> {
    let named = "x-vhost: named.test\n";
    let from = |name, listener, headers: &str| get(name, 200, "/", &format!("{named}{headers}")).on(listener);
    vec![
        raw(
            "a dot at the end",
            200,
            &format!("GET / HTTP/1.1\nhost: parity.test.\n{named}\n"),
        )
        .on("dots")
        .logs(2),
        raw(
            "a dot before the port",
            200,
            &format!("GET / HTTP/1.1\nhost: parity.test.:80\n{named}\n"),
        )
        .on("dots")
        .logs(2),
        get("no name", 404, "/", "").on("dots").logs(2),
        from("no hops", "hops", ""),
        from("a hop", "hops", "x-forwarded-for: 192.0.2.1, 192.0.2.2\n"),
        from("no nets", "nets", ""),
        from(
            "a net that is trusted",
            "nets",
            "x-forwarded-for: 192.0.2.1, 192.0.2.2, 10.0.0.1\n",
        ),
        from("a net that is not", "nets", "x-forwarded-for: 10.0.0.1, 192.0.2.2\n"),
        from("an address that is told", "told", "x-address: 192.0.2.7\n"),
        from("no address that is told", "told", ""),
    ]
}

fn h2(name: &'static str, path: &'static str) -> Case {
    let wire = Wire::Http2 {
        method: "GET",
        host: "parity.test",
        path,
        headers: Vec::new(),
        body: b"",
        trailers: Vec::new(),
    };
    Case {
        wire,
        ..get(name, 200, path, "")
    }
}
