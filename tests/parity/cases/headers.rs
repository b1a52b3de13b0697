//! What the connection manager and the routes make of headers and paths.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, raw};

const ROUTES: &str = r#"
route_config:
  name: routes
  request_headers_to_add: [{header: {key: x-order, value: config}, append_action: APPEND_IF_EXISTS_OR_ADD}]
  response_headers_to_add: [{header: {key: x-answer, value: config}, append_action: APPEND_IF_EXISTS_OR_ADD}]
  request_headers_to_remove: [x-secret]
  response_headers_to_remove: [x-backend]
  virtual_hosts:
  - name: all
    domains: ["*"]
    request_headers_to_add: [{header: {key: x-order, value: host}, append_action: APPEND_IF_EXISTS_OR_ADD}]
    response_headers_to_add: [{header: {key: x-answer, value: host}, append_action: APPEND_IF_EXISTS_OR_ADD}]
    include_request_attempt_count: true
    include_attempt_count_in_response: true
    routes:
    - name: mutate
      match: {prefix: /mutate}
      request_headers_to_add:
      - {header: {key: x-order, value: route}, append_action: APPEND_IF_EXISTS_OR_ADD}
      - {header: {key: x-set, value: "new"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
      - {header: {key: x-absent, value: "added"}, append_action: ADD_IF_ABSENT}
      - {header: {key: x-exists, value: "replaced"}, append_action: OVERWRITE_IF_EXISTS}
      - {header: {key: x-formatted, value: "%PROTOCOL% %REQ(:METHOD)% %REQ(x-none?x-kind)% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% 100%%"}}
      response_headers_to_add:
      - {header: {key: x-answer, value: route}, append_action: APPEND_IF_EXISTS_OR_ADD}
      - {header: {key: x-code, value: "%RESPONSE_CODE% %ROUTE_NAME%"}}
      route: {cluster: a}
    - {name: traced, match: {prefix: /traced}, tracing: {}, route: {cluster: a}}
    - {name: untraced, match: {prefix: /untraced}, tracing: {random_sampling: {numerator: 0}}, route: {cluster: a}}
    - {name: deaf, match: {prefix: /deaf}, tracing: {client_sampling: {numerator: 0}, random_sampling: {numerator: 0}}, route: {cluster: a}}
    - {name: none, match: {prefix: /none}, tracing: {overall_sampling: {numerator: 0}}, route: {cluster: a}}
    - {name: direct, match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: ok}}}
    - {name: all, match: {prefix: /}, route: {cluster: a}}
"#;

/// What digit 14 of an id of our own says, on each listener.
macro_rules! own_ids {
    ($($listener:literal)*) => {
        [$(
            get(concat!($listener, ": an id of our own"), 200, "/", "").on($listener),
            get(concat!($listener, ": a client asks"), 200, "/", "x-client-trace-id: 1\n").on($listener),
            get(concat!($listener, ": a service asks"), 200, "/", "x-envoy-force-trace: 1\n").on($listener),
            get(concat!($listener, ": both ask"), 200, "/", "x-envoy-force-trace: 1\nx-client-trace-id: 1\n").on($listener),
            get(concat!($listener, ": a route's own fractions"), 200, "/traced", "").on($listener),
            get(concat!($listener, ": a route that wants none"), 200, "/untraced", "").on($listener),
            get(concat!($listener, ": a route that is deaf to clients"), 200, "/deaf", "x-client-trace-id: 1\n").on($listener),
            get(concat!($listener, ": a route that allows none"), 200, "/none", "x-envoy-force-trace: 1\n").on($listener),
        )*]
    };
}

/// The same of an id that came with the request: the last of the first half, the first of the second, and with a digit of its own.
macro_rules! given_ids {
    ($($listener:literal)*) => {
        [$(
            get(concat!($listener, ": 4, early"), 200, "/", "x-request-id: 00001387-0f0f-4f0f-8f0f-0f0f0f0f0f0f\n").on($listener),
            get(concat!($listener, ": 4, late"), 200, "/", "x-request-id: 00001389-0f0f-4f0f-8f0f-0f0f0f0f0f0f\n").on($listener),
            get(concat!($listener, ": 9, early"), 200, "/", "x-request-id: 00001387-0f0f-9f0f-8f0f-0f0f0f0f0f0f\n").on($listener),
            get(concat!($listener, ": 9, late"), 200, "/", "x-request-id: 00001389-0f0f-9f0f-8f0f-0f0f0f0f0f0f\n").on($listener),
            get(concat!($listener, ": a"), 200, "/", "x-request-id: 00000001-0f0f-af0f-8f0f-0f0f0f0f0f0f\n").on($listener),
            get(concat!($listener, ": b"), 200, "/", "x-request-id: 00000001-0f0f-bf0f-8f0f-0f0f0f0f0f0f\n").on($listener),
            get(concat!($listener, ": no number"), 200, "/", "x-request-id: zzzzzzzz-0f0f-4f0f-8f0f-0f0f0f0f0f0f\n").on($listener),
        )*]
    };
}

pub fn world() -> World {
    let listeners = [
        listener(
            "http",
            &format!(
                "server_name: parity\nvia: parity-via\nnormalize_path: true\nmerge_slashes: true\n\
                                   path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT\n{ROUTES}"
            ),
        ),
        listener("traced", &format!("tracing: {{}}\n{ROUTES}")),
        listener(
            "untraced",
            &format!("tracing: {{random_sampling: {{value: 0}}, client_sampling: {{value: 100}}}}\n{ROUTES}"),
        ),
        listener(
            "never",
            &format!("tracing: {{overall_sampling: {{value: 0}}}}\n{ROUTES}"),
        ),
        listener(
            "half",
            &format!("tracing: {{overall_sampling: {{value: 50}}}}\n{ROUTES}"),
        ),
        listener(
            "unpacked",
            &format!("tracing: {{}}\n{}\n{ROUTES}", request_ids("pack_trace_reason: false")),
        ),
        listener(
            "unsampled",
            &format!(
                "tracing: {{}}\n{}\n{ROUTES}",
                request_ids("use_request_id_for_trace_sampling: false")
            ),
        ),
        listener(
            "edge",
            &format!(
                "use_remote_address: true\nalways_set_request_id_in_response: true\n\
                                   preserve_external_request_id: true\n{ROUTES}"
            ),
        ),
        listener(
            "hops",
            &format!(
                "xff_num_trusted_hops: 1\nuse_remote_address: false\nskip_xff_append: true\n\
                                   server_header_transformation: PASS_THROUGH\n\
                                   path_with_escaped_slashes_action: REJECT_REQUEST\n{ROUTES}"
            ),
        ),
        listener(
            "strict",
            &format!("generate_request_id: false\nproxy_100_continue: true\n{ROUTES}"),
        ),
    ];
    World {
        name: "headers",
        yaml: bootstrap(&listeners, &[cluster("a", &["{{a}}"], "")]),
        cases: cases()
            .into_iter()
            .chain(own_ids!["http" "traced" "untraced" "never" "unpacked" "unsampled"])
            .chain(given_ids!["http" "traced" "untraced" "never" "half" "unpacked" "unsampled"])
            .collect(),
        stats: &[
            "http.http.downstream_rq",
            "http.edge.downstream_rq",
            "http.hops.downstream_rq",
            "cluster.a.upstream_rq",
        ],
    }
}

fn request_ids(setting: &str) -> String {
    const TYPE: &str = "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig";
    format!("request_id_extension: {{typed_config: {{\"@type\": {TYPE}, {setting}}}}}")
}

fn cases() -> Vec<Case> {
    vec![
        get("plain", 200, "/", ""),
        get(
            "added, in order",
            200,
            "/mutate",
            "x-order: client\nx-secret: s\nx-set: old\nx-exists: old\nx-kind: k\n",
        ),
        get("added, where absent", 200, "/mutate", "x-absent: mine\n"),
        get("direct response with headers", 200, "/direct", ""),
        get(
            "hop by hop is dropped",
            200,
            "/",
            "connection: x-mine, keep-alive\nx-mine: 1\nkeep-alive: 5\nproxy-connection: a\n",
        ),
        get("te trailers", 200, "/", "te: trailers, deflate\n"),
        get("te on two lines", 200, "/", "te: gzip\nte: trailers\n"),
        get("te on two lines, the other first", 200, "/", "te: trailers\nte: gzip\n"),
        get(
            "a duration that a stranger asks for",
            200,
            "/",
            "x-envoy-upstream-stream-duration-ms: 100\n",
        ),
        get("te otherwise", 200, "/", "te: gzip\n"),
        get("cookies", 200, "/", "cookie: a=1\ncookie: b=2\n"),
        get("same header twice", 200, "/", "x-two: a\nx-two: b\n"),
        get("empty value", 200, "/", "x-empty:\n"),
        get("spaces around a value", 200, "/", "x-spaces:   a b  \n"),
        get("request id is replaced or kept", 200, "/", "x-request-id: mine\n"),
        get("forwarded for, appended", 200, "/", "x-forwarded-for: 1.2.3.4\n"),
        get(
            "forwarded for a private address",
            200,
            "/",
            "x-forwarded-for: 10.0.0.1\nx-inside: 1\n",
        ),
        get("forwarded proto", 200, "/", "x-forwarded-proto: https\n"),
        get("forwarded proto, unknown", 200, "/", "x-forwarded-proto: gopher\n"),
        get("forwarded host", 200, "/", "x-forwarded-host: h\nx-forwarded-port: 1\n"),
        get(
            "envoy headers of a stranger",
            200,
            "/",
            "x-forwarded-for: 1.2.3.4\nx-envoy-retry-on: 5xx\nx-envoy-upstream-rq-timeout-ms: 5\n",
        ),
        get("expected timeout", 200, "/", "x-envoy-upstream-rq-timeout-ms: 7000\n"),
        get("user agent", 200, "/", "user-agent: curl/8\n"),
        get("dots", 200, "/a/./b/../c", ""),
        get("dots beyond the root", 200, "/../../a", ""),
        get("slashes", 200, "/a//b///c", ""),
        get("escaped slashes", 307, "/a%2Fb%5cc?q=%2F", ""),
        get("escapes", 200, "/%7Euser/%41", ""),
        get("fragment", 400, "/a#frag", ""),
        get("edge", 200, "/", "").on("edge"),
        get(
            "edge, addresses of a stranger's",
            200,
            "/",
            "x-envoy-external-address: 9.9.9.9\nx-envoy-external-address: 9.9.9.8\nx-envoy-internal: true\n",
        )
        .on("edge"),
        get(
            "edge, forwarded for",
            200,
            "/",
            "x-forwarded-for: 1.2.3.4\nx-forwarded-proto: https\n",
        )
        .on("edge"),
        get("edge, request id", 200, "/", "x-request-id: mine\n").on("edge"),
        get("edge, escaped slashes", 200, "/a%2Fb//c/../d", "").on("edge"),
        get("edge, server", 200, "/", "x-do: header=server:mine\n").on("edge"),
        get("hops", 200, "/", "x-forwarded-for: 1.1.1.1, 2.2.2.2, 3.3.3.3\n").on("hops"),
        get("hops, one", 200, "/", "x-forwarded-for: 10.0.0.1\n").on("hops"),
        get("hops, server", 200, "/", "x-do: header=server:mine\n").on("hops"),
        get("hops, escaped slashes", 400, "/a%2Fb", "").on("hops"),
        get("no request id", 200, "/", "").on("strict"),
        get("response of HTTP/1.0 style", 200, "/", "x-do: close\n"),
        get(
            "upstream's own headers",
            200,
            "/",
            "x-do: header=x-envoy-upstream-healthchecked-cluster:c,header=date:never\n",
        ),
        get("absolute target", 200, "http://other.test/abs?x", ""),
        raw("options *", 404, "OPTIONS * HTTP/1.1\nhost: parity.test\n\n"),
        raw("trace", 200, "TRACE / HTTP/1.1\nhost: parity.test\n\n"),
        raw("custom method", 200, "PURGE /x HTTP/1.1\nhost: parity.test\n\n"),
    ]
}
