//! Header rules of routes, hosts and tables: every append action, every level, what formats can say; rewrites; hash cookies.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, raw};

const MANAGER: &str = r#"
use_remote_address: true
route_config:
  name: table
  request_headers_to_add: [{header: {key: x-level, value: table}}, {header: {key: x-table, value: "1"}}]
  request_headers_to_remove: [x-gone-table]
  response_headers_to_add: [{header: {key: x-back, value: table}}]
  response_headers_to_remove: [x-hidden-table]
  virtual_hosts:
  - name: all
    domains: ["*"]
    request_headers_to_add: [{header: {key: x-level, value: host}}]
    request_headers_to_remove: [x-gone-host]
    response_headers_to_add: [{header: {key: x-back, value: host}}]
    response_headers_to_remove: [x-hidden-host]
    metadata: {filter_metadata: {of: {host: yes}}}
    routes:
    - name: actions
      match: {prefix: /actions}
      request_headers_to_add:
      - {header: {key: x-append, value: new}, append_action: APPEND_IF_EXISTS_OR_ADD}
      - {header: {key: x-absent, value: new}, append_action: ADD_IF_ABSENT}
      - {header: {key: x-over, value: new}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
      - {header: {key: x-only, value: new}, append_action: OVERWRITE_IF_EXISTS}
      - {header: {key: x-empty, value: ""}}
      - {header: {key: x-kept, value: ""}, keep_empty_value: true}
      - {header: {key: x-nothing, value: "%REQ(X-NONE)%"}}
      - {header: {key: user-agent, value: more}}
      - {header: {key: X-Upper, value: up}}
      response_headers_to_add:
      - {header: {key: x-append, value: new}, append_action: APPEND_IF_EXISTS_OR_ADD}
      - {header: {key: x-absent, value: new}, append_action: ADD_IF_ABSENT}
      - {header: {key: x-over, value: new}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
      - {header: {key: x-only, value: new}, append_action: OVERWRITE_IF_EXISTS}
      - {header: {key: x-empty, value: ""}}
      - {header: {key: server, value: mine}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
      route: {cluster: a}
    - name: deprecated
      match: {prefix: /deprecated}
      request_headers_to_add: [{header: {key: x-append, value: new}, append: true}, {header: {key: x-over, value: new}, append: false}]
      route: {cluster: a}
    - name: removed
      match: {prefix: /removed}
      request_headers_to_remove: [x-gone, x-added, user-agent]
      response_headers_to_remove: [x-hidden, x-backend]
      request_headers_to_add: [{header: {key: x-added, value: "1"}}]
      route: {cluster: a}
    - name: formats
      match: {prefix: /formats}
      metadata: {filter_metadata: {of: {text: words, number: 7, nested: {deep: true}}}}
      request_headers_to_add:
      - {header: {key: x-f-protocol, value: "%PROTOCOL%"}}
      - {header: {key: x-f-remote, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}
      - {header: {key: x-f-direct, value: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}}
      - {header: {key: x-f-local, value: "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"}}
      - {header: {key: x-f-req, value: "a-%REQ(X-IN)%-b"}}
      - {header: {key: x-f-alt, value: "%REQ(X-NONE?X-IN)%"}}
      - {header: {key: x-f-short, value: "%REQ(X-IN):3%"}}
      - {header: {key: x-f-percent, value: "100%%"}}
      - {header: {key: x-f-path, value: "%REQ(:PATH)%"}}
      - {header: {key: x-f-method, value: "%REQ(:METHOD)%"}}
      - {header: {key: x-f-route, value: "%ROUTE_NAME%"}}
      - {header: {key: x-f-meta, value: "%METADATA(ROUTE:of:text)%"}}
      - {header: {key: x-f-number, value: "%METADATA(ROUTE:of:number)%"}}
      - {header: {key: x-f-deep, value: "%METADATA(ROUTE:of:nested:deep)%"}}
      - {header: {key: x-f-host, value: "%METADATA(VIRTUAL_HOST:of:host)%"}}
      - {header: {key: x-f-cluster, value: "%UPSTREAM_CLUSTER%"}}
      - {header: {key: x-f-query, value: "%QUERY_PARAM(q)%"}}
      - {header: {key: x-f-wq, value: "%PATH(WQ)%"}}
      - {header: {key: x-f-nq, value: "%PATH(NQ)%"}}
      response_headers_to_add:
      - {header: {key: x-f-code, value: "%RESPONSE_CODE%"}}
      - {header: {key: x-f-details, value: "%RESPONSE_CODE_DETAILS%"}}
      - {header: {key: x-f-resp, value: "%RESP(X-BACKEND)%"}}
      - {header: {key: x-f-flags, value: "%RESPONSE_FLAGS%"}}
      - {header: {key: x-f-cluster, value: "%UPSTREAM_CLUSTER%"}}
      - {header: {key: x-f-attempts, value: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"}}
      - {header: {key: x-f-reqback, value: "%REQ(X-IN)%"}}
      route: {cluster: a}
    - name: weighted
      match: {prefix: /weighted}
      request_headers_to_add: [{header: {key: x-level, value: route}}]
      response_headers_to_add: [{header: {key: x-back, value: route}}]
      route:
        weighted_clusters:
          clusters:
          - name: a
            weight: 100
            host_rewrite_literal: weighted.test
            request_headers_to_add: [{header: {key: x-level, value: weight}}]
            request_headers_to_remove: [x-gone-weight]
            response_headers_to_add: [{header: {key: x-back, value: weight}}]
            response_headers_to_remove: [x-hidden-weight]
    - {name: cookie, match: {prefix: /cookie}, route: {cluster: ring, hash_policy: [{cookie: {name: sticky, ttl: 60s, path: /c}}]}}
    - {name: session, match: {prefix: /session}, route: {cluster: maglev, hash_policy: [{cookie: {name: sticky, ttl: 0s, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}}]}}
    - {name: no-ring, match: {prefix: /noring}, route: {cluster: a, hash_policy: [{cookie: {name: sticky, ttl: 60s}}]}}
    - {name: no-ttl, match: {prefix: /nottl}, route: {cluster: ring, hash_policy: [{cookie: {name: sticky}}]}}
    - {name: terminal, match: {prefix: /terminal}, route: {cluster: ring, hash_policy: [{header: {header_name: x-hash}, terminal: true}, {cookie: {name: sticky, ttl: 60s}}]}}
    - {name: hashed, match: {prefix: /hashed}, route: {cluster: ring, hash_policy: [{header: {header_name: x-hash}}, {query_parameter: {name: q}}]}}
    - {name: xfh, match: {prefix: /xfh}, route: {cluster: a, host_rewrite_literal: new.test, append_x_forwarded_host: true}}
    - {name: empty, match: {prefix: /emptyhost}, route: {cluster: a, host_rewrite_literal: "", append_x_forwarded_host: true}}
    - {name: auto, match: {prefix: /auto}, route: {cluster: a, auto_host_rewrite: true}}
    - name: template
      match: {path_match_policy: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: "/template/{lang}/{rest=**}"}}}
      route: {cluster: a, path_rewrite_policy: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig, path_template_rewrite: "/{rest}/in/{lang}"}}}
    - {name: fold, match: {prefix: /Fold, case_sensitive: false}, route: {cluster: a, prefix_rewrite: /unfolded}}
    - {name: whole, match: {path: /whole}, route: {cluster: a, prefix_rewrite: /other}}
    - {name: regex-match, match: {safe_regex: {regex: "/rm/.*"}}, route: {cluster: a, prefix_rewrite: /all}}
    - {name: separated, match: {path_separated_prefix: /sep}, route: {cluster: a, prefix_rewrite: /x}}
    - {name: buffered, match: {prefix: /buffered}, per_request_buffer_limit_bytes: 4, route: {cluster: a, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}}}}
    - {name: plain, match: {prefix: /plain}, route: {cluster: a}}
"#;

const SPECIFIC: &str = r#"
route_config:
  name: specific
  most_specific_header_mutations_wins: true
  request_headers_to_add: [{header: {key: x-level, value: table}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
  response_headers_to_add: [{header: {key: x-back, value: table}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
  virtual_hosts:
  - name: all
    domains: ["*"]
    request_headers_to_add: [{header: {key: x-level, value: host}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
    response_headers_to_add: [{header: {key: x-back, value: host}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
    include_request_attempt_count: true
    virtual_clusters:
    - {name: posts, headers: [{name: ":method", string_match: {exact: POST}}]}
    - {name: things, headers: [{name: ":path", string_match: {prefix: /things}}]}
    routes:
    - name: counted
      match: {prefix: /counted}
      stat_prefix: counted
      route: {cluster: a, timeout: 0s, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}}}
    - {name: timed, match: {prefix: /timed}, stat_prefix: timed, route: {cluster: a, timeout: 0.1s}}
    - name: route
      match: {prefix: /}
      request_headers_to_add: [{header: {key: x-level, value: route}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
      response_headers_to_add: [{header: {key: x-back, value: route}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
      route: {cluster: a}
"#;

pub fn world() -> World {
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster("ring", &["{{a}}", "{{b}}"], "lb_policy: RING_HASH"),
        cluster("maglev", &["{{a}}"], "lb_policy: MAGLEV"),
    ];
    World {
        name: "mutations",
        yaml: bootstrap(&[listener("http", MANAGER), listener("specific", SPECIFIC)], &clusters),
        cases: cases(),
        stats: &["vhost."],
    }
}

const PRESENT: &str =
    "x-append: old\nx-absent: old\nx-over: old\nx-only: old\nx-empty: old\nx-kept: old\nuser-agent: old\n";

fn cases() -> Vec<Case> {
    let mut cases = vec![
        get("actions on nothing", 200, "/actions", ""),
        get("actions on what is there", 200, "/actions", PRESENT),
        get(
            "actions on an answer",
            200,
            "/actions",
            "x-do: header=x-append:old,header=x-absent:old,header=x-over:old,header=x-only:old,header=x-empty:old\n",
        ),
        get("append, the old way", 200, "/deprecated", PRESENT),
        get(
            "removed",
            200,
            "/removed",
            "x-gone: 1\nuser-agent: me\nx-gone-table: 1\nx-gone-host: 1\n",
        ),
        get(
            "removed from an answer",
            200,
            "/removed",
            "x-do: header=x-hidden:1,header=x-hidden-host:1,header=x-hidden-table:1\n",
        ),
        get("formats", 200, "/formats/x?q=v&w", "x-in: abcdef\n"),
        get("formats without values", 200, "/formats", ""),
        get("weights", 200, "/weighted", "x-gone-weight: 1\n"),
        get("weights, answer", 200, "/weighted", "x-do: header=x-hidden-weight:1\n"),
        get("a cookie that is there", 200, "/cookie", "cookie: sticky=abc\n"),
        get("a cookie without a ring", 200, "/noring", ""),
        get("a cookie without a ttl", 200, "/nottl", "cookie: sticky=abc\n"),
        get("a terminal hash", 200, "/terminal", "x-hash: one\n"),
        get("a host appended", 200, "/xfh", ""),
        get("a host that is nothing", 200, "/emptyhost", ""),
        get(
            "a host appended to another",
            200,
            "/xfh",
            "x-forwarded-host: first.test\n",
        ),
        get(
            "a host that stands there, without a blank",
            200,
            "/xfh",
            "x-forwarded-host: first.test,parity.test\n",
        ),
        get(
            "a host that stands there",
            200,
            "/xfh",
            "x-forwarded-host: first.test, parity.test\n",
        ),
        get("a host that is its address", 200, "/auto", ""),
        get("a template", 200, "/template/en/a/b?q", ""),
        get("a folded prefix", 200, "/fOLD/x", ""),
        get("a whole path", 200, "/whole?q", ""),
        get("all that a regex took", 200, "/rm/x/y?q", ""),
        get("a separated prefix", 200, "/sep/y?q", ""),
        raw(
            "a body that fits",
            200,
            "POST /buffered HTTP/1.1\nhost: parity.test\ncontent-length: 4\n\nbody",
        ),
        raw(
            "a body that is too much for another try",
            503,
            "POST /buffered HTTP/1.1\nhost: parity.test\nx-do: status=503\ncontent-length: 8\n\nbodybody",
        ),
    ];
    for hash in ["one", "two", "three", "four"] {
        let name = Box::leak(format!("hashed by {hash}").into_boxed_str());
        cases.push(get(name, 200, "/hashed?q=1", &format!("x-hash: {hash}\n")));
    }
    let specific = [
        get("the most specific wins", 200, "/things", ""),
        raw(
            "a virtual cluster",
            200,
            "POST /x HTTP/1.1\nhost: parity.test\ncontent-length: 0\n\n",
        ),
        get("another virtual cluster", 404, "/things/1", "x-do: status=404\n"),
        get("no virtual cluster", 200, "/other", ""),
        get("counted", 200, "/counted", ""),
        get("counted, retried", 200, "/counted", "x-do: status=503|status=200\n"),
        get("counted, failed", 503, "/counted", "x-do: status=503\n"),
        get("counted, timeout", 504, "/timed", "x-do: hang\n"),
    ];
    cases.extend(specific.into_iter().map(|case| case.on("specific")));
    cases
}
