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
    - {name: never, match: {prefix: /never}, route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 0}}}
    - {name: unknown, match: {prefix: /unknown}, route: {cluster: a, retry_policy: {retry_on: "nonsense,retriable-4xx", retry_back_off: {base_interval: 0.001s}}}}
    - {name: requests, match: {prefix: /requests}, route: {cluster: a, retry_policy: {retry_on: 5xx, retriable_request_headers: [{name: x-may, present_match: true}], retry_back_off: {base_interval: 0.001s}}}}
    - {name: ratelimited, match: {prefix: /ratelimited}, route: {cluster: a, retry_policy: {retry_on: "5xx,envoy-ratelimited", retry_back_off: {base_interval: 0.001s}}}}
    - {name: limited, match: {prefix: /limited}, route: {cluster: a, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}, rate_limited_retry_back_off: {reset_headers: [{name: retry-after, format: SECONDS}], max_interval: 2s}}}}
    - {name: idle, match: {prefix: /idle}, route: {cluster: a, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_idle_timeout: 0.1s, retry_back_off: {base_interval: 0.001s}}}}
    - {name: unsent, match: {prefix: /unsent}, route: {cluster: closed, retry_policy: {retry_on: reset-before-request, retry_back_off: {base_interval: 0.001s}}}}
    - {name: sent, match: {prefix: /sent}, route: {cluster: a, retry_policy: {retry_on: reset-before-request, retry_back_off: {base_interval: 0.001s}}}}
    - {name: hedged, match: {prefix: /hedged}, route: {cluster: a, timeout: 5s, hedge_policy: {hedge_on_per_try_timeout: true}, retry_policy: {retry_on: 5xx, per_try_timeout: 0.1s, retry_back_off: {base_interval: 0.001s}}}}
    - {name: hedged-short, match: {prefix: /short}, route: {cluster: a, timeout: 0.3s, hedge_policy: {hedge_on_per_try_timeout: true}, retry_policy: {retry_on: 5xx, per_try_timeout: 0.1s, retry_back_off: {base_interval: 0.001s}}}}
    - {name: predicates, match: {prefix: /predicates}, route: {cluster: both, retry_policy: {retry_on: connect-failure, num_retries: 3, host_selection_retry_max_attempts: 5, retry_back_off: {base_interval: 0.001s}, retry_host_predicate: [{name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}}}
    - {name: grpc-all, match: {prefix: /rpc}, route: {cluster: h2, retry_policy: {retry_on: "cancelled,deadline-exceeded,internal,resource-exhausted", retry_back_off: {base_interval: 0.001s}}}}
    - {name: budget, match: {prefix: /budget}, route: {cluster: budget, retry_policy: {retry_on: 5xx, num_retries: 3, retry_back_off: {base_interval: 0.001s}}}}
    - {name: none, match: {prefix: /}, route: {cluster: a}}
  - name: by-host
    domains: [host.test]
    include_request_attempt_count: true
    include_is_timeout_retry_header: true
    retry_policy: {retry_on: 5xx, num_retries: 2, per_try_timeout: 0.1s, retry_back_off: {base_interval: 0.001s}}
    routes:
    - {name: own, match: {prefix: /own}, route: {cluster: a, retry_policy: {retry_on: retriable-4xx, retry_back_off: {base_interval: 0.001s}}}}
    - {name: inherited, match: {prefix: /}, route: {cluster: a}}
"#;

pub fn world() -> World {
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster("closed", &["{{closed}}"], ""),
        cluster("both", &["{{closed}}", "{{a}}"], ""),
        cluster(
            "budget",
            &["{{a}}"],
            "circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 0}, min_retry_concurrency: 0}}]}",
        ),
        cluster("h2", &["{{b}}"], super::HTTP2),
    ];
    World {
        name: "retries",
        yaml: bootstrap(&[listener("http", MANAGER)], &clusters),
        cases: cases(),
        stats: &[
            // Not `upstream_rq_pending_total`: Envoy closes the connection of an answer that is not passed on, and needs another.
            "cluster.a.upstream_rq_retry",
            "cluster.a.upstream_rq_2",
            "cluster.a.upstream_rq_4",
            "cluster.a.upstream_rq_5",
            "cluster.a.upstream_rq_completed",
            "cluster.a.upstream_rq_per",
            "cluster.a.upstream_rq_t",
            "cluster.a.retry",
            "cluster.closed.upstream_rq",
            "cluster.h2.upstream_rq_retry",
            "cluster.h2.upstream_rq_completed",
            "cluster.budget.upstream_rq_retry",
            "cluster.budget.retry",
        ],
    }
}

fn cases() -> Vec<Case> {
    let of_host = |name, status, path: &str, plan: &str| {
        let text = format!("GET {path} HTTP/1.1\nhost: host.test\nx-do: {plan}\n\n");
        raw(name, status, &text)
    };
    let grpc = |name, plan: &str| {
        let headers = format!("content-type: application/grpc\nx-do: {plan}\n");
        get(name, 200, "/rpc", &headers)
    };
    let more = vec![
        get("none allowed", 503, "/never", "x-do: status=503\n"),
        get(
            "none allowed, but asked for",
            200,
            "/never",
            "x-do: status=503|status=200\nx-envoy-max-retries: 1\n",
        ),
        get(
            "unknown conditions are ignored",
            200,
            "/unknown",
            "x-do: status=409|status=200\n",
        ),
        get("the unknown is no 5xx", 503, "/unknown", "x-do: status=503\n"),
        get(
            "a request that may",
            200,
            "/requests",
            "x-may: 1\nx-do: status=503|status=200\n",
        ),
        get(
            "a request that may not",
            503,
            "/requests",
            "x-do: status=503|status=200\n",
        ),
        get(
            "rate limited",
            200,
            "/ratelimited",
            "x-do: status=503,header=x-envoy-ratelimited:true|status=200\n",
        ),
        get(
            "rate limited is no 5xx",
            503,
            "/5xx",
            "x-do: status=503,header=x-envoy-ratelimited:true|status=200\n",
        ),
        get(
            "after as long as asked",
            200,
            "/limited",
            "x-do: status=503,header=retry-after:1|status=200\n",
        ),
        get(
            "after longer than allowed",
            200,
            "/limited",
            "x-do: status=503,header=retry-after:100|status=200\n",
        ),
        get("idle before an answer", 200, "/idle", "x-do: hang|status=200\n"),
        get("idle for every try", 504, "/idle", "x-do: hang\n"),
        get("before the request", 503, "/unsent", ""),
        get("after the request", 503, "/sent", "x-do: reset|status=200\n"),
        get(
            "hedged, the second wins",
            200,
            "/hedged",
            "x-do: delay=2000,header=x-from:first|header=x-from:second\n",
        ),
        get(
            "hedged, the first wins",
            200,
            "/hedged",
            "x-do: delay=400,header=x-from:first|delay=3000,header=x-from:second\n",
        ),
        get(
            "hedged, a bad one is not taken",
            200,
            "/hedged",
            "x-do: delay=500,header=x-from:first|status=503\n",
        ),
        get("hedged, none answers", 504, "/short", "x-do: hang\n"),
        get(
            "hedged by header",
            200,
            "/pertry",
            "x-envoy-hedge-on-per-try-timeout: true\nx-do: delay=400,header=x-from:first|delay=3000\n",
        ),
        get(
            "hedged, an answer in time",
            200,
            "/hedged",
            "x-do: header=x-from:first\n",
        ),
        get(
            "hedged, a bad answer in time",
            200,
            "/hedged",
            "x-do: status=503|status=200\n",
        ),
        grpc("gRPC cancelled", "grpc=1|grpc=0"),
        grpc("gRPC deadline exceeded", "grpc=4|grpc=0"),
        grpc("gRPC internal", "grpc=13|grpc=0"),
        grpc("gRPC resource exhausted", "grpc=8|grpc=0"),
        grpc("gRPC unavailable is another", "grpc=14|grpc=0"),
        get(
            "gRPC status by header",
            200,
            "/g",
            "x-do: status=200,header=grpc-status:14|status=200\nx-envoy-retry-grpc-on: unavailable\n",
        ),
        get("no budget", 503, "/budget", "x-do: status=503|status=200\n"),
        get(
            "codes by header",
            200,
            "/",
            "x-envoy-retry-on: retriable-status-codes\nx-envoy-retriable-status-codes: 418,419\nx-do: status=419|status=200\n",
        ),
        get(
            "header names by header",
            200,
            "/",
            "x-envoy-retry-on: retriable-headers\nx-envoy-retriable-header-names: x-again, x-more\nx-do: header=x-more:1|status=200\n",
        ),
        get(
            "per-try timeout by header",
            200,
            "/5xx",
            "x-envoy-upstream-rq-per-try-timeout-ms: 100\nx-do: hang|status=200\n",
        ),
        get(
            "a count that is none",
            200,
            "/5xx",
            "x-envoy-max-retries: many\nx-do: status=503|status=200\n",
        ),
        get(
            "a timeout over all tries",
            504,
            "/5xx",
            "x-envoy-upstream-rq-timeout-ms: 100\nx-do: hang\n",
        ),
        get(
            "no content for a timeout",
            204,
            "/",
            "x-envoy-upstream-rq-timeout-ms: 100\nx-envoy-upstream-rq-timeout-alt-response: 1\nx-do: hang\n",
        ),
        of_host("of the virtual host", 200, "/", "status=503|status=503|status=200"),
        of_host("of the virtual host, after a timeout", 200, "/", "hang|status=200"),
        of_host("of the virtual host, replaced", 503, "/own", "status=503|status=200"),
        of_host("of the virtual host, its own", 200, "/own", "status=409|status=200"),
    ];
    let mut cases = vec![
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
    ];
    cases.extend(more);
    cases
}
