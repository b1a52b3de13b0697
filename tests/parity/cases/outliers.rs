//! Which answers outlier detection counts, and how: gRPC statuses, and what happens when nobody more may be ejected.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, Wire, World, admin, get};

const MANAGER: &str = r#"
codec_type: AUTO
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: grpc, match: {prefix: /grpc}, route: {cluster: grpc}}
    - {name: grpc1, match: {prefix: /one}, route: {cluster: grpc1}}
    - {name: capped, match: {prefix: /capped}, route: {cluster: capped}}
    - {name: degraded, match: {prefix: /degraded}, route: {cluster: degraded}}
    - {name: retried, match: {prefix: /retried}, route: {cluster: retried, retry_policy: {retry_on: retriable-4xx, num_retries: 2, retry_back_off: {base_interval: 0.001s}}}}
    - {name: told, match: {prefix: /told}, route: {cluster: told}}
    - {name: told grpc, match: {prefix: /rpc}, route: {cluster: told grpc}}
    - {name: full, match: {prefix: /full}, route: {cluster: full}}
    - {name: followed, match: {prefix: /followed}, route: {cluster: followed, internal_redirect_policy: {}}}
"#;

pub fn world() -> World {
    let alone = "common_lb_config: {healthy_panic_threshold: {value: 0}}\noutlier_detection: {consecutive_5xx: 2, \
                 max_ejection_percent: 100, base_ejection_time: 300s, interval: 300s}\n";
    let clusters = [
        cluster("grpc", &["{{b}}"], &format!("{alone}{}", super::HTTP2)),
        cluster("grpc1", &["{{a}}"], alone),
        // Of one host, ten percent is nobody.
        cluster("capped", &["{{a}}"], "outlier_detection: {interval: 300s}"),
        // Neither the cap nor chance is asked.
        cluster(
            "degraded",
            &["{{a}}"],
            "outlier_detection: {detect_degraded_hosts: true, max_ejection_percent: 0, interval: 300s}",
        ),
        cluster(
            "told",
            &["{{a}}"],
            &format!("{alone}{}", errors("http_protocol_options: {}")),
        ),
        cluster(
            "told grpc",
            &["{{b}}"],
            &format!("{alone}{}", errors("http2_protocol_options: {}")),
        ),
        cluster("retried", &["{{a}}"], ""),
        cluster("followed", &["{{a}}"], ""),
        cluster(
            "full",
            &["{{a}}"],
            "circuit_breakers: {thresholds: [{max_requests: 0}]}",
        ),
    ];
    World {
        name: "outliers",
        yaml: bootstrap(&[listener("http", MANAGER)], &clusters),
        cases: cases(),
        stats: &[
            "cluster.grpc.outlier",
            "cluster.grpc1.outlier",
            "cluster.capped.outlier",
            "cluster.told.outlier",
            "cluster.told grpc.outlier",
            "cluster.degraded.outlier",
            "cluster.degraded.membership",
            "cluster.full.upstream_rq_active_overflow",
            "cluster.full.upstream_rq_pending_overflow",
        ],
    }
}

/// 429 is an error, and so is what says so itself; nothing else is.
fn errors(protocol: &str) -> String {
    format!(
        r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {{{protocol}}}
    outlier_detection: {{error_matcher: {{or_match: {{rules: [{{http_response_headers_match: {{headers: [{{name: ":status", string_match: {{exact: "429"}}}}]}}}}, {{http_response_headers_match: {{headers: [{{name: x-bad, present_match: true}}]}}}}]}}}}}}"#
    )
}

/// A gRPC call; the body is one empty message.
fn call(name: &'static str, status: u16, path: &'static str, plan: &'static str) -> Case {
    let headers = vec![("content-type", "application/grpc"), ("te", "trailers"), ("x-do", plan)];
    let wire = Wire::Http2 {
        method: "POST",
        host: "parity.test",
        path,
        headers,
        body: b"\0\0\0\0\0",
        trailers: Vec::new(),
    };
    Case {
        name,
        listener: "http",
        wire,
        status,
        logs: 1,
        seen: 0,
    }
}

/// What `/clusters` says of how the hosts are.
fn hosts(name: &'static str) -> Case {
    admin(name, 200, "GET", "/clusters", |line| {
        line.contains("::127")
            && ["health_flags", "rq_success", "rq_error", "rq_pending_active"]
                .iter()
                .any(|field| line.contains(field))
    })
}

fn cases() -> Vec<Case> {
    let unavailable = "header=grpc-status:14";
    let mut cases = vec![
        call("a good status in trailers", 200, "/grpc", "grpc=0"),
        call("a caller's error in trailers", 200, "/grpc", "grpc=5"),
        // Counts for the host, not for ejection.
        call("an error in trailers", 200, "/grpc", "grpc=14"),
        call("another error in trailers", 200, "/grpc", "grpc=13"),
        call("no status", 200, "/grpc", "status=200"),
        hosts("trailers: the hosts"),
        call("an error in the head", 200, "/one", unavailable),
        call("an error in the head again", 200, "/one", unavailable),
        hosts("the head: the hosts"),
        call("nobody left", 200, "/one", "status=200"),
    ];
    for name in ["capped 1", "capped 2", "capped 3", "capped 4", "capped 5"] {
        cases.push(get(name, 503, "/capped", "x-do: status=503\n"));
    }
    cases.push(hosts("capped: the hosts"));
    let degraded = "x-do: header=x-envoy-degraded:1";
    cases.push(get(
        "degraded, but a failure",
        503,
        "/degraded",
        &format!("{degraded},status=503\n"),
    ));
    cases.push(hosts("degraded, but a failure: the hosts"));
    cases.push(get("degraded", 404, "/degraded", &format!("{degraded},status=404\n")));
    cases.push(get("degraded again", 200, "/degraded", &format!("{degraded}\n")));
    // Each answer that another attempt replaces is a failure of its host, the last one is what it is.
    cases.push(get("retried to the end", 409, "/retried", "x-do: status=409\n"));
    cases.push(get(
        "followed",
        302,
        "/followed",
        "x-do: status=302,header=location:http://parity.test/retried\n",
    ));
    cases.push(hosts("degraded, retried and followed: the hosts"));
    for (name, status, told) in [
        ("an error that is none 1", 503, "status=503"),
        ("an error that is none 2", 503, "status=503"),
        ("an error that is none 3", 503, "status=503"),
        ("too many 1", 429, "status=429"),
        ("it is well in between", 503, "status=503"),
        ("too many 2", 429, "status=429"),
        ("says that it is bad", 200, "header=x-bad:1"),
        ("bad enough", 503, ""),
    ] {
        cases.push(get(name, status, "/told", &format!("x-do: {told}\n")));
    }
    cases.push(hosts("told: the hosts"));
    cases.push(call(
        "of gRPC, well but bad 1",
        200,
        "/rpc",
        "header=x-bad:1,header=grpc-status:0",
    ));
    cases.push(call(
        "of gRPC, well but bad 2",
        200,
        "/rpc",
        "header=x-bad:1,header=grpc-status:0",
    ));
    cases.push(call("of gRPC, ill but not bad 1", 200, "/rpc", unavailable));
    cases.push(call("of gRPC, ill but not bad 2", 200, "/rpc", unavailable));
    cases.push(hosts("told of gRPC: the hosts"));
    cases.push(get("no request more", 503, "/full", ""));
    cases
}
