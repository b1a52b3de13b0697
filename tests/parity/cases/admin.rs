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
        admin(
            "hidden stats",
            200,
            "GET",
            "/stats?hidden=only&filter=^server.live$",
            all,
        ),
        admin(
            "no hidden stats",
            200,
            "GET",
            "/stats?hidden=exclude&filter=^server.live$",
            all,
        ),
        admin("hidden, no such word", 400, "GET", "/stats?hidden=x", all),
        admin(
            "no buckets",
            200,
            "GET",
            "/stats?histogram_buckets=none&filter=^cluster.a.upstream_rq_per_cx$",
            all,
        ),
        admin(
            "detailed buckets",
            200,
            "GET",
            "/stats?histogram_buckets=detailed&filter=^cluster.a.upstream_rq_per_cx$",
            all,
        ),
        admin("buckets, no such word", 400, "GET", "/stats?histogram_buckets=x", all),
        admin(
            "buckets of protobuf in text",
            400,
            "GET",
            "/stats?histogram_buckets=prometheusnative",
            all,
        ),
        admin(
            "disjoint buckets for Prometheus",
            400,
            "GET",
            "/stats/prometheus?histogram_buckets=disjoint",
            all,
        ),
        admin(
            "detailed buckets for Prometheus",
            400,
            "GET",
            "/stats/prometheus?histogram_buckets=detailed",
            all,
        ),
        admin(
            "buckets of protobuf for Prometheus",
            400,
            "GET",
            "/stats/prometheus?histogram_buckets=prometheusnative",
            all,
        ),
        admin(
            "quantiles for Prometheus",
            200,
            "GET",
            "/stats/prometheus?histogram_buckets=summary&filter=^cluster.a.upstream_rq_per_cx$",
            all,
        ),
        admin("stats of no such type", 400, "GET", "/stats?type=x", all),
        admin("stats in no such format", 400, "GET", "/stats?format=x", all),
        admin("look-ups", 200, "GET", "/stats/recentlookups", |line| {
            !line.starts_with("total")
        }),
        admin("look-ups wanted by GET", 405, "GET", "/stats/recentlookups/enable", all),
        admin("look-ups wanted", 200, "POST", "/stats/recentlookups/enable", all),
        admin("look-ups seen", 200, "GET", "/stats/recentlookups", |line| {
            line.ends_with("Lookup")
        }),
        admin("look-ups forgotten", 200, "POST", "/stats/recentlookups/clear", all),
        admin(
            "look-ups no longer wanted",
            200,
            "POST",
            "/stats/recentlookups/disable",
            all,
        ),
        admin("CPU profiler by GET", 405, "GET", "/cpuprofiler?enable=y", all),
        admin("CPU profiler", 400, "POST", "/cpuprofiler", all),
        admin("CPU profiler off", 200, "POST", "/cpuprofiler?enable=n", all),
        admin("heap profiler", 501, "POST", "/heapprofiler?enable=y", all),
        admin("allocation profiler", 400, "POST", "/allocprofiler", all),
        admin("a dump of nothing", 404, "GET", "/config_dump?resource=x", all),
        admin(
            "a dump that wants a mask",
            400,
            "GET",
            "/config_dump?resource=bootstrap",
            all,
        ),
        admin("all levels as they are", 200, "POST", "/logging?level=", none),
        admin("levels of no logger", 400, "POST", "/logging?paths=x", |line| {
            line.starts_with("error")
        }),
        admin("levels of a group", 400, "POST", "/logging?group=x:y", |line| {
            line.starts_with("error")
        }),
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
