//! A pick allocates nothing, whatever the policy. (That it waits for nobody is how it is made: it reads one immutable set of hosts and moves
//! atomic cursors.)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use prost::Message;
use remora::cluster::lb::LocalCluster;
use remora::cluster::{Cluster, Host, PickContext, RetryPick};
use remora::config::BuildContext;
use remora_proto::json::{Options, encode_text};
use remora_proto::pb::envoy::config::core::v3::Metadata;

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

/// Six hosts in two zones, of these weights in turns.
fn endpoints(name: &str, weights: [u32; 2], localities: [u32; 2]) -> String {
    let host = |index: usize| {
        let weight = weights[index % 2];
        format!(
            "{{load_balancing_weight: {weight}, metadata: {{filter_metadata: {{envoy.lb: {{version: v{}}}}}}}, endpoint: {{address: \
             {{socket_address: {{address: 10.0.0.{}, port_value: 80}}}}}}}}",
            index % 2,
            index + 1
        )
    };
    let zone = |index: usize| {
        let hosts: Vec<String> = (3 * index..3 * index + 3).map(host).collect();
        format!(
            "{{locality: {{zone: z{index}}}, load_balancing_weight: {}, lb_endpoints: [{}]}}",
            localities[index],
            hosts.join(", ")
        )
    };
    format!(
        "load_assignment: {{cluster_name: {name}, endpoints: [{}, {}]}}",
        zone(0),
        zone(1)
    )
}

fn build(text: &str, cx: &BuildContext) -> Arc<Cluster> {
    let encoded = encode_text(text, CLUSTER, &Options::default()).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    let built = remora::config::cluster::compile(&encoded.bytes, cx);
    let cluster = Arc::new(built.unwrap_or_else(|problems| panic!("{problems}")));
    cx.hosts.enroll(&cluster);
    cluster
}

fn named(name: &str, weights: [u32; 2], fields: &str, cx: &BuildContext) -> Arc<Cluster> {
    let text = format!(
        "{{name: {name}, type: STATIC, {}, {fields}}}",
        endpoints(name, weights, [1, 2])
    );
    build(&text, cx)
}

/// Three priorities with a host each: the first fails, the second is degraded, and of the last it is said how it is; if that is not well, nobody is.
fn spilling(name: &str, last: &str) -> String {
    let level = |priority: u32, health: &str| {
        format!(
            "{{priority: {priority}, lb_endpoints: [{{health_status: {health}, endpoint: {{address: {{socket_address: {{address: \
             10.0.0.{priority}, port_value: 80}}}}}}}}]}}"
        )
    };
    let levels = match last {
        "UNKNOWN" => [level(0, "UNHEALTHY"), level(1, "DEGRADED"), level(2, last)],
        _ => [level(0, last), level(1, last), level(2, last)],
    };
    format!(
        "{{name: {name}, type: STATIC, load_assignment: {{cluster_name: {name}, endpoints: [{}]}}}}",
        levels.join(", ")
    )
}

fn allocations(cluster: &Cluster, context: &PickContext<'_>) -> u64 {
    // The first look at the hosts gives the thread its place in line.
    assert!(cluster.pick(context).is_ok());
    let counted = allocation_counter::measure(|| {
        for _ in 0..100 {
            assert!(cluster.pick(context).is_ok());
        }
    });
    counted.count_total
}

#[test]
fn allocates_nothing() {
    let plain = BuildContext::default();
    let zoned = BuildContext::default();
    let own = remora::cluster::host::Locality {
        zone: "z0".to_owned(),
        ..Default::default()
    };
    zoned.hosts.set_local(LocalCluster::new(Arc::from("local"), Some(own)));
    // Ten in the first zone, to make some requests leave it.
    let peers = (1..=10).map(|index| {
        format!("{{endpoint: {{address: {{socket_address: {{address: 10.1.0.{index}, port_value: 80}}}}}}}}")
    });
    let peers = peers.collect::<Vec<_>>().join(", ");
    let other = "{locality: {zone: z1}, lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.2.0.1, port_value: 80}}}}]}";
    let local = format!(
        "{{name: local, type: STATIC, load_assignment: {{cluster_name: local, endpoints: [{{locality: {{zone: z0}}, lb_endpoints: \
         [{peers}]}}, {other}]}}}}"
    );
    let _local = build(&local, &zoned);
    let ewma = "load_balancing_policy: {policies: [{typed_extension_config: {name: e, typed_config: {'@type': \
                type.googleapis.com/envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma}}}]}";
    let full = "load_balancing_policy: {policies: [{typed_extension_config: {name: e, typed_config: {'@type': \
                type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest, selection_method: \
                FULL_SCAN}}}]}";
    let cases = [
        named("turns", [1, 1], "lb_policy: ROUND_ROBIN", &plain),
        named("weighted", [1, 3], "lb_policy: ROUND_ROBIN", &plain),
        named("least", [1, 1], "lb_policy: LEAST_REQUEST", &plain),
        named("weighted_least", [1, 3], "lb_policy: LEAST_REQUEST", &plain),
        named("full", [1, 1], full, &plain),
        named("random", [1, 1], "lb_policy: RANDOM", &plain),
        named("ewma", [1, 1], ewma, &plain),
        named("ring", [1, 3], "lb_policy: RING_HASH", &plain),
        named("maglev", [1, 3], "lb_policy: MAGLEV", &plain),
        named(
            "bounded",
            [1, 1],
            "lb_policy: MAGLEV, common_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 120}}",
            &plain,
        ),
        named(
            "localities",
            [1, 1],
            "common_lb_config: {locality_weighted_lb_config: {}}",
            &plain,
        ),
        named(
            "subsets",
            [1, 1],
            "lb_subset_config: {subset_selectors: [{keys: [version]}]}",
            &plain,
        ),
        named(
            "bounded_ring",
            [1, 1],
            "lb_policy: RING_HASH, common_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 120}}",
            &plain,
        ),
        build(&spilling("spilling", "UNKNOWN"), &plain),
        build(&spilling("panic", "UNHEALTHY"), &plain),
        build(
            "{name: destinations, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED}",
            &plain,
        ),
        named("zones", [1, 1], "lb_policy: ROUND_ROBIN", &zoned),
    ];
    let labels = encode_text(
        "{filter_metadata: {envoy.lb: {version: v1}}}",
        "envoy.config.core.v3.Metadata",
        &Options::default(),
    );
    let labels = Metadata::decode(labels.expect("metadata").bytes.as_slice()).expect("metadata");
    let context = PickContext {
        hash: Some(12_345),
        metadata_match: Some(&labels),
        original_destination: Some(([10, 0, 0, 9], 80).into()),
        ..PickContext::default()
    };
    for cluster in &cases {
        assert_eq!(allocations(cluster, &context), 0, "{}", cluster.name);
        let attempted = [cluster.pick(&context).expect("a host")];
        let refuses = |host: &Host| Arc::ptr_eq(&host.state, &attempted[0].state);
        for update_frequency in [None, Some(1)] {
            let retry = PickContext {
                retry: Some(RetryPick {
                    attempted: &attempted,
                    refuses: &refuses,
                    selections: 5,
                    update_frequency,
                }),
                ..context
            };
            assert_eq!(allocations(cluster, &retry), 0, "a retry of {}", cluster.name);
        }
    }
    let zones = cases.last().expect("the last one");
    assert!(zones.stats.lb_zone_routing_sampled.value() > 0, "zones count");
    assert!(zones.stats.lb_zone_routing_cross_zone.value() > 0, "zones count");
}
