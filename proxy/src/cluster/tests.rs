mod ailing;
mod figures;
mod simulation;
mod world;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::endpoint::v3 as epb;

use super::*;
use crate::config::BuildContext;
use crate::runtime::clock;
use crate::runtime::io::Address;

/// One endpoint of a test's assignment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct At {
    port: u16,
    priority: u32,
    weight: u32,
    health: core::HealthStatus,
}

fn at(port: u16) -> At {
    At {
        port,
        priority: 0,
        weight: 1,
        health: core::HealthStatus::Unknown,
    }
}

fn number(value: u32) -> remora_proto::pb::google::protobuf::UInt32Value {
    remora_proto::pb::google::protobuf::UInt32Value { value }
}

fn socket(port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: "10.0.0.1".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..Default::default()
        })),
    }
}

fn assignment(endpoints: &[At]) -> epb::ClusterLoadAssignment {
    let endpoint = |at: &At| epb::LocalityLbEndpoints {
        priority: at.priority,
        lb_endpoints: vec![epb::LbEndpoint {
            health_status: at.health as i32,
            load_balancing_weight: Some(number(at.weight)),
            host_identifier: Some(epb::lb_endpoint::HostIdentifier::Endpoint(epb::Endpoint {
                address: Some(socket(at.port)),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    };
    epb::ClusterLoadAssignment {
        cluster_name: "c".to_owned(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ..Default::default()
    }
}

fn eds() -> pb::Cluster {
    pb::Cluster {
        name: "c".to_owned(),
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(3)),
        eds_cluster_config: Some(pb::cluster::EdsClusterConfig {
            eds_config: Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn build(config: &pb::Cluster, cx: &BuildContext) -> Cluster {
    crate::config::cluster::compile(&config.encode_to_vec(), cx).unwrap_or_else(|problems| panic!("{problems}"))
}

fn with_endpoints(endpoints: &[At]) -> Cluster {
    let cluster = build(&eds(), &BuildContext::default());
    cluster
        .update_endpoints(&assignment(endpoints).encode_to_vec())
        .expect("a good assignment");
    cluster
}

fn ports(cluster: &Cluster, picks: usize) -> HashMap<u16, usize> {
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let host = cluster.pick(&PickContext::default()).expect("a host");
        *counts.entry(host.address.ip().expect("an ip").port()).or_default() += 1;
    }
    counts
}

/// As in Envoy, where each priority tells of its own.
#[test]
fn each_priority_whose_hosts_change_is_a_change() {
    let second = |port| At {
        priority: 1,
        ..at(port)
    };
    let cluster = with_endpoints(&[at(1), second(2)]);
    let update = |endpoints: &[At]| {
        let before = cluster.stats.membership_change.value();
        let bytes = assignment(endpoints).encode_to_vec();
        cluster.update_endpoints(&bytes).expect("a good assignment");
        cluster.stats.membership_change.value() - before
    };
    assert_eq!(update(&[at(1), second(2)]), 0);
    assert_eq!(update(&[at(1), second(2), second(3)]), 1);
    // One that goes from one to the other is gone here and new there.
    assert_eq!(update(&[at(1), at(2), second(3)]), 2);
    assert_eq!(update(&[]), 2);
}

#[test]
fn hosts_that_stay_keep_their_state_and_others_leave_at_once() {
    let cluster = with_endpoints(&[at(1), at(2)]);
    let before: HashMap<Address, Arc<Host>> = cluster
        .all_hosts()
        .into_iter()
        .map(|host| (host.address.clone(), host))
        .collect();
    let kept = &before[&Address::Ip(([10, 0, 0, 1], 2).into())];
    let gone = &before[&Address::Ip(([10, 0, 0, 1], 1).into())];
    kept.state.rq_total.store(7, Ordering::Relaxed);
    assert!(gone.state.is_member());
    cluster
        .update_endpoints(&assignment(&[at(2), at(3)]).encode_to_vec())
        .expect("a good assignment");
    let after = cluster.all_hosts();
    assert!(Arc::ptr_eq(&after[0], kept), "an unchanged host is the same object");
    assert!(!gone.state.is_member() && kept.state.is_member());
    assert_eq!(ports(&cluster, 10), HashMap::from([(2, 5), (3, 5)]));
    assert_eq!(cluster.stats.membership_change.value(), 2);
    // Another weight is another host with the same state.
    let heavier = At { weight: 3, ..at(2) };
    cluster
        .update_endpoints(&assignment(&[heavier, at(3)]).encode_to_vec())
        .expect("a good assignment");
    let after = cluster.all_hosts();
    assert!(!Arc::ptr_eq(&after[0], kept) && Arc::ptr_eq(&after[0].state, &kept.state));
    assert_eq!(after[0].state.rq_total.load(Ordering::Relaxed), 7);
    assert_eq!(ports(&cluster, 8), HashMap::from([(2, 6), (3, 2)]));
    assert_eq!(cluster.stats.membership_change.value(), 2);
    let state = kept.state.clone();
    drop(cluster);
    assert!(!state.is_member());
}

#[test]
fn an_address_named_twice_is_two_hosts_but_in_eds() {
    let fixed = |endpoints: &[At]| {
        let config = pb::Cluster {
            name: "c".to_owned(),
            load_assignment: Some(assignment(endpoints)),
            ..Default::default()
        };
        build(&config, &BuildContext::default())
    };
    let named = [at(1), at(1), at(2)];
    assert_eq!(ports(&with_endpoints(&named), 60), HashMap::from([(1, 30), (2, 30)]));
    let cluster = fixed(&named);
    assert_eq!(ports(&cluster, 60), HashMap::from([(1, 40), (2, 20)]));
    assert_eq!(cluster.stats.membership_total.value(), 3);
    // Each has a health of its own, and is in a priority of its own.
    let ill = At {
        health: core::HealthStatus::Unhealthy,
        ..at(1)
    };
    let later = |port| At {
        priority: 1,
        ..at(port)
    };
    let cluster = fixed(&[ill, later(1), later(2)]);
    assert_eq!(ports(&cluster, 60), HashMap::from([(1, 30), (2, 30)]));
    assert_eq!(cluster.stats.membership_healthy.value(), 2);
}

#[test]
fn health_from_the_control_plane_counts() {
    use core::HealthStatus as Status;
    let with = |port, health| At { health, ..at(port) };
    let cluster = with_endpoints(&[
        with(1, Status::Healthy),
        with(2, Status::Unhealthy),
        with(3, Status::Draining),
        with(4, Status::Unknown),
        with(5, Status::Timeout),
        with(6, Status::Unknown),
    ]);
    assert_eq!(ports(&cluster, 9), HashMap::from([(1, 3), (4, 3), (6, 3)]));
    assert_eq!(cluster.stats.membership_healthy.value(), 3);
    let flags: Vec<String> = cluster.explain().into_iter().map(|host| host.flags).collect();
    assert_eq!(
        flags[..4],
        ["healthy", "/failed_eds_health", "/eds_status_draining", "healthy"]
    );
    // Degraded hosts take what the healthy ones cannot.
    let cluster = with_endpoints(&[with(1, Status::Degraded), with(2, Status::Healthy)]);
    let set = cluster.hosts.load();
    assert_eq!((set.loads.healthy[0], set.loads.degraded[0]), (70, 30));
}

#[test]
fn load_moves_to_the_next_priority_and_panic_uses_everybody() {
    let failed = |port, priority| At {
        priority,
        health: core::HealthStatus::Unhealthy,
        ..at(port)
    };
    let cluster = with_endpoints(&[failed(1, 0), failed(2, 0), At { priority: 1, ..at(3) }]);
    assert_eq!(ports(&cluster, 5), HashMap::from([(3, 5)]));
    let cluster = with_endpoints(&[failed(1, 0), failed(2, 0), at(3)]);
    assert_eq!(ports(&cluster, 6), HashMap::from([(1, 2), (2, 2), (3, 2)]));
    assert_eq!(cluster.stats.lb_healthy_panic.value(), 6);
    assert!(cluster.explain().iter().all(|host| host.panic));
}

#[test]
fn a_retry_goes_elsewhere() {
    let cluster = with_endpoints(&[at(1), at(2)]);
    for _ in 0..10 {
        let first = cluster.pick(&PickContext::default()).expect("a host");
        let attempted = [first.clone()];
        let retry = RetryPick {
            attempted: &attempted,
            refuses: &|host| Arc::ptr_eq(&host.state, &first.state),
            selections: 1,
            update_frequency: None,
        };
        let context = PickContext {
            retry: Some(retry),
            ..PickContext::default()
        };
        let second = cluster.pick(&context).expect("a host");
        assert!(!Arc::ptr_eq(&first.state, &second.state));
    }
}

#[test]
fn a_retry_turns_to_priorities_that_were_not_tried() {
    let level = |port: u16, priority: u32| At { priority, ..at(port) };
    let cluster = with_endpoints(&[level(1, 0), level(2, 1), level(3, 2)]);
    let host = |port: u16| {
        let address = Address::Ip(([10, 0, 0, 1], port).into());
        let hosts = cluster.all_hosts();
        hosts.into_iter().find(|host| host.address == address).expect("a host")
    };
    let pick = |attempted: &[Arc<Host>], update_frequency| {
        let retry = RetryPick {
            attempted,
            refuses: &|_| false,
            selections: 1,
            update_frequency: Some(update_frequency),
        };
        let context = PickContext {
            retry: Some(retry),
            ..PickContext::default()
        };
        let picked = cluster.pick(&context).expect("a host");
        picked.address.ip().expect("an ip").port()
    };
    let tried = [host(1), host(1), host(2), host(3)];
    assert_eq!(pick(&tried[..1], 1), 2);
    assert_eq!(pick(&tried[..1], 2), 1, "one attempt is no update yet");
    assert_eq!(pick(&tried[..2], 2), 2);
    assert_eq!(pick(&tried[..3], 1), 3);
    // All were tried: they start over.
    assert_eq!(pick(&tried[..4], 1), 1);
}

#[test]
fn ejections_survive_a_new_configuration() {
    let cx = BuildContext::default();
    let mut config = eds();
    config.outlier_detection = Some(pb::OutlierDetection {
        max_ejection_percent: Some(number(50)),
        ..Default::default()
    });
    let bytes = assignment(&[at(1), at(2), at(3), at(4)]).encode_to_vec();
    let old = build(&config, &cx);
    old.update_endpoints(&bytes).expect("a good assignment");
    let bad = old.pick(&PickContext::default()).expect("a host");
    for _ in 0..5 {
        old.observe_response(&bad, 502.into(), clock::now());
    }
    let is_left_out = |cluster: &Cluster| {
        (0..12).all(|_| {
            !Arc::ptr_eq(
                &cluster.pick(&PickContext::default()).expect("a host").state,
                &bad.state,
            )
        })
    };
    assert!(is_left_out(&old));
    config.connect_timeout = Some(remora_proto::pb::google::protobuf::Duration { seconds: 1, nanos: 0 });
    let new = build(&config, &cx);
    new.update_endpoints(&bytes).expect("a good assignment");
    assert!(new.id != old.id && is_left_out(&new));
    assert_eq!(new.stats.outlier().ejections_active.value(), 1);
    // A configuration without outlier detection lets everybody in again.
    config.outlier_detection = None;
    let without = build(&config, &cx);
    without.update_endpoints(&bytes).expect("a good assignment");
    assert!(!is_left_out(&without));
}

#[test]
fn original_destinations_become_hosts() {
    let mut config = pb::Cluster {
        name: "c".to_owned(),
        lb_policy: 6,
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(4)),
        ..Default::default()
    };
    let to: SocketAddr = ([10, 9, 8, 7], 80).into();
    let context = PickContext {
        original_destination: Some(to),
        ..PickContext::default()
    };
    let cluster = build(&config, &BuildContext::default());
    let host = cluster.pick(&context).expect("a host");
    assert_eq!(host.address, Address::Ip(to));
    assert!(host.state.is_member() && cluster.pick(&PickContext::default()).is_err());
    let state = host.state.clone();
    drop(host);
    let start = clock::now();
    for seconds in [5, 10] {
        cluster.tick(start + Duration::from_secs(seconds + 1), &mut || 0);
    }
    assert!(!state.is_member() && cluster.all_hosts().is_empty());
    config.lb_config = Some(pb::cluster::LbConfig::OriginalDstLbConfig(
        pb::cluster::OriginalDstLbConfig {
            upstream_port_override: Some(number(15008)),
            ..Default::default()
        },
    ));
    let cluster = build(&config, &BuildContext::default());
    let host = cluster.pick(&context).expect("a host");
    assert_eq!(host.address, Address::Ip(([10, 9, 8, 7], 15008).into()));
}

#[test]
fn a_new_host_starts_slowly() {
    let mut config = eds();
    config.lb_config = Some(pb::cluster::LbConfig::RoundRobinLbConfig(
        pb::cluster::RoundRobinLbConfig {
            slow_start_config: Some(pb::cluster::SlowStartConfig {
                slow_start_window: Some(remora_proto::pb::google::protobuf::Duration { seconds: 100, nanos: 0 }),
                ..Default::default()
            }),
        },
    ));
    let cluster = build(&config, &BuildContext::default());
    cluster
        .update_endpoints(&assignment(&[at(1)]).encode_to_vec())
        .expect("a good assignment");
    let mut now = clock::now();
    let mut pass = |cluster: &Cluster, seconds| {
        now += Duration::from_secs(seconds);
        cluster.tick(now, &mut || 0);
    };
    pass(&cluster, 101);
    cluster
        .update_endpoints(&assignment(&[at(1), at(2)]).encode_to_vec())
        .expect("a good assignment");
    assert_eq!(ports(&cluster, 110), HashMap::from([(1, 100), (2, 10)]));
    pass(&cluster, 49);
    pass(&cluster, 102);
    assert_eq!(ports(&cluster, 10), HashMap::from([(1, 5), (2, 5)]));
    assert_eq!(cluster.next_tick(), None);
}
