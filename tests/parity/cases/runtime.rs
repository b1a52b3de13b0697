//! Runtime values: what the layers of the bootstrap and an operator say over the defaults of a configuration.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, admin, get, raw};

/// Over the defaults of everything below, which are the other way round.
const LAYERS: &str = r#"layered_runtime:
  layers:
  - name: base
    static_layer:
      parity.whole: {numerator: 1000000, denominator: MILLION}
      parity.number: 100
      parity.text: "100"
      parity.huge: 250
      parity.words: "numerator: 100"
      parity.yes: true
      parity.part: {denominator: HUNDRED}
      parity: {nested: {key: 100}, twice: 0, weight: {a: 0, b: 7}, abort: {percent: 100, status: 418}}
      parity.log: 100
      parity.code: 404
      parity.guard: 100
      parity.deny: true
      parity.limit: 100
      parity.enforce: 0
      fault.http.abort.grpc_status: 5
      envoy.reloadable_features.http_reject_path_with_fragment: false
  - name: over
    static_layer: {parity.twice: 100, parity.code: 403}
  - {name: operator, admin_layer: {}}
"#;

/// Each has a route of its own, which is not taken unless the key says so.
const KEYS: &[&str] = &[
    "whole",
    "number",
    "text",
    "huge",
    "words",
    "yes",
    "part",
    "nested.key",
    "twice",
    "unset",
    "later",
];

fn routes() -> String {
    let mut routes = String::from(
        "route_config:\n  name: routes\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n",
    );
    for key in KEYS {
        routes += &format!(
            "    - match: {{path: /{key}, runtime_fraction: {{default_value: {{numerator: 0}}, runtime_key: parity.{key}}}}}\n      \
             direct_response: {{status: 200, body: {{inline_string: taken}}}}\n"
        );
    }
    routes
        + "    - match: {path: /weighted}\n      route: {weighted_clusters: {runtime_key_prefix: parity.weight, clusters: [{name: a, weight: 1}, {name: b, weight: 0}]}}\n\
              \x20   - match: {path: /shadowed}\n      route: {cluster: a, request_mirror_policies: [{cluster: b, runtime_fraction: {default_value: {numerator: 0}, runtime_key: parity.number}}]}\n\
              \x20   - {match: {path: /missing}, direct_response: {status: 404}}\n\
              \x20   - {match: {path: /forbidden}, direct_response: {status: 403}}\n\
              \x20   - {match: {prefix: /}, route: {cluster: a}}\n"
}

/// Faults, limits and a guard that are off by default.
const FILTERS: &str = r#"          http_filters:
          - name: fault
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
              headers: [{name: x-fault, present_match: true}]
              abort: {http_status: 503, percentage: {numerator: 0}}
              abort_percent_runtime: parity.abort.percent
              abort_http_status_runtime: parity.abort.status
          - name: grpc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
              headers: [{name: x-grpc, present_match: true}]
              abort: {grpc_status: 14, percentage: {numerator: 100}}
          - name: limit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: limit
              token_bucket: {max_tokens: 1, fill_interval: 3600s}
              filter_enabled: {default_value: {numerator: 0}, runtime_key: parity.limit}
              filter_enforced: {default_value: {numerator: 100}, runtime_key: parity.enforce}
"#;

/// Logs only what the keys of its filters let pass.
fn choosy(manager: &str) -> String {
    let filter = "          - name: envoy.access_loggers.file\n            filter: {or_filter: {filters: [\
         {and_filter: {filters: [{runtime_filter: {runtime_key: parity.log, percent_sampled: {numerator: 0}}}, {header_filter: {header: {name: x-log, present_match: true}}}]}}, \
         {status_code_filter: {comparison: {op: EQ, value: {default_value: 404, runtime_key: parity.code}}}}]}}\n";
    listener("choosy", manager).replace("          - name: envoy.access_loggers.file\n", filter)
}

pub fn world() -> World {
    let routes = routes();
    let limited = listener("limited", &routes).replace(
        "    - filters:\n",
        "    - filters:\n      - name: limit\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit\n          \
         stat_prefix: net\n          token_bucket: {max_tokens: 1, fill_interval: 3600s}\n          runtime_enabled: {default_value: true, runtime_key: parity.net}\n",
    );
    let listeners = [
        listener("http", &routes),
        listener("filtered", &routes).replace("          http_filters:\n", FILTERS),
        choosy(&routes),
        limited,
    ];
    let clusters = [cluster("a", &["{{a}}"], ""), cluster("b", &["{{b}}"], "")];
    World {
        name: "runtime",
        yaml: LAYERS.to_owned() + &bootstrap(&listeners, &clusters),
        cases: cases(),
        stats: &[
            "runtime.admin",
            "runtime.load_success",
            "runtime.num",
            "runtime.override_dir_not_exists",
            "http.filtered.fault",
            "limit.",
            "local_rate_limit.",
        ],
    }
}

fn final_values(line: &str) -> bool {
    line.contains("\"final_value\": \"41\"")
}

fn all(_: &str) -> bool {
    true
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        get("a share of a million", 200, "/whole", ""),
        get("a number", 200, "/number", ""),
        get("a number as text", 200, "/text", ""),
        get("more than everything", 200, "/huge", ""),
        get("words are no share", 200, "/words", ""),
        get("a flag is no share", 200, "/yes", ""),
        get("a denominator alone", 200, "/part", ""),
        get("levels of a key", 200, "/nested.key", ""),
        get("a later layer", 200, "/twice", ""),
        get("a key that is not set", 200, "/unset", ""),
        get("a weight", 200, "/weighted", "").seen(1),
        get("a mirror", 200, "/shadowed", "").seen(1),
        get("an abort", 418, "/missing", "x-fault: 1\n").on("filtered"),
        get("a status that has a key of Envoy's own", 200, "/missing", "x-grpc: 1\n").on("filtered"),
        get("a limit", 404, "/missing", "").on("filtered"),
        get("a limit that is not enforced", 404, "/missing", "").on("filtered"),
        get("a line that a key lets pass", 200, "/number", "x-log: 1\n").on("choosy"),
        get("a status that is logged", 403, "/forbidden", "").on("choosy"),
        get("a status that is not logged", 404, "/missing", "")
            .on("choosy")
            .logs(0),
        get("the first connection", 404, "/missing", "").on("limited"),
    ];
    cases.extend([
        raw(
            "a fragment is left out",
            200,
            "GET /unset#x HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw(
            "a fragment and a query",
            200,
            "GET /unset?a=b#x HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw(
            "a fragment does not hide a path",
            403,
            "GET /forbidden#x HTTP/1.1\nhost: parity.test\n\n",
        ),
    ]);
    let set = |name, query| admin(name, 200, "POST", query, all);
    cases.extend([
        set(
            "enforced",
            "/runtime_modify?parity.enforce=100&parity.net=false&parity.later=41",
        ),
        get("a limit that is enforced now", 429, "/missing", "").on("filtered"),
        get("a connection that is not limited any more", 404, "/missing", "").on("limited"),
        admin("values", 200, "GET", "/runtime", final_values),
        set(
            "a share of all",
            "/runtime_modify?parity.later=%7B%22numerator%22%3A100%7D&parity.number=0",
        ),
        get("a share that came later", 200, "/later", ""),
        get("a number that is over another", 200, "/number", ""),
        set("taken back", "/runtime_modify?parity.number=&parity.later=words"),
        get("the number below it", 200, "/number", ""),
        get("a share that is none any more", 200, "/later", ""),
        admin("nothing to set", 400, "POST", "/runtime_modify", all),
        admin("a value is not read so", 405, "GET", "/runtime_modify?a=1", all),
    ]);
    cases
}
