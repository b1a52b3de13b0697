//! Redirects that are followed inside the proxy.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, raw};

const MANAGER: &str = r#"
use_remote_address: true
internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}
route_config:
  name: routes
  virtual_hosts:
  - name: next
    domains: [next.test, "next.test:8080"]
    routes:
    - {name: again, match: {prefix: /again}, route: {cluster: a, internal_redirect_policy: {max_internal_redirects: 2}}}
    - {name: only, match: {path: /only}, route: {cluster: b}}
    - {name: direct, match: {path: /direct}, direct_response: {status: 200, body: {inline_string: direct}}}
    - {name: target, match: {prefix: /there}, request_headers_to_add: [{header: {key: x-step, value: two}}], route: {cluster: b}}
  - name: all
    domains: ["*"]
    routes:
    - {name: plain, match: {prefix: /plain}, request_headers_to_add: [{header: {key: x-step, value: one}}], route: {cluster: a, internal_redirect_policy: {}}}
    - {name: codes, match: {prefix: /codes}, route: {cluster: a, internal_redirect_policy: {redirect_response_codes: [301, 303, 307, 308, 404]}}}
    - {name: none, match: {prefix: /none}, route: {cluster: a, internal_redirect_policy: {redirect_response_codes: [404]}}}
    - {name: cross, match: {prefix: /cross}, route: {cluster: a, internal_redirect_policy: {allow_cross_scheme_redirect: true}}}
    - {name: zero, match: {prefix: /zero}, route: {cluster: a, internal_redirect_policy: {max_internal_redirects: 0}}}
    - {name: three, match: {prefix: /three}, route: {cluster: a, internal_redirect_policy: {max_internal_redirects: 3}}}
    - {name: copy, match: {prefix: /copy}, route: {cluster: a, internal_redirect_policy: {response_headers_to_copy: [x-token, x-drop]}}}
    - {name: rewritten, match: {prefix: /rewritten}, route: {cluster: a, prefix_rewrite: /inside, internal_redirect_policy: {}}}
    - name: listed
      match: {prefix: /listed}
      route:
        cluster: a
        internal_redirect_policy:
          predicates:
          - name: listed
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig
              allowed_route_names: [target]
    - name: previous
      match: {prefix: /previous}
      route:
        cluster: a
        internal_redirect_policy:
          max_internal_redirects: 5
          predicates:
          - name: previous
            typed_config: {"@type": type.googleapis.com/envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig}
    - name: safe
      match: {prefix: /safe}
      route:
        cluster: a
        internal_redirect_policy:
          allow_cross_scheme_redirect: true
          predicates:
          - name: safe
            typed_config: {"@type": type.googleapis.com/envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig}
    - {name: without, match: {prefix: /without}, route: {cluster: a}}
"#;

pub fn world() -> World {
    let clusters = [cluster("a", &["{{a}}"], ""), cluster("b", &["{{b}}"], "")];
    World {
        name: "redirects",
        yaml: bootstrap(&[listener("http", MANAGER)], &clusters),
        cases: cases(),
        stats: &[
            "http.http.downstream_rq",
            "http.http.passthrough",
            "http.http.rq_",
            "cluster.a.upstream_rq_2",
            "cluster.a.upstream_rq_3",
            "cluster.a.upstream_rq_4",
            "cluster.a.upstream_rq_t",
            "cluster.b.upstream_rq_2",
            "cluster.b.upstream_rq_3",
            "cluster.a.upstream_internal",
            "cluster.b.upstream_internal",
        ],
    }
}

fn cases() -> Vec<Case> {
    let to = |name, path: &str, location: &str| {
        get(
            name,
            200,
            path,
            &format!("x-do: status=302,header=location:{location}\n"),
        )
    };
    let post = |name, path: &str, status: u16| {
        let text = format!(
            "POST {path} HTTP/1.1\nhost: parity.test\ncontent-length: 5\nx-do: status={status},header=location:http://next.test/there?q=1\n\nhello"
        );
        raw(name, status, &text)
    };
    let stays = |name, status, path: &str, headers: &str| get(name, status, path, headers);
    vec![
        to("followed", "/plain?x=1", "http://next.test/direct?y").logs(2),
        get(
            "an answer from elsewhere",
            302,
            "/plain?x=1",
            "x-do: status=302,header=location:http://next.test/only\n",
        )
        .logs(2),
        to("to a direct response", "/plain", "http://next.test/direct").logs(2),
        to("with a port", "/plain", "http://next.test:8080/direct").logs(2),
        to("with a fragment", "/plain", "http://next.test/direct#part").logs(2),
        to("rewritten before", "/rewritten/x", "http://next.test/direct").logs(2),
        to("from http to https", "/cross", "https://next.test/direct").logs(2),
        stays(
            "from http to https is unsafe",
            302,
            "/plain",
            "x-do: status=302,header=location:https://next.test/direct\n",
        ),
        stays("relative", 302, "/plain", "x-do: status=302,header=location:/there\n"),
        stays("no location", 302, "/plain", "x-do: status=302\n"),
        stays("no URL", 302, "/plain", "x-do: status=302,header=location:nonsense\n"),
        stays(
            "another code",
            301,
            "/plain",
            "x-do: status=301,header=location:http://next.test/direct\n",
        ),
        stays(
            "none at all",
            302,
            "/zero",
            "x-do: status=302,header=location:http://next.test/direct\n",
        ),
        stays(
            "without a policy",
            302,
            "/without",
            "x-do: status=302,header=location:http://next.test/direct\n",
        ),
        stays(
            "a code that is no redirect",
            404,
            "/codes",
            "x-do: status=404,header=location:http://next.test/direct\n",
        ),
        stays(
            "only codes that are no redirects",
            404,
            "/none",
            "x-do: status=404,header=location:http://next.test/direct\n",
        ),
        stays("not an answer", 200, "/plain", ""),
        stays(
            "too many",
            302,
            "/plain",
            "x-do: status=302,header=location:http://next.test/again\n",
        )
        .logs(2),
        get(
            "by 301",
            200,
            "/codes",
            "x-do: status=301,header=location:http://next.test/direct\n",
        )
        .logs(2),
        get(
            "by 307",
            200,
            "/codes",
            "x-do: status=307,header=location:http://next.test/direct\n",
        )
        .logs(2),
        get(
            "by 308",
            200,
            "/codes",
            "x-do: status=308,header=location:http://next.test/direct\n",
        )
        .logs(2),
        get(
            "not by 302",
            302,
            "/codes",
            "x-do: status=302,header=location:http://next.test/direct\n",
        ),
        get(
            "unsafe",
            302,
            "/safe",
            "x-do: status=302,header=location:https://next.test/direct\n",
        ),
        to("safe", "/safe", "http://next.test/direct").logs(2),
        get(
            "headers copied",
            200,
            "/copy",
            "x-drop: 1\nx-do: status=302,header=x-token:t,header=location:http://next.test/direct\n",
        )
        .logs(2),
        post("a body by 307", "/codes", 307).logs(2),
        post("a body by 303", "/codes", 303).logs(2),
    ]
}
