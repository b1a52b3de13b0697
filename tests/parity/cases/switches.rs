//! What a connection manager or a route switches: filters, header names, tunnels, patience.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, Wire, World, get, raw};
use crate::tcp::Step::{Read, Send};

/// Two filters that answer everything, the second only where a route wants it.
const FILTERS: &str = r#"          http_filters:
          - name: open
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules: {action: DENY, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}
          - name: shut
            disabled: true
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
              abort: {http_status: 418, percentage: {numerator: 100}}
"#;

const SWITCHED: &str = r#"
route_config:
  name: routes
  typed_per_filter_config:
    open: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}
  virtual_hosts:
  - name: guarded
    domains: [guarded.test]
    typed_per_filter_config:
      open: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute, rbac: {rules: {action: DENY, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}}}}
    routes:
    - match: {prefix: /free}
      typed_per_filter_config:
        open: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}
      route: {cluster: a}
    - {match: {prefix: /}, route: {cluster: a}}
  - name: all
    domains: ["*"]
    routes:
    - match: {prefix: /teapot}
      typed_per_filter_config:
        shut: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {}}
      route: {cluster: a}
    - match: {prefix: /moved}
      typed_per_filter_config:
        shut: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: {http_status: 410, percentage: {numerator: 100}}}
      route: {cluster: a}
    - match: {prefix: /optional}
      typed_per_filter_config:
        other: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, is_optional: true, disabled: true}
      route: {cluster: a}
    - match: {prefix: /weighted}
      route:
        weighted_clusters:
          clusters:
          - name: a
            weight: 1
            typed_per_filter_config:
              shut: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {}}
    - {match: {prefix: /}, route: {cluster: a}}
"#;

const PLAIN: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /soon}, route: {cluster: a, idle_timeout: 0.2s, timeout: 0s}}
    - {match: {prefix: /late}, route: {cluster: a, idle_timeout: 0s, timeout: 0.6s}}
    - {match: {prefix: /to}, redirect: {path_rewrite: "/at/%REQ(x-where)%?m=%REQ(:METHOD)%"}}
    - {match: {prefix: /beside}, redirect: {path_rewrite: "at/%REQ(x-where)%"}}
    - {match: {prefix: /strip}, redirect: {host_redirect: h.test, path_rewrite: "/s%REQ(:PATH)%", strip_query: true}}
    - {match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: ok}}}
    - {match: {prefix: /}, route: {cluster: a}}
"#;

const TUNNELS: &str = r#"
access_log_options: {flush_log_on_tunnel_successfully_established: true}
upgrade_configs: [{upgrade_type: CONNECT}]
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - match: {connect_matcher: {}, headers: [{name: x-closed, present_match: true}]}
      route: {cluster: closed, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}
    - match: {connect_matcher: {}}
      route: {cluster: echo, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {allow_post: true}}]}
    - match: {prefix: /post}
      route: {cluster: echo, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {allow_post: true}}]}
    - {match: {prefix: /}, route: {cluster: a}}
"#;

/// A filter that has the route forgotten, before filters that the route configures.
const CLEARING: &str = r#"          http_filters:
          - name: clear
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config
              clear_route_cache: true
          - name: rbac
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC}
          - name: fault
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}
          - name: cors
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}
"#;

const CLEARED: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - match: {prefix: /denied}
      typed_per_filter_config: {rbac: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute, rbac: {rules: {}}}}
      route: {cluster: a}
    - match: {prefix: /teapot}
      typed_per_filter_config: {fault: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: {http_status: 418, percentage: {numerator: 100}}}}
      route: {cluster: a}
    - match: {prefix: /cors}
      typed_per_filter_config: {cors: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy, allow_origin_string_match: [{exact: "http://o.test"}]}}
      route: {cluster: a}
    - match: {prefix: /weighted}
      route:
        weighted_clusters:
          clusters:
          - name: a
            weight: 1
            typed_per_filter_config: {rbac: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute, rbac: {rules: {}}}}
    - {match: {prefix: /open}, route: {cluster: a}}
"#;

const PRESERVE: &str = r#"http_protocol_options: {header_key_format: {stateful_formatter: {name: preserve, typed_config: {"@type": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}}}"#;

pub fn world() -> World {
    let underscores =
        |action: &str| format!("common_http_protocol_options: {{headers_with_underscores_action: {action}}}\n{PLAIN}");
    let proper = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {http_protocol_options: {header_key_format: {proper_case_words: {}}}}";
    let proper_routes = "\nroute_config:\n  name: routes\n  virtual_hosts:\n  - {name: all, domains: [\"*\"], routes: [{match: {prefix: /}, route: {cluster: proper}}]}\n";
    let listeners = [
        listener("http", SWITCHED).replace("          http_filters:\n", FILTERS),
        listener("cleared", CLEARED).replace("          http_filters:\n", CLEARING),
        listener("plain", PLAIN),
        listener("drop", &underscores("DROP_HEADER")),
        listener("reject", &underscores("REJECT_REQUEST")),
        listener("tunnels", TUNNELS),
        listener("kept", &format!("{PRESERVE}\n{PLAIN}")),
        listener("proper", proper_routes),
    ];
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster("proper", &["{{a}}"], proper),
        cluster("echo", &["{{echo}}"], ""),
        cluster("closed", &["{{closed}}"], ""),
    ];
    World {
        name: "switches",
        yaml: bootstrap(&listeners, &clusters),
        cases: cases(),
        stats: &[
            "http1.",
            "http2.dropped",
            "http2.requests",
            "http.drop.downstream_rq",
            "http.reject.downstream_rq",
            "http.tunnels.downstream_cx_upgrades_total",
            "cluster.echo.upstream_cx_total",
            "cluster.echo.upstream_rq_total",
        ],
    }
}

fn h2(name: &'static str, status: u16, listener: &'static str, path: &'static str) -> Case {
    Case {
        name,
        listener,
        wire: Wire::Http2 {
            method: "GET",
            host: "parity.test",
            path,
            headers: vec![("x_y", "1"), ("x-z", "2")],
            body: b"",
            trailers: Vec::new(),
        },
        status,
        logs: 1,
        seen: 0,
    }
}

fn on_host(name: &'static str, status: u16, host: &str, path: &str) -> Case {
    raw(name, status, &format!("GET {path} HTTP/1.1\nhost: {host}\n\n"))
}

fn cases() -> Vec<Case> {
    vec![
        get("off for all routes", 200, "/x", ""),
        on_host("on again for a virtual host", 403, "guarded.test", "/x"),
        on_host("off again for a route", 200, "guarded.test", "/free"),
        get("on for a route", 418, "/teapot", ""),
        get("on by its configuration", 410, "/moved", ""),
        get("a filter that is not there", 200, "/optional", ""),
        get("on for an entry of a weighted cluster", 418, "/weighted", ""),
        get("a route that was forgotten still denies", 403, "/denied", "").on("cleared"),
        get("a route that was forgotten still aborts", 418, "/teapot", "").on("cleared"),
        get(
            "a route that was forgotten still has its origins",
            200,
            "/cors",
            "origin: http://o.test\n",
        )
        .on("cleared"),
        get(
            "an entry of a route that was forgotten still denies",
            403,
            "/weighted",
            "",
        )
        .on("cleared"),
        get("a route that was forgotten is found again", 200, "/open", "").on("cleared"),
        get("no route, and still none", 404, "/nowhere", "").on("cleared"),
        get("an underscore is dropped", 200, "/x", "x_y: 1\nx-z: 2\nx_y: 3\n").on("drop"),
        get("an underscore is refused", 400, "/x", "x_y: 1\n").on("reject"),
        get("no underscore", 200, "/x", "x-y: 1\n").on("reject"),
        h2("an underscore over HTTP/2 is dropped", 200, "drop", "/x"),
        get("a route's patience", 504, "/soon", "x-do: hang\n").on("plain"),
        get("a route's patience within an answer", 200, "/soon", "x-do: stall\n").on("plain"),
        get("a route without patience", 504, "/late", "x-do: hang\n").on("plain"),
        get("a formatted redirect", 301, "/to", "x-where: there\n").on("plain"),
        get(
            "a formatted redirect without its slash",
            301,
            "/beside?q",
            "x-where: there\n",
        )
        .on("plain"),
        get("a formatted redirect without its query", 301, "/strip?a=b", "").on("plain"),
        get(
            "names are kept",
            200,
            "/x",
            "X-MiXed: 1\nx-lower: 2\nX-Do: header=X-Back:1\n",
        )
        .on("kept"),
        get("names of our own answer", 200, "/direct", "X-MiXed: 1\n").on("kept"),
        get("names are proper", 200, "/x", "x-mixed_name: 1\n").on("proper"),
        Case {
            wire: Wire::Tcp(&[
                Send(b"CONNECT there:80 HTTP/1.1\r\nhost: there:80\r\nx-closed: 1\r\n\r\n"),
                Read(12),
            ]),
            status: 12,
            ..get("a tunnel to nowhere", 0, "/", "").on("tunnels")
        },
    ]
}
