//! Zone-aware routing: who stays in the own locality, and what is counted of it.
//!
//! Only divisions without chance; those with chance are in `distributions.rs`.

use super::{bootstrap, listener};
use crate::harness::{Case, World, raw};

/// The sidecar is in zone `a`; of its peers one is there, five are in `b`.
pub const NODE: &str = "node: {id: parity, cluster: parity, locality: {region: r, zone: a}}\ncluster_manager: {local_cluster_name: local}\n";

/// Hosts of a zone: addresses that nobody listens on, as many as wanted, or a backend.
pub fn zone(name: &str, endpoints: &[String], weight: u32) -> String {
    let list: Vec<String> = endpoints
        .iter()
        .map(|endpoint| format!("          - {endpoint}\n"))
        .collect();
    let weight = match weight {
        0 => String::new(),
        weight => format!("        load_balancing_weight: {weight}\n"),
    };
    format!(
        "      - locality: {{region: r, zone: {name}}}\n{weight}        lb_endpoints:\n{}",
        list.concat()
    )
}

pub fn at(port: &str, more: &str) -> String {
    format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}{more}}}")
}

/// So many hosts that are never reached.
pub fn nobody(count: u8) -> Vec<String> {
    let one = |index: u8| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.1.{index}, port_value: {{{{closed}}}}}}}}}}}}"
        )
    };
    (1..=count).map(one).collect()
}

pub fn zoned(name: &str, zones: &[String], fields: &str) -> String {
    let fields: String = fields.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "  - name: {name}\n    type: STATIC\n    connect_timeout: 1s\n    load_assignment:\n      cluster_name: {name}\n      \
         endpoints:\n{}{fields}",
        zones.concat()
    )
}

const A: &str = "{{a}}";
const B: &str = "{{b}}";
const SMALL: &str = "common_lb_config: {zone_aware_lb_config: {min_cluster_size: 1}}";

fn extension(zone: &str) -> String {
    format!(
        r#"load_balancing_policy:
  policies:
  - typed_extension_config:
      name: rr
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin
        locality_lb_config: {{zone_aware_lb_config: {{min_cluster_size: 1, {zone}}}}}"#
    )
}

fn clusters() -> Vec<String> {
    let one = |port: &str| vec![at(port, "")];
    let ends = [zone("a", &one(A), 0), zone("b", &one(B), 0)];
    let even = |name: &str, fields: &str| zoned(name, &ends, fields);
    vec![
        zoned("local", &[zone("a", &nobody(1), 0), zone("b", &nobody(6)[1..], 0)], ""),
        // Six hosts, as the default wants: 1,666 of 10,000 here and there.
        zoned("default", &[zone("a", &one(A), 0), zone("b", &nobody(5), 0)], ""),
        even("few", ""),
        even("direct", SMALL),
        even("least", &format!("lb_policy: LEAST_REQUEST\n{SMALL}")),
        even("random", &format!("lb_policy: RANDOM\n{SMALL}")),
        even(
            "disabled",
            "common_lb_config: {zone_aware_lb_config: {min_cluster_size: 1, routing_enabled: {value: 0}}}",
        ),
        zoned("alone", &[zone("b", &one(B), 0)], SMALL),
        // Nobody in the own zone, and room in one only.
        zoned("elsewhere", &[zone("b", &nobody(2), 0), zone("c", &one(A), 0)], SMALL),
        zoned(
            "weighted",
            &[zone("a", &one(A), 1), zone("b", &one(B), 3)],
            "common_lb_config: {locality_weighted_lb_config: {}}",
        ),
        // A sixth of the sidecars is here, but no healthy host.
        zoned(
            "sick",
            &[
                zone("a", &[at(A, ", health_status: UNHEALTHY")], 0),
                zone("c", &one(B), 0),
            ],
            SMALL,
        ),
        zoned(
            "forced",
            &[zone("a", &one(A), 0), zone("b", &nobody(9), 0)],
            &extension("force_local_zone: {}"),
        ),
        zoned(
            "directly",
            &[zone("a", &one(A), 0), zone("b", &nobody(9), 0)],
            &extension("force_locality_direct_routing: true"),
        ),
        // By number a tenth would be too little, by weight it is half.
        zoned(
            "heavy",
            &[
                zone("a", &[at(A, ", load_balancing_weight: 9")], 0),
                zone("b", &nobody(9), 0),
            ],
            &extension("locality_basis: HEALTHY_HOSTS_WEIGHT"),
        ),
        zoned(
            "priorities",
            &[
                zone("a", &[at(A, ", health_status: UNHEALTHY")], 0),
                zone("b", &one(B), 0).replace("        lb_endpoints", "        priority: 1\n        lb_endpoints"),
            ],
            SMALL,
        ),
    ]
}

const NAMES: [&str; 14] = [
    "default",
    "few",
    "direct",
    "least",
    "random",
    "disabled",
    "alone",
    "elsewhere",
    "weighted",
    "sick",
    "forced",
    "directly",
    "heavy",
    "priorities",
];

pub fn world() -> World {
    let routes: String = NAMES
        .iter()
        .map(|name| format!("    - {{match: {{prefix: /{name}/}}, route: {{cluster: {name}}}}}\n"))
        .collect();
    let manager = format!(
        "route_config:\n  name: routes\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{routes}"
    );
    let eight = |name: &&'static str| -> Case {
        let one = format!("GET /{name}/ HTTP/1.1\nhost: parity.test\n\n");
        raw(name, 200, &one.repeat(8)).answers(8)
    };
    World {
        name: "zones",
        yaml: format!("{NODE}{}", bootstrap(&[listener("http", &manager)], &clusters())),
        cases: NAMES.iter().map(eight).collect(),
        stats: STATS,
    }
}

/// What is counted for each request; the others count for each of Envoy's threads.
const STATS: &[&str] = &[
    "cluster.default.lb_zone_routing",
    "cluster.few.lb_zone_routing",
    "cluster.direct.lb_zone_routing",
    "cluster.least.lb_zone_routing",
    "cluster.random.lb_zone_routing",
    "cluster.disabled.lb_zone_routing",
    "cluster.alone.lb_zone_routing",
    "cluster.elsewhere.lb_zone_routing",
    "cluster.weighted.lb_zone_routing",
    "cluster.sick.lb_zone_routing",
    "cluster.forced.lb_zone_routing",
    "cluster.directly.lb_zone_routing",
    "cluster.heavy.lb_zone_routing",
    "cluster.priorities.lb_zone_routing",
    "cluster.elsewhere.lb_zone_no_capacity_left",
];
