//! Which host gets a request: subsets, priorities, health, hashing, original destinations, dropped load, ejection.
//!
//! Only choices without chance: one host is right, or none.

use super::{bootstrap, listener};
use crate::harness::{Case, World, admin, get, raw};

/// A cluster of endpoints (YAML flow objects of `lb_endpoints`) by priority, with more fields (YAML lines).
fn cluster(name: &str, priorities: &[&[String]], policy: &str, fields: &str) -> String {
    let level = |(priority, endpoints): (usize, &&[String])| {
        let endpoints: String = endpoints
            .iter()
            .map(|endpoint| format!("        - {endpoint}\n"))
            .collect();
        format!("      - priority: {priority}\n        lb_endpoints:\n{endpoints}")
    };
    let levels: String = priorities.iter().enumerate().map(level).collect();
    let fields: String = fields.lines().map(|line| format!("    {line}\n")).collect();
    let policy = match policy {
        "" => String::new(),
        policy => format!("      policy: {policy}\n"),
    };
    format!(
        "  - name: {name}\n    type: STATIC\n    connect_timeout: 1s\n    load_assignment:\n      cluster_name: {name}\n{policy}      \
         endpoints:\n{levels}{fields}"
    )
}

/// An endpoint at a port; `more` are fields beside it, each with a comma in front.
fn at(port: &str, more: &str) -> String {
    format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}{more}}}")
}

/// An endpoint with `envoy.lb` metadata.
fn with(port: &str, labels: &str) -> String {
    at(
        port,
        &format!(", metadata: {{filter_metadata: {{envoy.lb: {{{labels}}}}}}}"),
    )
}

const A: &str = "{{a}}";
const B: &str = "{{b}}";

fn versions() -> [String; 2] {
    [with(A, "version: v1, stage: prod"), with(B, "version: v2, stage: dev")]
}

fn subsets(name: &str, fields: &str) -> String {
    cluster(name, &[&versions()], "", &format!("lb_subset_config: {{{fields}}}"))
}

const BY_VERSION: &str = "subset_selectors: [{keys: [version]}, {keys: [stage, version], fallback_policy: KEYS_SUBSET, \
                          fallback_keys_subset: [stage]}, {keys: [stage], fallback_policy: NO_FALLBACK}]";

/// Eight requests on one connection. Lines are compared without their order: what counts is how many went to which host.
fn eight(name: &'static str, path: &str) -> Case {
    let one = format!("GET {path} HTTP/1.1\nhost: parity.test\n\n");
    raw(name, 200, &one.repeat(8)).answers(8)
}

/// A route on `path` to a cluster that asks for a subset.
fn asks(path: &str, cluster: &str, labels: &str) -> String {
    format!(
        "    - {{name: {path}, match: {{prefix: /{path}/}}, route: {{cluster: {cluster}, metadata_match: {{filter_metadata: \
         {{envoy.lb: {{{labels}}}}}}}}}}}\n"
    )
}

fn to(path: &str, cluster: &str) -> String {
    format!("    - {{name: {path}, match: {{prefix: /{path}/}}, route: {{cluster: {cluster}}}}}\n")
}

fn manager() -> String {
    let mut routes = String::new();
    for cluster in ["none", "default", "only"] {
        for (path, labels) in [
            ("v1", "version: v1"),
            ("v2", "version: v2"),
            ("v3", "version: v3"),
            ("prod", "stage: prod"),
            ("test", "stage: test"),
            ("keys", "stage: prod, version: v9"),
            ("pair", "stage: dev, version: v2"),
            ("much", "stage: dev, version: v2, colour: red"),
            ("unknown", "colour: red"),
        ] {
            routes += &asks(&format!("{cluster}/{path}"), cluster, labels);
        }
        routes += &to(&format!("{cluster}/nothing"), cluster);
    }
    routes += &asks("lists/v5", "lists", "version: v5");
    routes += &asks("lists/v1", "lists", "version: v1");
    routes += &asks(
        "tries/v2",
        "tries",
        "version: v8, fallback_list: [{version: v7}, {version: v2}]",
    );
    routes += &asks("tries/none", "tries", "version: v1, fallback_list: [{version: v7}]");
    routes += &asks("redundant/v2", "redundant", "version: v2, colour: red");
    routes += &asks("single/v2", "single", "version: v2");
    routes += &asks("strict/v3", "strict", "version: v3");
    routes += &asks("empty/default", "empty", "version: v3");
    for cluster in [
        "unhealthy",
        "draining",
        "degraded",
        "panic0",
        "failing",
        "ring",
        "maglev",
        "ring_named",
        "murmur",
        "dropped",
        "kept",
        "ejected",
        "unreachable",
        "listed",
        "timeout",
        "even",
        "weighted",
        "localities",
    ] {
        routes += &to(cluster, cluster);
    }
    routes += "    - {name: sent, match: {prefix: /sent/}, route: {cluster: destination}, request_headers_to_add: [{header: {key: \
               x-envoy-original-dst-host, value: \"127.0.0.1:{{b}}\"}}]}\n";
    routes += "    - {name: lost, match: {prefix: /lost/}, route: {cluster: destination}}\n";
    routes += "    - {name: priorities, match: {prefix: /priorities/}, route: {cluster: priorities, retry_policy: {retry_on: 5xx, \
               num_retries: 2, retry_back_off: {base_interval: 0.001s}, retry_priority: {name: previous, typed_config: {\"@type\": \
               type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, \
               update_frequency: 1}}}}}\n";
    let hashed = ["ring", "maglev", "ring_named", "murmur"];
    for name in hashed {
        let plain = to(name, name);
        let policy = format!("cluster: {name}, hash_policy: [{{header: {{header_name: x-user}}}}]");
        routes = routes.replace(&plain, &plain.replace(&format!("cluster: {name}"), &policy));
    }
    format!(
        "route_config:\n  name: routes\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    \
         include_attempt_count_in_response: true\n    routes:\n{routes}"
    )
}

const FAIL_ON_PANIC: &str = "common_lb_config: {zone_aware_lb_config: {fail_traffic_on_panic: true}}";
const NO_PANIC: &str = "common_lb_config: {healthy_panic_threshold: {value: 0}}";

fn clusters() -> Vec<String> {
    let unhealthy = |port| at(port, ", health_status: UNHEALTHY");
    let split = "outlier_detection: {split_external_local_origin_errors: true, consecutive_local_origin_failure: 2, \
                 consecutive_5xx: 2, max_ejection_percent: 100, base_ejection_time: 300s, interval: 300s}\n";
    let mut clusters = vec![
        subsets("none", BY_VERSION),
        subsets(
            "default",
            &format!("fallback_policy: DEFAULT_SUBSET, default_subset: {{stage: dev}}, {BY_VERSION}"),
        ),
        cluster(
            "only",
            &[&[with(A, "version: v1, stage: prod")]],
            "",
            &format!("lb_subset_config: {{fallback_policy: ANY_ENDPOINT, {BY_VERSION}}}"),
        ),
        cluster(
            "lists",
            &[&[with(A, "version: [v1, v4]"), with(B, "version: [v2, v5]")]],
            "",
            &format!("lb_subset_config: {{list_as_any: true, {BY_VERSION}}}"),
        ),
        subsets(
            "tries",
            &format!("metadata_fallback_policy: FALLBACK_LIST, {BY_VERSION}"),
        ),
        subsets(
            "strict",
            "fallback_policy: ANY_ENDPOINT, subset_selectors: [{keys: [version], fallback_policy: NO_FALLBACK}]",
        ),
        subsets(
            "single",
            "subset_selectors: [{keys: [version], single_host_per_subset: true}]",
        ),
        cluster(
            "empty",
            &[&[with(A, "version: v1")]],
            "",
            "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {stage: dev}, panic_mode_any: true, \
             subset_selectors: [{keys: [version], fallback_policy: NOT_DEFINED}]}",
        ),
        cluster(
            "redundant",
            &[&versions()],
            "",
            r#"load_balancing_policy:
  policies:
  - typed_extension_config:
      name: subset
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.subset.v3.Subset
        allow_redundant_keys: true
        subset_selectors: [{keys: [version]}]
        subset_lb_policy: {policies: [{typed_extension_config: {name: rr, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin}}}]}"#,
        ),
        cluster("unhealthy", &[&[unhealthy(A)], &[at(B, "")]], "", ""),
        cluster("draining", &[&[at(A, ", health_status: DRAINING"), at(B, "")]], "", ""),
        cluster(
            "degraded",
            &[&[at(A, ", health_status: DEGRADED")], &[at(B, "")]],
            "",
            "",
        ),
        cluster("panic0", &[&[unhealthy(A), unhealthy(B)]], "", NO_PANIC),
        cluster("failing", &[&[unhealthy(A), unhealthy(B)]], "", FAIL_ON_PANIC),
        cluster("priorities", &[&[at(A, "")], &[at(B, "")]], "", ""),
        cluster("ring", &[&[at(A, ""), at(B, "")]], "", "lb_policy: RING_HASH"),
        cluster(
            "maglev",
            &[&[at(A, ""), at(B, ", load_balancing_weight: 3")]],
            "",
            "lb_policy: MAGLEV",
        ),
        cluster("even", &[&[at(A, ""), at(B, "")]], "", ""),
        cluster(
            "weighted",
            &[&[at(A, ", load_balancing_weight: 3"), at(B, ", load_balancing_weight: 1")]],
            "",
            "",
        ),
        localities(),
        cluster(
            "ring_named",
            &[&[with(A, "hash_key: one"), with(B, "hash_key: two")]],
            "",
            "lb_policy: RING_HASH\nring_hash_lb_config: {minimum_ring_size: 64}",
        ),
        cluster(
            "murmur",
            &[&[with(A, "hash_key: one"), with(B, "hash_key: two")]],
            "",
            "lb_policy: RING_HASH\nring_hash_lb_config: {minimum_ring_size: 64, hash_function: MURMUR_HASH_2}\n\
             common_lb_config: {override_host_status: {statuses: [UNHEALTHY]}}",
        ),
        cluster(
            "dropped",
            &[&[at(A, "")]],
            "{drop_overloads: [{category: drop_overload, drop_percentage: {numerator: 100}}]}",
            "",
        ),
        cluster(
            "kept",
            &[&[at(A, "")]],
            "{drop_overloads: [{category: drop_overload, drop_percentage: {numerator: 0}}]}",
            "",
        ),
        cluster(
            "ejected",
            &[&[at(A, "")]],
            "",
            &format!(
                "outlier_detection: {{consecutive_5xx: 2, max_ejection_percent: 100, base_ejection_time: 300s, interval: \
                 300s}}\n{NO_PANIC}"
            ),
        ),
        cluster(
            "unreachable",
            &[&[at("{{closed}}", "")]],
            "",
            &format!("{split}{NO_PANIC}"),
        ),
        cluster("timeout", &[&[at(B, "")]], "", &format!("{split}{NO_PANIC}")),
    ];
    clusters.push(
        r#"  - {name: destination, type: ORIGINAL_DST, connect_timeout: 1s, lb_policy: CLUSTER_PROVIDED, original_dst_lb_config: {use_http_header: true}}
"#
        .to_owned(),
    );
    clusters.push(cluster(
        "listed",
        &[&[unhealthy(A)], &[at(B, "")]],
        "",
        r#"load_balancing_policy:
  policies:
  - typed_extension_config: {name: unknown, typed_config: {"@type": type.googleapis.com/xds.type.v3.TypedStruct, type_url: type.googleapis.com/no.such.Policy, value: {}}}
  - typed_extension_config: {name: none, typed_config: {"@type": type.googleapis.com/google.protobuf.Struct, value: {}}}
  - typed_extension_config:
      name: least
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
        choice_count: 3"#,
    ));
    clusters
}

/// Two localities with weights.
fn localities() -> String {
    let of = |zone: &str, weight: u32, port: &str| {
        format!(
            "      - {{locality: {{region: r, zone: {zone}}}, load_balancing_weight: {weight}, lb_endpoints: [{}]}}\n",
            at(port, "")
        )
    };
    format!(
        "  - name: localities\n    type: STATIC\n    connect_timeout: 1s\n    load_assignment:\n      cluster_name: localities\n      \
         endpoints:\n{}{}    common_lb_config: {{locality_weighted_lb_config: {{}}}}\n",
        of("one", 1, A),
        of("two", 3, B)
    )
}

pub fn world() -> World {
    World {
        name: "balancing",
        yaml: bootstrap(&[listener("http", &manager())], &clusters()),
        cases: cases(),
        stats: STATS,
    }
}

const STATS: &[&str] = &[
    // How many subsets there are counts for each thread of Envoy's.
    "cluster.none.lb_subsets_selected",
    "cluster.none.lb_subsets_fallback",
    "cluster.default.lb_subsets_selected",
    "cluster.default.lb_subsets_fallback",
    "cluster.only.lb_subsets_selected",
    "cluster.only.lb_subsets_fallback",
    "cluster.lists.lb_subsets_selected",
    "cluster.tries.lb_subsets_selected",
    "cluster.tries.lb_subsets_fallback",
    "cluster.single.lb_subsets_selected",
    "cluster.empty.lb_subsets_fallback",
    "cluster.redundant.lb_subsets_selected",
    "cluster.none.upstream_cx_none_healthy",
    "cluster.panic0.lb_healthy_panic",
    "cluster.panic0.upstream_cx_none_healthy",
    "cluster.failing.lb_healthy_panic",
    "cluster.failing.upstream_cx_none_healthy",
    "cluster.unhealthy.membership_healthy",
    "cluster.unhealthy.membership_total",
    "cluster.draining.membership_",
    "cluster.degraded.membership_degraded",
    "cluster.dropped.upstream_rq",
    "cluster.ejected.outlier",
    "cluster.unreachable.outlier",
    "cluster.timeout.outlier",
    "cluster.priorities.upstream_rq_retry",
];

fn cases() -> Vec<Case> {
    let mut cases = vec![
        get("none: a subset", 200, "/none/v1/", ""),
        get("none: another", 200, "/none/v2/", ""),
        get("none: no such value", 503, "/none/v3/", ""),
        get("none: two keys", 200, "/none/pair/", ""),
        get("none: fewer keys", 200, "/none/keys/", ""),
        get("none: a selector that another begins with", 503, "/none/test/", ""),
        get("none: too many keys", 503, "/none/much/", ""),
        get("none: no such key", 503, "/none/unknown/", ""),
        get("none: no criteria", 503, "/none/nothing/", ""),
        get("default: a subset", 200, "/default/v1/", ""),
        get("default: no such value", 200, "/default/v3/", ""),
        get(
            "default: a selector that another begins with",
            200,
            "/default/test/",
            "",
        ),
        get("default: fewer keys", 200, "/default/keys/", ""),
        get("default: too many keys", 200, "/default/much/", ""),
        get("default: no criteria", 200, "/default/nothing/", ""),
        get("any: no such value", 200, "/only/v3/", ""),
        get("any: no criteria", 200, "/only/nothing/", ""),
        get("any: a selector that another begins with", 200, "/only/test/", ""),
        get("a selector without fallback", 503, "/strict/v3/", ""),
        get("lists: the second value", 200, "/lists/v5/", ""),
        get("lists: the first value", 200, "/lists/v1/", ""),
        get("a fallback list", 200, "/tries/v2/", ""),
        get("a fallback list without a match", 503, "/tries/none/", ""),
        get("redundant keys", 200, "/redundant/v2/", ""),
        get("single host", 200, "/single/v2/", ""),
        get("an empty default subset", 200, "/empty/default/", ""),
        get("an unhealthy priority", 200, "/unhealthy/", ""),
        get("a draining host", 200, "/draining/", ""),
        get("a degraded priority", 200, "/degraded/", ""),
        get("nobody, and no panic", 503, "/panic0/", ""),
        get("panic fails", 503, "/failing/", ""),
        // To the first, the second and the first again.
        get(
            "previous priorities",
            503,
            "/priorities/",
            "x-do: status=503|status=503|status=200\n",
        ),
        get("original destination by header", 200, "/sent/", ""),
        get("original destination unknown", 503, "/lost/", ""),
        get(
            "original destination invalid",
            503,
            "/lost/",
            "x-envoy-original-dst-host: nonsense\n",
        ),
        get("all is dropped", 503, "/dropped/", ""),
        get("nothing is dropped", 200, "/kept/", ""),
        get("the first supported policy", 200, "/listed/", ""),
        eight("round robin", "/even/"),
        eight("weighted round robin", "/weighted/"),
        eight("weighted localities", "/localities/"),
        get("ejected: first", 500, "/ejected/", "x-do: status=500\n"),
        get("ejected: second", 500, "/ejected/", "x-do: status=500\n"),
        admin("ejected: page", 200, "GET", "/clusters", |line| {
            line.starts_with("ejected::127") && (line.contains("health_flags") || line.contains("success_rate"))
        }),
        get("ejected: third", 503, "/ejected/", ""),
        get("unreachable: first", 503, "/unreachable/", ""),
        get("unreachable: second", 503, "/unreachable/", ""),
        admin("unreachable: page", 200, "GET", "/clusters", |line| {
            line.starts_with("unreachable::127") && line.contains("health_flags")
        }),
        get("unreachable: third", 503, "/unreachable/", ""),
        get("reset: first", 503, "/timeout/", "x-do: reset\n"),
        get("reset: second", 503, "/timeout/", "x-do: reset\n"),
        admin("reset: page", 200, "GET", "/clusters", |line| {
            line.starts_with("timeout::127") && line.contains("health_flags")
        }),
    ];
    const USERS: [(&str, &str); 8] = [
        ("ann", "x-user: ann\n"),
        ("bob", "x-user: bob\n"),
        ("cat", "x-user: cat\n"),
        ("dan", "x-user: dan\n"),
        ("eve", "x-user: eve\n"),
        ("fay", "x-user: fay\n"),
        ("gus", "x-user: gus\n"),
        ("hal", "x-user: hal\n"),
    ];
    for (user, header) in USERS {
        for (name, path) in [
            ("ring", "/ring/"),
            ("maglev", "/maglev/"),
            ("named ring", "/ring_named/"),
            ("murmur", "/murmur/"),
        ] {
            // Leaked once per run: names of cases are static.
            let name: &'static str = Box::leak(format!("{name}: {user}").into_boxed_str());
            cases.push(get(name, 200, path, header));
        }
    }
    cases
}
