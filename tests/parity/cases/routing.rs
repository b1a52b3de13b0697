//! Which virtual host, which route, which cluster; redirects, rewrites and direct responses.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, raw};

const MANAGER: &str = r#"
strip_matching_host_port: true
route_config:
  name: routes
  virtual_hosts:
  - name: exact
    domains: [exact.test, "exact.test:8080"]
    routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: exact}}}]
  - name: suffix
    domains: ["*.wild.test"]
    routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: suffix}}}]
  - name: longer-suffix
    domains: ["*.deep.wild.test"]
    routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: longer suffix}}}]
  - name: prefix
    domains: ["start.*"]
    routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: prefix}}}]
  - name: tls
    domains: [tls.test]
    require_tls: ALL
    routes: [{match: {prefix: /}, route: {cluster: a}}]
  - name: empty
    domains: [empty.test]
  - name: rest
    domains: ["*"]
    routes:
    - {name: path, match: {path: /exact}, direct_response: {status: 200, body: {inline_string: path}}}
    - {name: insensitive, match: {path: /Folded, case_sensitive: false}, direct_response: {status: 200, body: {inline_string: folded}}}
    - {name: regex, match: {safe_regex: {regex: "/r/[0-9]+"}}, direct_response: {status: 200, body: {inline_string: regex}}}
    - {name: separated, match: {path_separated_prefix: /sep}, direct_response: {status: 200, body: {inline_string: separated}}}
    - name: header-exact
      match: {prefix: /h, headers: [{name: x-kind, string_match: {exact: one}}]}
      direct_response: {status: 200, body: {inline_string: header exact}}
    - name: header-list
      match: {prefix: /h, headers: [{name: x-kind, string_match: {exact: "three,four"}}]}
      direct_response: {status: 200, body: {inline_string: header list}}
    - name: header-range
      match: {prefix: /h, headers: [{name: x-number, range_match: {start: 10, end: 20}}]}
      direct_response: {status: 200, body: {inline_string: header range}}
    - name: header-absent
      match: {prefix: /h, headers: [{name: x-kind, present_match: true, invert_match: true}]}
      direct_response: {status: 200, body: {inline_string: header absent}}
    - name: query
      match: {prefix: /q, query_parameters: [{name: debug, string_match: {exact: "1"}}]}
      direct_response: {status: 200, body: {inline_string: query}}
    - name: grpc
      match: {prefix: /g, grpc: {}}
      direct_response: {status: 200, body: {inline_string: grpc}}
    - {name: redirect-path, match: {path: /old}, redirect: {path_redirect: /new}}
    - {name: redirect-query, match: {path: /oldq}, redirect: {path_redirect: "/new?x=1"}}
    - {name: redirect-strip, match: {path: /olds}, redirect: {path_redirect: /new, strip_query: true}}
    - {name: redirect-bare, match: {prefix: /bare}, redirect: {path_redirect: "%PREFIX()%/new"}}
    - {name: redirect-bare-prefix, match: {prefix: /rb/}, redirect: {prefix_rewrite: moved/, strip_query: true}}
    - {name: redirect-nothing, match: {prefix: /rn/}, redirect: {prefix_rewrite: ""}}
    - {name: redirect-host, match: {prefix: /to/host}, redirect: {host_redirect: other.test, response_code: TEMPORARY_REDIRECT}}
    - {name: redirect-https, match: {prefix: /to/tls}, redirect: {https_redirect: true, port_redirect: 8443, response_code: FOUND}}
    - {name: redirect-prefix, match: {prefix: /rp/}, redirect: {prefix_rewrite: /moved/, response_code: SEE_OTHER}}
    - name: redirect-regex
      match: {prefix: /rr/}
      redirect: {regex_rewrite: {pattern: {regex: "^/rr/([a-z]+)"}, substitution: "/to/\\1"}, response_code: PERMANENT_REDIRECT}
    - {name: empty-direct, match: {path: /empty}, direct_response: {status: 204}}
    - {name: forbidden, match: {path: /forbidden}, direct_response: {status: 403, body: {inline_string: "no\n"}}}
    - {name: rewrite, match: {prefix: /strip/}, route: {cluster: a, prefix_rewrite: /}}
    - name: rewrite-regex
      match: {prefix: /rx/}
      route: {cluster: a, regex_rewrite: {pattern: {regex: "/rx/(\\w+)/(\\w+)"}, substitution: "/\\2/\\1"}}
    - {name: host-literal, match: {prefix: /hl}, route: {cluster: a, host_rewrite_literal: literal.test}}
    - {name: host-header, match: {prefix: /hh}, route: {cluster: a, host_rewrite_header: x-host}}
    - {name: host-path, match: {prefix: /hp}, route: {cluster: a, host_rewrite_path_regex: {pattern: {regex: "^/hp/(.+)$"}, substitution: "\\1.test"}}}
    - {name: cluster-header, match: {prefix: /ch}, route: {cluster_header: x-cluster}}
    - name: weighted
      match: {prefix: /w}
      route:
        weighted_clusters:
          header_name: x-random
          clusters: [{name: a, weight: 25}, {name: b, weight: 75, request_headers_to_add: [{header: {key: x-chosen, value: b}}]}]
    - {name: gone, match: {prefix: /gone}, route: {cluster: nowhere}}
    - {name: gone-404, match: {prefix: /lost}, route: {cluster: nowhere, cluster_not_found_response_code: NOT_FOUND}}
    - {name: fallback, match: {prefix: /fall}, route: {cluster: a}}
  validate_clusters: false
"#;

pub fn world() -> World {
    World {
        name: "routing",
        yaml: bootstrap(
            &[listener("http", MANAGER)],
            &[cluster("a", &["{{a}}"], ""), cluster("b", &["{{b}}"], "")],
        ),
        cases: cases(),
        stats: &[
            "http.http.downstream_rq",
            "http.http.no_",
            "http.http.rq_",
            "cluster.a.upstream_rq",
            "cluster.b.upstream_rq",
        ],
    }
}

fn host(name: &'static str, status: u16, host: &str) -> Case {
    raw(name, status, &format!("GET /exact HTTP/1.1\nhost: {host}\n\n"))
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        host("exact host", 200, "exact.test"),
        host("host in capitals", 200, "EXACT.test"),
        host("host with a port", 200, "exact.test:8080"),
        host("host with another port", 200, "exact.test:81"),
        host("wildcard host", 200, "a.wild.test"),
        host("longest wildcard wins", 200, "a.deep.wild.test"),
        host("wildcard needs a label", 200, ".wild.test"),
        host("host by prefix", 200, "start.anything"),
        host("any host", 200, "unknown.test"),
        host("host that requires TLS", 301, "tls.test"),
        host("virtual host without routes", 404, "empty.test"),
        host("trailing dot", 200, "exact.test."),
    ];
    cases.extend([
        get("path", 200, "/exact", ""),
        get("path with a query", 200, "/exact?a=b", ""),
        get("path is whole", 404, "/exact/", ""),
        get("case folded", 200, "/fOLDED", ""),
        get("regex", 200, "/r/42", ""),
        get("regex is whole", 404, "/r/42a", ""),
        get("separated prefix", 200, "/sep", ""),
        get("separated prefix, below", 200, "/sep/x", ""),
        get("separated prefix, not", 404, "/separate", ""),
        get("header exact", 200, "/h", "x-kind: one\n"),
        get("header exact, twice", 200, "/h", "x-kind: one\nx-kind: two\n"),
        get("header exact, as a list", 404, "/h", "x-kind: three\nx-kind: four\n"),
        get("header range", 200, "/h", "x-number: 19\n"),
        get("header range ends before", 200, "/h", "x-number: 20\n"),
        get("header absent", 200, "/h", ""),
        get("header of another value", 404, "/h", "x-kind: three\n"),
        get("query", 200, "/q?debug=1", ""),
        get("query, last of two", 404, "/q?debug=2&debug=1", ""),
        get("grpc route", 200, "/g", "content-type: application/grpc+proto\n"),
        get("grpc with parameters", 404, "/g", "content-type: application/grpc; x\n"),
        get(
            "two types",
            404,
            "/g",
            "content-type: application/grpc\ncontent-type: application/grpc\n",
        ),
        get("no grpc", 404, "/g", "content-type: application/json\n"),
        get("redirect to a path", 301, "/old?a=b", ""),
        get("redirect to a path with a query", 301, "/oldq?a=b", ""),
        get("redirect without query", 301, "/olds?a=b", ""),
        get("redirect to a host", 307, "/to/host/x?y=z", ""),
        get("redirect to https with a port", 302, "/to/tls/x", ""),
        get("redirect with a prefix", 303, "/rp/x/y?q", ""),
        get("redirect to a path without its slash", 301, "/bare/x?q", ""),
        get("redirect with an empty prefix", 301, "/rn/x?q", ""),
        get("redirect with a prefix without its slash", 301, "/rb/x?q", ""),
        get("redirect with a regex", 308, "/rr/abc/d?q", ""),
        get("empty direct response", 204, "/empty", ""),
        get("direct response with a body", 403, "/forbidden", ""),
        raw(
            "direct response to HEAD",
            403,
            "HEAD /forbidden HTTP/1.1\nhost: parity.test\n\n",
        ),
        get("prefix rewrite", 200, "/strip/a/b?c", ""),
        get("regex rewrite", 200, "/rx/one/two?c", ""),
        get("host rewrite", 200, "/hl", ""),
        get("host rewrite from a header", 200, "/hh", "x-host: from.test\n"),
        get("host rewrite from a missing header", 200, "/hh", ""),
        get("host rewrite from the path", 200, "/hp/made?x", ""),
        get("cluster by header", 200, "/ch", "x-cluster: b\n"),
        get(
            "cluster by header, the first",
            200,
            "/ch",
            "x-cluster: b\nx-cluster: none\n",
        ),
        get("cluster by header, a list", 503, "/ch", "x-cluster: b,none\n"),
        get("cluster by a missing header", 503, "/ch", ""),
        get("cluster by header, unknown", 503, "/ch", "x-cluster: none\n"),
        get("weighted, low", 200, "/w", "x-random: 24\n"),
        get("weighted, high", 200, "/w", "x-random: 25\n"),
        get("weighted, beyond", 200, "/w", "x-random: 124\n"),
        get("cluster that is not there", 503, "/gone", ""),
        get("cluster that is not there, as 404", 404, "/lost", ""),
        get("forwarded", 200, "/fall", ""),
        get("no route", 404, "/none", ""),
    ]);
    cases
}
