//! HTTP filters: who may pass, what is broken on purpose, what browsers and clients are told.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, raw};

const FILTERS: &str = r#"          http_filters:
          - name: jwt
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                p:
                  issuer: https://issuer.test
                  audiences: [shop]
                  local_jwks: {inline_string: '{"keys":[{"kty":"oct","kid":"1","alg":"HS256","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}]}'}
                  forward_payload_header: x-payload
                  claim_to_headers:
                  - {header_name: x-sub, claim_name: sub}
                  - {header_name: x-list, claim_name: list}
                  - {header_name: x-groups, claim_name: groups}
                  - {header_name: x-object, claim_name: object}
                  - {header_name: x-none, claim_name: none}
                  - {header_name: x-empty, claim_name: empty}
                  - {header_name: x-inside, claim_name: in.side}
              rules:
              - {match: {prefix: /jwt}, requires: {provider_name: p}}
              - {match: {prefix: /any}, requires: {requires_any: {requirements: [{provider_name: p}, {allow_missing: {}}]}}}
          - name: rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: DENY
                policies:
                  "no entry":
                    permissions:
                    - {url_path: {path: {prefix: /deny}}}
                    - {header: {name: x-deny, string_match: {exact: "1"}}}
                    principals: [{any: true}]
              shadow_rules:
                policies:
                  shadow:
                    permissions: [{url_path: {path: {prefix: /shadow}}}]
                    principals: [{direct_remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}]
              shadow_rules_stat_prefix: dry_
          - name: fault
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
              delay: {header_delay: {}, percentage: {numerator: 100}}
              abort: {header_abort: {}, percentage: {numerator: 100}}
          - name: cors
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}
          - name: limit
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: limit}
"#;

const MANAGER: &str = r#"route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - match: {prefix: /limited}
      route: {cluster: a}
      typed_per_filter_config:
        limit:
          "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          stat_prefix: limit
          token_bucket: {max_tokens: 1, fill_interval: 3600s}
          filter_enabled: {default_value: {numerator: 100}}
          filter_enforced: {default_value: {numerator: 100}}
          response_headers_to_add: [{header: {key: x-limited, value: "yes"}}]
    - match: {prefix: /open}
      route: {cluster: a}
      typed_per_filter_config:
        rbac: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute}
    - match: {prefix: /tree}
      route: {cluster: a}
      typed_per_filter_config:
        rbac:
          "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute
          rbac:
            matcher:
              matcher_tree:
                input: {name: in, typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-tenant}}
                exact_match_map: {map: {blue: {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: blue, action: ALLOW}}}, "red,blue": {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: "red first", action: DENY}}}}}
              on_no_match:
                matcher:
                  matcher_list:
                    matchers:
                    - predicate: {single_predicate: {input: {name: in, typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: ":path"}}, value_match: {prefix: /tree/open}}}
                      on_match: {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: open, action: ALLOW}}}
            shadow_matcher:
              matcher_tree:
                input: {name: in, typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-tenant}}
                prefix_match_map: {map: {re: {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: shadow, action: ALLOW}}}}}
            shadow_rules_stat_prefix: dry_
    - match: {prefix: /from}
      route: {cluster: a}
      typed_per_filter_config:
        rbac:
          "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute
          rbac:
            matcher:
              matcher_tree:
                input: {name: in, typed_config: {"@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.SourceIPInput}}
                exact_match_map: {map: {192.0.2.7: {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: there, action: ALLOW}}}}}
    - match: {prefix: /broken}
      route: {cluster: a}
      typed_per_filter_config:
        fault:
          "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
          abort: {grpc_status: 14, percentage: {numerator: 100}}
    - match: {prefix: /cors}
      route: {cluster: a}
      typed_per_filter_config:
        cors: &cors
          "@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy
          allow_origin_string_match: [{exact: "https://a.test"}]
          allow_methods: GET,POST
          allow_headers: x-a
          expose_headers: x-b
          max_age: "10"
          allow_credentials: true
          forward_not_matching_preflights: false
    - match: {prefix: /closed}
      route: {cluster: closed}
      typed_per_filter_config:
        cors: *cors
    - {match: {prefix: /}, route: {cluster: a}}
"#;

/// `{"iss":"https://issuer.test","aud":"shop","sub":"me"}`, signed; the same from another issuer; expired in 1970.
const GOOD: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIn0.bFmqvmfZiGGNCjN_7g6AdDNuuNYJL-nrQbG-YLWp_x4";
const STRUCTURED: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIiwibGlzdCI6WyJ-fn4_Pz4iLCJhPGImYyIsIsOpIl0sImdyb3VwcyI6WyJkZWVwIiwiZXIiXSwib2JqZWN0Ijp7Im9uZSI6W3RydWUsbnVsbCwxLjUsMl19LCJub25lIjpbXSwiZW1wdHkiOnt9LCJpbiI6eyJzaWRlIjpbIngiXX19.CoJJSGeybfXSp1DTZYxYMJhxpDhDYn3gyBmGj67dfYE";
const FOREIGN: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL290aGVyLnRlc3QiLCJhdWQiOiJzaG9wIiwic3ViIjoibWUifQ.NckJmzI9ktr-eEKtT1Ne6pfuCQsluG79iuX4HTP7U08";
const EXPIRED: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci50ZXN0IiwiYXVkIjoic2hvcCIsInN1YiI6Im1lIiwiZXhwIjozfQ.tLC6Vr83NqVJx5_Hq2gdUjZEHs9RDV5tIf0bClt_OGo";

pub fn world() -> World {
    let clusters = [cluster("a", &["{{a}}"], ""), cluster("closed", &["{{closed}}"], "")];
    let listener = listener("http", MANAGER).replace("          http_filters:\n", FILTERS);
    World {
        name: "filters",
        yaml: bootstrap(&[listener], &clusters),
        cases: cases(),
        stats: &[
            "http.http.rbac",
            "http.http.fault",
            "http.http.cors",
            "limit.",
            "http.http.jwt_authn",
        ],
    }
}

fn bearer(name: &'static str, status: u16, path: &str, token: &str) -> Case {
    get(name, status, path, &format!("authorization: Bearer {token}\n"))
}

fn preflight(name: &'static str, status: u16, origin: &str) -> Case {
    let head =
        format!("OPTIONS /cors HTTP/1.1\nhost: parity.test\norigin: {origin}\naccess-control-request-method: GET\n\n");
    raw(name, status, &head)
}

fn cases() -> Vec<Case> {
    let grpc = "content-type: application/grpc\n";
    let good_in_query = format!("/jwt?a=1&access_token={GOOD}");
    vec![
        get("denied by path", 403, "/deny/x", ""),
        get("denied by one of two lines", 403, "/", "x-deny: 2\nx-deny: 1\n"),
        get("denied, to gRPC", 200, "/deny", grpc),
        raw("denied, to HEAD", 403, "HEAD /deny HTTP/1.1\nhost: parity.test\n\n"),
        get("not denied by its route", 200, "/open", "x-deny: 1\n"),
        get("allowed in the shadow", 200, "/shadow", ""),
        get("let in by a tree", 200, "/tree", "x-tenant: blue\n"),
        get("kept out by a tree", 403, "/tree", "x-tenant: red\nx-tenant: blue\n"),
        get(
            "let in where a tree has no match",
            200,
            "/tree/open",
            "x-tenant: green\n",
        ),
        get("kept out where a tree has no match", 403, "/tree", ""),
        get(
            "let in by whom a request is for",
            200,
            "/from",
            "x-forwarded-for: 192.0.2.7\n",
        ),
        get("kept out by whom a request is for", 403, "/from", ""),
        get("abort by header", 404, "/", "x-envoy-fault-abort-request: 404\n"),
        get(
            "gRPC abort by header",
            200,
            "/",
            "x-envoy-fault-abort-grpc-request: 5\n",
        ),
        get(
            "impossible abort by header",
            200,
            "/",
            "x-envoy-fault-abort-request: 999\n",
        ),
        get(
            "abort of none by header",
            200,
            "/",
            "x-envoy-fault-abort-request: 404\nx-envoy-fault-abort-request-percentage: 0\n",
        ),
        get("delay by header", 200, "/", "x-envoy-fault-delay-request: 20\n"),
        get("abort by its route", 200, "/broken", ""),
        get("abort by its route, to gRPC", 200, "/broken", grpc),
        get("cross-origin", 200, "/cors", "origin: https://a.test\n"),
        get("cross-origin from elsewhere", 200, "/cors", "origin: https://b.test\n"),
        get("cross-origin failure", 503, "/closed", "origin: https://a.test\n"),
        preflight("preflight", 200, "https://a.test"),
        preflight("preflight from elsewhere", 200, "https://b.test"),
        get("within the limit", 200, "/limited", ""),
        get("over the limit", 429, "/limited", ""),
        get("over the limit, to gRPC", 200, "/limited", grpc),
        get("no token", 401, "/jwt?a=b", ""),
        get("no token, to gRPC", 200, "/jwt", grpc),
        get("no token needed", 200, "/any", ""),
        bearer("good token", 200, "/jwt", GOOD),
        bearer("claims that are lists and objects", 200, "/jwt", STRUCTURED),
        get("good token in the query", 200, &good_in_query, ""),
        bearer("foreign token", 401, "/jwt", FOREIGN),
        bearer("foreign token where none is needed", 401, "/any", FOREIGN),
        bearer("expired token", 401, "/jwt", EXPIRED),
        bearer("no token at all", 401, "/jwt", "a.b.c"),
        bearer("bad signature", 401, "/jwt", &GOOD[..GOOD.len() - 1]),
    ]
}
