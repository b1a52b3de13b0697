//! What the proxy answers when the upstream does not, and how it says so.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, raw};

const MANAGER: &str = r#"
use_remote_address: true
internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: closed, match: {prefix: /closed}, route: {cluster: closed}}
    - {name: empty, match: {prefix: /empty}, route: {cluster: empty}}
    - {name: full, match: {prefix: /full}, route: {cluster: full}}
    - {name: short, match: {prefix: /short}, route: {cluster: a, timeout: 0.1s}}
    - {name: h2, match: {prefix: /h2}, route: {cluster: h2, timeout: 0.3s}}
    - {name: bounded, match: {prefix: /bounded}, route: {cluster: a, timeout: 0.05s, max_stream_duration: {max_stream_duration: 0.2s}}}
    - {name: deadline, match: {prefix: /deadline}, route: {cluster: a, timeout: 0.05s, max_stream_duration: {grpc_timeout_header_max: 0s}}}
    - {name: told, match: {prefix: /told}, route: {cluster: a, max_stream_duration: {grpc_timeout_header_max: 5s, grpc_timeout_header_offset: 0.5s}}}
    - {name: told by the older fields, match: {prefix: /older}, route: {cluster: a, max_grpc_timeout: 5s, grpc_timeout_offset: 0.25s}}
    - {name: unlimited, match: {prefix: /unlimited}, route: {cluster: a, timeout: 0s, max_grpc_timeout: 0s}}
    - {name: nowhere, match: {prefix: /nowhere}, non_forwarding_action: {}}
    - {name: all, match: {prefix: /}, route: {cluster: a}}
"#;

/// The client's address must be in a header.
pub(super) const DETECTS: &str = r#"
original_ip_detection_extensions:
- name: header
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig
    header_name: x-address
    reject_with_status: {code: Unauthorized}
"#;

fn routes() -> &'static str {
    MANAGER.split_at(MANAGER.find("route_config:").unwrap()).1
}

const FULL: &str = "circuit_breakers: {thresholds: [{max_pending_requests: 0, max_requests: 0, max_connections: 0}]}";

pub fn world() -> World {
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster("closed", &["{{closed}}"], ""),
        cluster("empty", &[], ""),
        cluster("full", &["{{a}}"], FULL),
        cluster("h2", &["{{a}}"], super::HTTP2),
    ];
    World {
        name: "failures",
        yaml: bootstrap(
            &[
                listener("http", MANAGER),
                listener("detects", &format!("{DETECTS}{}", routes())),
            ],
            &clusters,
        ),
        cases: cases(),
        stats: &[
            "http.http.downstream_rq",
            "cluster.a.upstream_rq",
            "cluster.closed.upstream",
            "cluster.empty.upstream",
            "cluster.full.upstream",
            "cluster.h2.upstream_rq",
        ],
    }
}

fn grpc(name: &'static str, path: &str, plan: &str) -> Case {
    get(name, 200, path, &format!("content-type: application/grpc\n{plan}"))
}

fn cases() -> Vec<Case> {
    vec![
        get("an address that is not told", 401, "/", "").on("detects"),
        get("an address that is none", 401, "/", "x-address: nobody\n").on("detects"),
        get("an address", 200, "/", "x-address: 192.0.2.1\n").on("detects"),
        get("a route that leads nowhere", 503, "/nowhere", ""),
        get("connection refused", 503, "/closed", ""),
        raw(
            "connection refused, to HEAD",
            503,
            "HEAD /closed HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw(
            "connection refused, with a body",
            503,
            "POST /closed HTTP/1.1\nhost: parity.test\ncontent-length: 3\n\nabc",
        ),
        get("no host", 503, "/empty", ""),
        get("breaker open", 503, "/full", ""),
        get("timeout", 504, "/short", "x-do: hang\n"),
        get(
            "timeout by header",
            504,
            "/",
            "x-do: hang\nx-envoy-upstream-rq-timeout-ms: 100\n",
        ),
        get("timeout within the body", 200, "/short", "x-do: stall\n"),
        get("a stream as long as it may be", 504, "/bounded", "x-do: hang\n"),
        get(
            "a stream as long as it may be, within the body",
            200,
            "/bounded",
            "x-do: stall\n",
        ),
        get("closed before the answer", 503, "/", "x-do: reset\n"),
        get("cut within the body", 200, "/", "x-do: cut\n"),
        get("garbage from upstream", 502, "/", "x-do: raw=nonsense\\n\\n\n"),
        get(
            "both lengths from upstream",
            502,
            "/",
            "x-do: raw=HTTP/1.1 200 OK\\ncontent-length: 1\\ntransfer-encoding: chunked\\n\\n0\\n\\n\n",
        ),
        get("5xx passes", 500, "/", "x-do: status=500\n"),
        get("599 passes", 599, "/", "x-do: status=599\n"),
        grpc("gRPC: connection refused", "/closed", ""),
        grpc("gRPC: no host", "/empty", ""),
        grpc("gRPC: breaker open", "/full", ""),
        grpc("gRPC: timeout", "/short", "x-do: hang\n"),
        grpc(
            "gRPC: its own deadline",
            "/deadline",
            "x-do: hang\ngrpc-timeout: 200m\n",
        ),
        grpc("gRPC: no time at all", "/deadline", "x-do: hang\ngrpc-timeout: 0S\n"),
        get("no time at all", 504, "/deadline", "x-do: hang\ngrpc-timeout: 0S\n"),
        grpc("gRPC: the deadline that is told", "/told", "grpc-timeout: 1S\n"),
        grpc("gRPC: the longest that is told", "/told", "grpc-timeout: 1H\n"),
        grpc("gRPC: no deadline to tell", "/told", ""),
        grpc(
            "gRPC: the deadline that is told, older fields",
            "/older",
            "grpc-timeout: 10S\n",
        ),
        grpc("gRPC: none, older fields", "/older", ""),
        grpc("gRPC: no limit and no deadline", "/unlimited", ""),
        grpc("gRPC: no limit and a deadline", "/unlimited", "grpc-timeout: 1S\n"),
        get(
            "no call has no deadline, older fields",
            200,
            "/older",
            "grpc-timeout: 10S\n",
        ),
        grpc("gRPC: closed", "/", "x-do: reset\n"),
        get("HTTP/2 upstream", 200, "/h2", ""),
        get("HTTP/2 upstream, 404", 404, "/h2", "x-do: status=404\n"),
        get("HTTP/2 upstream, refused stream", 503, "/h2", "x-do: reset\n"),
        get("HTTP/2 upstream, cut", 503, "/h2", "x-do: cut\n"),
        get("HTTP/2 upstream, timeout", 504, "/h2", "x-do: hang\n"),
        get("HTTP/2 upstream, trailers", 200, "/h2", "x-do: trailer\n"),
    ]
}
