//! `ext_authz`: what a service is asked over HTTP and gRPC about requests and connections, and what its answers do.

use super::{HTTP2, bootstrap, cluster, listener};
use crate::harness::{Case, Wire, World, get, raw};
use crate::tcp::Step;

const MANAGER: &str = r#"route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - match: {prefix: /open}
      route: {cluster: a}
      typed_per_filter_config:
        authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}
    - match: {prefix: /told}
      route: {cluster: a}
      typed_per_filter_config:
        authz:
          "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
          check_settings: {context_extensions: {tenant: blue}, disable_request_body_buffering: true}
    - match: {path: /moved}
      route: {cluster: b}
    - match: {prefix: /, headers: [{name: x-both, string_match: {exact: set}}]}
      name: after
      route: {cluster: a}
    - {match: {prefix: /}, route: {cluster: a}}
"#;

const OVER_HTTP: &str = "http_service:
  server_uri: {uri: \"http://authz.test/base\", cluster: b, timeout: 5s}
  path_prefix: /check
  authorization_request: {headers_to_add: [{key: x-asked-by, value: me}]}
  authorization_response:
    allowed_upstream_headers: {patterns: [{exact: x-user}]}
    allowed_upstream_headers_to_append: {patterns: [{exact: x-groups}]}
    allowed_client_headers: {patterns: [{exact: x-why}]}
    allowed_client_headers_on_success: {patterns: [{exact: x-ok}]}
allowed_headers: {patterns: [{exact: x-do}, {prefix: x-in}]}
disallowed_headers: {patterns: [{exact: x-in-not}]}
";

const WITH_BODY: &str = "http_service: {server_uri: {uri: \"http://authz.test\", cluster: b, timeout: 5s}}
allowed_headers: {patterns: [{exact: x-do}]}
with_request_body: {max_request_bytes: 8, allow_partial_message: true}
failure_mode_allow: true
failure_mode_allow_header_add: true
";

const WHOLE_BODY: &str = "http_service: {server_uri: {uri: \"http://authz.test\", cluster: b, timeout: 5s}}
with_request_body: {max_request_bytes: 8}
status_on_error: {code: 503}
stat_prefix: mine
";

const OVER_GRPC: &str = "grpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 5s}
with_request_body: {max_request_bytes: 1024, allow_partial_message: true}
clear_route_cache: true
";

const UNREACHABLE: &str = "grpc_service: {envoy_grpc: {cluster_name: closed, authority: somebody}, timeout: 5s}
status_on_error: {code: 401}
filter_enabled_metadata: {filter: nobody, path: [{key: k}], value: {present_match: true}, invert: true}
";

const DISABLED: &str = "grpc_service: {envoy_grpc: {cluster_name: closed}}
filter_enabled: {default_value: {numerator: 0}}
";

fn authorized(name: &str, config: &str) -> String {
    let config: String = config.lines().map(|line| format!("              {line}\n")).collect();
    let filter = format!(
        "          http_filters:\n          - name: authz\n            typed_config:\n              \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n              \
         transport_api_version: V3\n{config}"
    );
    listener(name, MANAGER)
        .replace("          http_filters:\n", &filter)
        .replace(
            "%REQ(:METHOD)%",
            "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:who)% %REQ(:METHOD)%",
        )
}

/// A listener of `tcp_proxy` behind the network filter with these fields, and behind `before`.
fn connections(name: &str, config: &str, before: &str) -> String {
    format!(
        r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
{before}      - name: authz
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz
          stat_prefix: {name}
          transport_api_version: V3
{config}
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: {name}
          cluster: echo
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: "{{{{log}}}}"
              log_format: {{text_format_source: {{inline_string: "{name} flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% ended=%CONNECTION_TERMINATION_DETAILS% who=%DYNAMIC_METADATA(envoy.filters.network.ext_authz:who)% rbac=%DYNAMIC_METADATA(envoy.filters.network.rbac)%\n"}}}}
"#
    )
}

/// Asks for this answer.
fn wishing(wish: &str) -> String {
    format!(
        "          grpc_service: {{envoy_grpc: {{cluster_name: authz}}, timeout: 5s, initial_metadata: [{{key: x-authz, value: {wish}}}]}}"
    )
}

/// Shadow rules that name a policy, as a service mesh uses them to choose what is asked about.
fn shadow(port: &str) -> String {
    format!(
        r#"      - name: rbac
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC
          stat_prefix: shade.
          shadow_rules_stat_prefix: mesh_
          shadow_rules: {{action: DENY, policies: {{ask-me: {{permissions: [{{destination_port_range: {port}}}], principals: [{{any: true}}]}}}}}}
"#
    )
}

const CHOSEN: &str = "
          filter_enabled_metadata: {filter: envoy.filters.network.rbac, path: [{key: mesh_shadow_effective_policy_id}], value: {string_match: {prefix: ask-}}}";

fn of_connections() -> Vec<String> {
    let closed = "          grpc_service: {envoy_grpc: {cluster_name: closed}, timeout: 5s}";
    let namespaces = "\n          metadata_context_namespaces: [envoy.filters.network.rbac]\n          include_peer_certificate: true\n          include_tls_session: true";
    vec![
        connections("tcp granted", &wishing("tell"), ""),
        connections("tcp denied", &wishing("deny and tell"), ""),
        connections("tcp failed", &wishing("fail"), ""),
        connections("tcp closed", closed, ""),
        connections("tcp open", &format!("{closed}\n          failure_mode_allow: true"), ""),
        connections(
            "tcp asked",
            &format!("{}{CHOSEN}", wishing("deny")),
            &shadow("{start: 1, end: 65535}"),
        ),
        connections(
            "tcp not asked",
            &format!("{}{CHOSEN}", wishing("deny")),
            &shadow("{start: 1, end: 2}"),
        ),
        connections(
            "tcp metadata",
            &format!("{}{namespaces}", wishing("tell")),
            &shadow("{start: 1, end: 65535}"),
        ),
    ]
}

fn connection_cases() -> Vec<Case> {
    const TALK: &[Step] = &[Step::Send(b"hello"), Step::Half, Step::End];
    const REFUSED: &[Step] = &[Step::Send(b"hello"), Step::End];
    let case = |name, listener, count, steps| Case {
        name,
        listener,
        wire: Wire::Tcp(steps),
        status: count,
        logs: 1,
        seen: 0,
    };
    vec![
        case("a connection, granted", "tcp granted", 5, TALK),
        case("a connection, denied", "tcp denied", 0, REFUSED),
        case("a connection, failed", "tcp failed", 0, REFUSED),
        case("a connection, service unreachable", "tcp closed", 0, REFUSED),
        case("a connection, service unreachable, failures pass", "tcp open", 5, TALK),
        case("a connection that shadow rules choose", "tcp asked", 0, REFUSED),
        case("a connection that shadow rules do not choose", "tcp not asked", 5, TALK),
        case("a connection's metadata", "tcp metadata", 5, TALK),
    ]
}

pub fn world() -> World {
    let mut listeners = vec![
        authorized("http", OVER_HTTP),
        authorized("body", WITH_BODY),
        authorized("whole", WHOLE_BODY),
        authorized("grpc", OVER_GRPC),
        authorized("unreachable", UNREACHABLE),
        authorized("disabled", DISABLED),
    ];
    listeners.extend(of_connections());
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster("b", &["{{b}}"], ""),
        cluster("closed", &["{{closed}}"], HTTP2),
        cluster("authz", &["{{authz}}"], HTTP2),
        cluster("echo", &["{{echo}}"], ""),
    ];
    World {
        name: "authz",
        yaml: bootstrap(&listeners, &clusters),
        cases: cases(),
        stats: &[
            "http.http.ext_authz",
            "http.body.ext_authz",
            "http.whole.ext_authz",
            "http.grpc.ext_authz",
            "http.unreachable.ext_authz",
            "http.disabled.ext_authz",
            "cluster.a.ext_authz",
            "ext_authz.tcp ",
            "shade.",
            "cluster.a.internal.upstream_rq",
            "cluster.b.internal.upstream_rq_4xx",
        ],
    }
}

fn post(name: &'static str, status: u16, headers: &str, body: &str) -> Case {
    let length = body.len();
    let head = format!("POST /x HTTP/1.1\nhost: parity.test\ncontent-length: {length}\n{headers}\n{body}");
    raw(name, status, &head)
}

fn cases() -> Vec<Case> {
    let mut cases = over_http();
    cases.extend(over_grpc());
    cases.extend(connection_cases());
    cases
}

fn over_http() -> Vec<Case> {
    let chunked = "POST /x HTTP/1.1\nhost: parity.test\ntransfer-encoding: chunked\nx-do: status=401\n\n4\nabcd\n9\nefghijklm\n0\n\n";
    vec![
        get("granted", 200, "/a?b=c", "authorization: tok\n"),
        get(
            "what is asked",
            401,
            "/a?b=c",
            "authorization: tok\nx-in: 1\nx-in-not: 2\nx-other: 3\nx-do: status=401\n",
        ),
        get(
            "granted with headers",
            200,
            "/",
            "x-groups: one\nx-user: other\nx-do: header=x-user:joe,header=x-groups:two,header=x-ok:yes\n",
        ),
        get(
            "nothing to append to",
            200,
            "/",
            "x-do: header=x-groups:two,header=x-other:no\n",
        ),
        get(
            "headers to lose",
            200,
            "/",
            "x-secret: 1\nx-kept: 1\nx-do: header=x-envoy-auth-headers-to-remove:x-secret\n",
        ),
        get(
            "denied with headers",
            401,
            "/",
            "x-do: status=401,header=x-why:no,header=www-authenticate:Basic,header=x-hidden:1\n",
        ),
        get("redirected", 302, "/", "x-do: status=302,header=location:/login\n"),
        get(
            "denied, to gRPC",
            200,
            "/",
            "content-type: application/grpc\nx-in: 1\nx-do: status=401,body=3\n",
        ),
        get("no decision", 403, "/", "x-do: status=500\n"),
        get("no answer", 403, "/", "x-do: reset\n"),
        get("not asked", 200, "/open", ""),
        post("body not asked for", 401, "x-do: status=401\n", "hello"),
        get("without a body", 401, "/", "x-do: status=401\n").on("body"),
        post("with its body", 401, "x-do: status=401\n", "hello").on("body"),
        post("with a part of its body", 401, "x-do: status=401\n", "hello world").on("body"),
        post("all of the body goes on", 200, "", "hello world").on("body"),
        raw("chunked", 401, chunked).on("body"),
        get(
            "all headers of a refusal",
            403,
            "/",
            "x-do: status=403,header=x-one:1,header=x-two:2\n",
        )
        .on("body"),
        post("no decision, and on", 503, "x-do: status=503\n", "hello world").on("body"),
        post("too large", 413, "", "hello world").on("whole"),
        post("not too large", 200, "", "hello wo").on("whole"),
    ]
}

fn over_grpc() -> Vec<Case> {
    let by = |name, status, wish: &str| get(name, status, "/g?q", &format!("x-authz: {wish}\n")).on("grpc");
    let h2 = Case {
        name: "gRPC over HTTP/2",
        listener: "grpc",
        wire: Wire::Http2 {
            method: "POST",
            host: "parity.test",
            path: "/p",
            headers: vec![("x-authz", "deny")],
            body: b"hello",
            trailers: vec![],
        },
        status: 401,
        logs: 1,
        seen: 0,
    };
    vec![
        get(
            "gRPC: granted",
            200,
            "/g?q",
            "x-secret: 1\nx-present: a\nx-two: 1\nx-two: 2\n",
        )
        .on("grpc"),
        by("gRPC: granted without more", 200, "empty"),
        by("gRPC: denied", 401, "deny"),
        by("gRPC: denied plainly", 403, "deny plainly"),
        by("gRPC: denied without a status", 403, "deny, no status"),
        by("gRPC: failed", 403, "fail"),
        post("gRPC: with its body", 401, "x-authz: deny\n", "hello").on("grpc"),
        get("gRPC: told by the route", 401, "/told", "x-authz: deny\n").on("grpc"),
        h2,
        get("gRPC: unreachable", 401, "/", "").on("unreachable"),
        get("gRPC: disabled", 200, "/", "").on("disabled"),
    ]
}
