//! What becomes of the proxy's own answers: `local_reply_config`, formatted direct responses, suppressed headers.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, raw};

const MANAGER: &str = r#"
local_reply_config:
  mappers:
  - filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 404, runtime_key: a}}}}
    status_code: 410
    body: {inline_string: "gone: %LOCAL_REPLY_BODY%"}
    headers_to_add: [{header: {key: x-mapped, value: "%RESPONSE_CODE%"}}]
  - filter: {response_flag_filter: {flags: [UF]}}
    body_format_override: {json_format: {code: "%RESPONSE_CODE%", flags: "%RESPONSE_FLAGS%", text: "%LOCAL_REPLY_BODY%", path: "%REQ(:PATH)%", none: "%REQ(X-NONE)%"}}
  - filter: {header_filter: {header: {name: x-kind, string_match: {exact: html}}}}
    body_format_override: {text_format_source: {inline_string: "<p>%RESPONSE_CODE% %LOCAL_REPLY_BODY%</p>"}, content_type: "text/html; charset=UTF-8"}
  - filter:
      and_filter:
        filters:
        - {status_code_filter: {comparison: {op: GE, value: {default_value: 500, runtime_key: a}}}}
        - {header_filter: {header: {name: x-kind, string_match: {exact: typed}}}}
    headers_to_add: [{header: {key: content-type, value: application/problem}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
  - filter: {header_filter: {header: {name: x-kind, string_match: {exact: empty}}}}
    body: {inline_string: ""}
  body_format: {text_format_source: {inline_string: "%RESPONSE_CODE%: %LOCAL_REPLY_BODY%"}}
route_config:
  name: routes
  validate_clusters: false
  response_headers_to_add: [{header: {key: x-code, value: "%RESPONSE_CODE%"}}]
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: direct, match: {path: /direct}, direct_response: {status: 403, body: {inline_string: forbidden}}}
    - {name: empty, match: {path: /empty}, direct_response: {status: 503}}
    - {name: moved, match: {path: /moved}, redirect: {path_redirect: /new}}
    - {name: closed, match: {prefix: /closed}, route: {cluster: closed}}
    - {name: gone, match: {prefix: /gone}, route: {cluster: nowhere}}
    - {name: slow, match: {prefix: /slow}, route: {cluster: a, timeout: 0.05s}}
    - {name: upstream, match: {prefix: /up}, route: {cluster: a}}
"#;

const PLAIN: &str = r#"
path_with_escaped_slashes_action: REJECT_REQUEST
normalize_path: true
route_config:
  name: plain
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - name: formatted
      match: {prefix: /formatted}
      direct_response: {status: 200, body: {inline_string: inner}, body_format: {text_format_source: {inline_string: "%REQ(:PATH)% %LOCAL_REPLY_BODY% %REQ(X-NONE)%"}}}
    - name: json
      match: {prefix: /json}
      direct_response: {status: 201, body: {inline_string: inner}, body_format: {json_format: {path: "%REQ(:PATH)%", body: "%LOCAL_REPLY_BODY%", code: "%RESPONSE_CODE%"}}}
    - name: typed
      match: {prefix: /typed}
      direct_response: {status: 200, body_format: {text_format_source: {inline_string: "<b>%PROTOCOL%</b>"}, content_type: text/html}}
    - name: own-type
      match: {prefix: /own}
      direct_response: {status: 200, body: {inline_string: "{}"}}
      response_headers_to_add: [{header: {key: content-type, value: application/json}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
    - name: appended-type
      match: {prefix: /appended}
      direct_response: {status: 200, body: {inline_string: "{}"}}
      response_headers_to_add: [{header: {key: content-type, value: application/json}, append_action: APPEND_IF_EXISTS_OR_ADD}]
    - {name: closed, match: {prefix: /closed}, route: {cluster: closed}}
"#;

const SUPPRESSED: &str = r#"
route_config:
  name: suppressed
  virtual_hosts:
  - name: all
    domains: ["*"]
    include_request_attempt_count: true
    include_attempt_count_in_response: true
    routes:
    - {name: rewrite, match: {prefix: /rewrite}, route: {cluster: a, prefix_rewrite: /new, host_rewrite_literal: new.test, append_x_forwarded_host: true}}
    - {name: retried, match: {prefix: /retried}, route: {cluster: a, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}}}}
    - {name: plain, match: {prefix: /}, route: {cluster: a}}
"#;

pub fn world() -> World {
    let clusters = [cluster("a", &["{{a}}"], ""), cluster("closed", &["{{closed}}"], "")];
    let suppressed = listener("suppressed", SUPPRESSED).replace(
        "envoy.extensions.filters.http.router.v3.Router\"}",
        "envoy.extensions.filters.http.router.v3.Router\", suppress_envoy_headers: true}",
    );
    World {
        name: "replies",
        yaml: bootstrap(
            &[listener("http", MANAGER), listener("plain", PLAIN), suppressed],
            &clusters,
        ),
        cases: cases(),
        stats: &[
            "http.http.downstream_rq",
            "http.plain.downstream_rq",
            "http.suppressed.downstream_rq",
        ],
    }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        get("no route", 410, "/none", ""),
        get("no route, asking for HTML", 410, "/none", "x-kind: html\n"),
        raw("no route, head", 410, "HEAD /none HTTP/1.1\nhost: parity.test\n\n"),
        get("no route, gRPC", 200, "/none", "content-type: application/grpc\n"),
        get("direct", 403, "/direct", ""),
        get("direct, HTML", 403, "/direct", "x-kind: html\n"),
        get("direct, gRPC", 200, "/direct", "content-type: application/grpc\n"),
        get(
            "direct, parameters",
            403,
            "/direct",
            "content-type: application/grpc; x\n",
        ),
        raw("direct, head", 403, "HEAD /direct HTTP/1.1\nhost: parity.test\n\n"),
        get("empty", 503, "/empty", ""),
        get("empty, a type of its own", 503, "/empty", "x-kind: typed\n"),
        get("emptied", 403, "/direct", "x-kind: empty\n"),
        get("moved", 301, "/moved", ""),
        get("refused connection", 503, "/closed", ""),
        get(
            "refused connection, gRPC",
            200,
            "/closed",
            "content-type: application/grpc\n",
        ),
        get("unknown cluster", 503, "/gone", ""),
        get("unknown cluster, a type of its own", 503, "/gone", "x-kind: typed\n"),
        get("timeout", 504, "/slow", "x-do: hang\n"),
        get("an upstream's 404 stays", 404, "/up", "x-do: status=404\n"),
    ];
    let plain = [
        get("formatted", 200, "/formatted/x", ""),
        raw(
            "formatted, head",
            200,
            "HEAD /formatted HTTP/1.1\nhost: parity.test\n\n",
        ),
        get("formatted, gRPC", 200, "/formatted", "content-type: application/grpc\n"),
        get("formatted as JSON", 201, "/json", ""),
        get("formatted with a type", 200, "/typed", ""),
        get("a type from the route", 200, "/own", ""),
        get("a type appended by the route", 200, "/appended", ""),
        get("plain refused connection", 503, "/closed", ""),
        raw(
            "plain refused connection, head",
            503,
            "HEAD /closed HTTP/1.1\nhost: parity.test\n\n",
        ),
    ];
    cases.extend(plain.into_iter().map(|case| case.on("plain")));
    let suppressed = [
        get("suppressed", 200, "/", ""),
        get("suppressed, rewritten", 200, "/rewrite/x", ""),
        get("suppressed, retried", 200, "/retried", "x-do: status=503|status=200\n"),
        get(
            "suppressed, own timeout",
            200,
            "/",
            "x-envoy-upstream-rq-timeout-ms: 900\n",
        ),
    ];
    cases.extend(suppressed.into_iter().map(|case| case.on("suppressed")));
    cases
}
