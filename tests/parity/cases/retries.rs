//! When a request is sent again, how often, and what is left of it.

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
    include_request_attempt_count: true
    include_attempt_count_in_response: true
    routes:
    - {name: 5xx, match: {prefix: /5xx}, route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 2, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}}}
    - {name: gateway, match: {prefix: /gateway}, route: {cluster: a, retry_policy: {retry_on: gateway-error, retry_back_off: {base_interval: 0.001s}}}}
    - {name: reset, match: {prefix: /reset}, route: {cluster: a, retry_policy: {retry_on: reset, retry_back_off: {base_interval: 0.001s}}}}
    - {name: codes, match: {prefix: /codes}, route: {cluster: a, retry_policy: {retry_on: retriable-status-codes, retriable_status_codes: [418], retry_back_off: {base_interval: 0.001s}}}}
    - {name: headers, match: {prefix: /headers}, route: {cluster: a, retry_policy: {retry_on: retriable-headers, retriable_headers: [{name: x-again, present_match: true}], retry_back_off: {base_interval: 0.001s}}}}
    - {name: pertry, match: {prefix: /pertry}, route: {cluster: a, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.1s, retry_back_off: {base_interval: 0.001s}}}}
    - {name: connect, match: {prefix: /connect}, route: {cluster: closed, retry_policy: {retry_on: connect-failure, num_retries: 2, retry_back_off: {base_interval: 0.001s}}}}
    - {name: refused, match: {prefix: /refused}, route: {cluster: h2, retry_policy: {retry_on: refused-stream, retry_back_off: {base_interval: 0.001s}}}}
    - {name: grpc, match: {prefix: /grpc}, route: {cluster: h2, retry_policy: {retry_on: unavailable, retry_back_off: {base_interval: 0.001s}}}}
    - {name: none, match: {prefix: /}, route: {cluster: a}}
"#;

pub fn world() -> World {
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster("closed", &["{{closed}}"], ""),
        cluster("h2", &["{{b}}"], super::HTTP2),
    ];
    World {
        name: "retries",
        yaml: bootstrap(&[listener("http", MANAGER)], &clusters),
        cases: cases(),
        stats: &[
            "cluster.a.upstream_rq",
            "cluster.a.retry",
            "cluster.closed.upstream_rq",
            "cluster.h2.upstream_rq",
        ],
    }
}

fn cases() -> Vec<Case> {
    vec![
        get("no policy", 503, "/", "x-do: status=503|status=200\n"),
        get("once", 200, "/5xx", "x-do: status=503|status=200\n"),
        get("twice", 200, "/5xx", "x-do: status=503|status=500|status=200\n"),
        get("too often", 503, "/5xx", "x-do: status=503\n"),
        get("not for 404", 404, "/5xx", "x-do: status=404|status=200\n"),
        get("after a reset", 200, "/5xx", "x-do: reset|status=200\n"),
        raw(
            "with a body",
            200,
            "POST /5xx HTTP/1.1\nhost: parity.test\nx-do: status=503|status=200\ncontent-length: 5\n\nhello",
        ),
        get("gateway errors", 200, "/gateway", "x-do: status=502|status=200\n"),
        get(
            "500 is no gateway error",
            500,
            "/gateway",
            "x-do: status=500|status=200\n",
        ),
        get("reset", 200, "/reset", "x-do: reset|status=200\n"),
        get("reset is no status", 503, "/reset", "x-do: status=503|status=200\n"),
        get("a code of the list", 200, "/codes", "x-do: status=418|status=200\n"),
        get("a code beside the list", 503, "/codes", "x-do: status=503|status=200\n"),
        get(
            "a header",
            201,
            "/headers",
            "x-do: header=x-again:1|status=201,header=x-done:1\n",
        ),
        get("time for one try", 200, "/pertry", "x-do: hang|status=200\n"),
        get("time for every try", 504, "/pertry", "x-do: hang\n"),
        get("connect failure", 503, "/connect", ""),
        get("refused stream", 200, "/refused", "x-do: reset|status=200\n"),
        get(
            "policy by header",
            200,
            "/",
            "x-do: status=503|status=200\nx-envoy-retry-on: 5xx\n",
        ),
        get(
            "policy by header, more often",
            200,
            "/",
            "x-do: status=503|status=503|status=503|status=200\nx-envoy-retry-on: 5xx\nx-envoy-max-retries: 3\n",
        ),
        get(
            "policy by header, codes",
            200,
            "/",
            "x-do: status=409|status=200\nx-envoy-retry-on: retriable-4xx\n",
        ),
        get(
            "gRPC status",
            200,
            "/grpc",
            "content-type: application/grpc\nx-do: grpc=14|grpc=0\n",
        ),
        get(
            "gRPC status of another kind",
            200,
            "/grpc",
            "content-type: application/grpc\nx-do: grpc=5|grpc=0\n",
        ),
    ]
}
