//! What mirrors get, and what they leave behind.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, raw};

const MANAGER: &str = r#"
use_remote_address: true
internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}
route_config:
  name: routes
  validate_clusters: false
  request_mirror_policies: [{cluster: b, runtime_fraction: {default_value: {numerator: 0}}}]
  request_headers_to_add: [{header: {key: x-added, value: by-table}}]
  virtual_hosts:
  - name: host
    domains: [host.test]
    request_mirror_policies: [{cluster: b}]
    routes:
    - {match: {prefix: /inherit}, route: {cluster: a}}
    - {match: {prefix: /own}, route: {cluster: a, request_mirror_policies: [{cluster: b, disable_shadow_host_suffix_append: true}]}}
  - name: all
    domains: ["*"]
    routes:
    - {name: plain, match: {prefix: /plain}, route: {cluster: a, request_mirror_policies: [{cluster: b}]}}
    - {name: twice, match: {prefix: /twice}, route: {cluster: a, request_mirror_policies: [{cluster: b}, {cluster: h2}]}}
    - {name: suffix, match: {prefix: /suffix}, route: {cluster: a, request_mirror_policies: [{cluster: b, disable_shadow_host_suffix_append: true}]}}
    - {name: host, match: {prefix: /host}, route: {cluster: a, request_mirror_policies: [{cluster: b, host_rewrite_literal: mirror.test}]}}
    - {name: header, match: {prefix: /header}, route: {cluster: a, request_mirror_policies: [{cluster_header: x-mirror}]}}
    - {name: never, match: {prefix: /never}, route: {cluster: a, request_mirror_policies: [{cluster: b, runtime_fraction: {default_value: {numerator: 0}}}]}}
    - {name: always, match: {prefix: /always}, route: {cluster: a, request_mirror_policies: [{cluster: b, runtime_fraction: {default_value: {numerator: 1000000, denominator: MILLION}}}]}}
    - {name: gone, match: {prefix: /gone}, route: {cluster: a, request_mirror_policies: [{cluster: nowhere}]}}
    - {name: closed, match: {prefix: /closed}, route: {cluster: a, request_mirror_policies: [{cluster: closed}]}}
    - {name: rewrite, match: {prefix: /rewrite}, route: {cluster: a, prefix_rewrite: /new, host_rewrite_literal: new.test, request_mirror_policies: [{cluster: b}]}}
    - {name: retried, match: {prefix: /retried}, route: {cluster: a, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}}, request_mirror_policies: [{cluster: b}]}}
    - {name: short, match: {prefix: /short}, route: {cluster: a, timeout: 0s, request_mirror_policies: [{cluster: b}]}}
    - {name: table, match: {prefix: /table}, route: {cluster: a}}
"#;

pub fn world() -> World {
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster("b", &["{{b}}"], ""),
        cluster("closed", &["{{closed}}"], ""),
        cluster("h2", &["{{b}}"], super::HTTP2),
    ];
    World {
        name: "mirroring",
        yaml: bootstrap(&[listener("http", MANAGER)], &clusters),
        cases: cases(),
        stats: &[
            "cluster.a.upstream_rq",
            "cluster.b.upstream_rq",
            "cluster.b.internal",
            "cluster.b.external",
            "cluster.h2.upstream_rq",
            "cluster.closed.upstream_rq",
        ],
    }
}

fn cases() -> Vec<Case> {
    let host = |name, path: &str| {
        let text = format!("GET {path} HTTP/1.1\nhost: host.test\n\n");
        raw(name, 200, &text)
    };
    vec![
        get("plain", 200, "/plain?q=1", "x-own: 1\n").seen(1),
        raw("a port", 200, "GET /plain HTTP/1.1\nhost: parity.test:8080\n\n").seen(1),
        raw("an address", 200, "GET /plain HTTP/1.1\nhost: [::1]:80\n\n").seen(1),
        raw(
            "a body",
            200,
            "POST /plain HTTP/1.1\nhost: parity.test\ncontent-length: 5\n\nhello",
        )
        .seen(1),
        raw(
            "a chunked body",
            200,
            "POST /plain HTTP/1.1\nhost: parity.test\ntransfer-encoding: chunked\n\n3\nhel\n2\nlo\n0\n\n",
        )
        .seen(1),
        raw("head", 200, "HEAD /plain HTTP/1.1\nhost: parity.test\n\n").seen(1),
        get("twice", 200, "/twice", "").seen(2),
        raw(
            "twice, a body",
            200,
            "POST /twice HTTP/1.1\nhost: parity.test\ncontent-length: 5\n\nhello",
        )
        .seen(2),
        get("no suffix", 200, "/suffix", "").seen(1),
        get("another host", 200, "/host", "").seen(1),
        get("by header", 200, "/header", "x-mirror: b\n").seen(1),
        get("by a missing header", 200, "/header", ""),
        get("by header, unknown", 200, "/header", "x-mirror: none\n"),
        get("never", 200, "/never", ""),
        get("always", 200, "/always", "").seen(1),
        get("to a cluster that is not there", 200, "/gone", ""),
        get("to a closed port", 200, "/closed", ""),
        get("rewritten", 200, "/rewrite/x", "").seen(1),
        get("retried", 200, "/retried", "x-do: status=503|status=200\n").seen(1),
        get("an answer of 500", 500, "/plain", "x-do: status=500\n").seen(1),
        get("without a timeout", 200, "/short", "").seen(1),
        get("own timeout", 200, "/plain", "x-envoy-upstream-rq-timeout-ms: 4000\n").seen(1),
        get("of the table", 200, "/table", ""),
        host("of the virtual host", "/inherit").seen(1),
        host("of the route", "/own").seen(1),
    ]
}
