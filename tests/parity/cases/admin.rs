//! The admin server's pages, where they are for programs to read.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, admin, get};

const MANAGER: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /refused}, route: {cluster: refused}}
    - {match: {prefix: /}, route: {cluster: a}}
"#;

/// A host that nobody listens on, where names would be resolved.
const REFUSED: &str = r#"  - name: refused
    type: STRICT_DNS
    connect_timeout: 1s
    load_assignment:
      cluster_name: refused
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{closed}}}}}}]}]
"#;

pub fn world() -> World {
    let clusters = [
        cluster("a", &["{{a}}"], "outlier_detection: {}"),
        cluster(
            "b",
            &["{{b}}"],
            "circuit_breakers: {thresholds: [{max_connections: 7, max_requests: 9}]}",
        ),
        REFUSED.to_owned(),
    ];
    World {
        name: "admin",
        yaml: bootstrap(&[listener("http", MANAGER)], &clusters),
        cases: cases(),
        stats: &[],
    }
}

fn all(_: &str) -> bool {
    true
}

fn none(_: &str) -> bool {
    false
}

fn cases() -> Vec<Case> {
    vec![
        get("one request", 200, "/", ""),
        get("another", 503, "/", "x-do: status=503\n"),
        get("refused", 503, "/refused", ""),
        admin("a host that refused", 200, "GET", "/clusters", |line| {
            line.starts_with("refused::")
        }),
        admin("ready", 200, "GET", "/ready", all),
        admin("listeners", 200, "GET", "/listeners", all),
        admin("clusters", 200, "GET", "/clusters", |line| !line.contains("::cx_")),
        admin("unknown page", 404, "GET", "/nothing", none),
        admin("a page that wants POST", 405, "GET", "/quitquitquit", all),
        admin(
            "one stat",
            200,
            "GET",
            "/stats?filter=^cluster.a.upstream_rq_total$",
            all,
        ),
        admin(
            "stats as JSON",
            200,
            "GET",
            "/stats?format=json&filter=^http.http.downstream_rq_(2xx|5xx|total)$",
            all,
        ),
        admin("a filter that is no regex", 400, "GET", "/stats?filter=(", none),
        admin(
            "stats for Prometheus",
            200,
            "GET",
            "/stats/prometheus?usedonly&filter=upstream_rq_total|downstream_rq_xx",
            |line| {
                line.contains("envoy_cluster_upstream_rq_total") || line.contains("envoy_http_downstream_rq_xx{envoy_response_code_class=\"5\",envoy_http_conn_manager_prefix=\"http\"}")
            },
        ),
        admin("hot restart", 200, "GET", "/hot_restart_version", none),
        admin("logging", 200, "POST", "/logging?level=error", none),
        admin("logging, no such level", 400, "POST", "/logging?level=loud", none),
        admin("fail", 200, "POST", "/healthcheck/fail", all),
        admin("not ready", 503, "GET", "/ready", all),
        admin("ok", 200, "POST", "/healthcheck/ok", all),
        admin("ready again", 200, "GET", "/ready", all),
        admin("reset", 200, "POST", "/reset_counters", all),
        admin(
            "after the reset",
            200,
            "GET",
            "/stats?filter=^cluster.a.upstream_rq_total$",
            all,
        ),
        admin("drain", 200, "POST", "/drain_listeners?inboundonly", all),
    ]
}
