use std::time::{Duration, SystemTime};

use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::endpoint::v3 as epb;
use remora_xds::types;

use super::*;
use crate::cluster::PickContext;

fn assignment(port: u32) -> Bytes {
    let address = core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: "10.0.0.1".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    };
    let endpoint = epb::LbEndpoint {
        host_identifier: Some(epb::lb_endpoint::HostIdentifier::Endpoint(epb::Endpoint {
            address: Some(address),
            ..Default::default()
        })),
        ..Default::default()
    };
    let group = epb::LocalityLbEndpoints {
        lb_endpoints: vec![endpoint],
        ..Default::default()
    };
    let assignment = epb::ClusterLoadAssignment {
        endpoints: vec![group],
        ..Default::default()
    };
    assignment.encode_to_vec().into()
}

/// One that comes now, in the first second of the epoch.
fn came(bytes: Bytes) -> Assignment {
    Assignment::new(resource(bytes, "1", 1))
}

fn resource(bytes: Bytes, version: &str, second: u64) -> Arc<Resource> {
    Arc::new(Resource {
        ty: &types::ASSIGNMENT,
        name: Arc::from("c"),
        hash: 0,
        bytes,
        version: Arc::from("its own"),
        response: Arc::from(version),
        updated_at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
    })
}

fn slot() -> ClusterSlot {
    let config = pb::Cluster {
        name: "c".to_owned(),
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(3)),
        eds_cluster_config: Some(pb::cluster::EdsClusterConfig::default()),
        ..Default::default()
    };
    ClusterSlot::new(Arc::from("c"), config.encode_to_vec().into(), Arc::default())
}

fn port(cluster: &Cluster) -> u16 {
    let host = cluster.pick(&PickContext::default()).expect("a host");
    host.address.ip().expect("an ip").port()
}

#[test]
fn endpoints_reach_the_cluster_before_and_after_it_is_built() {
    let slot = slot();
    slot.set_endpoints(came(assignment(1))).expect("a good assignment");
    assert!(slot.built().is_none());
    let cluster = slot.cluster().expect("a good cluster");
    assert_eq!(port(&cluster), 1);
    slot.set_endpoints(came(assignment(2))).expect("a good assignment");
    assert_eq!(port(&cluster), 2);
    assert!(Arc::ptr_eq(&cluster, &slot.cluster().expect("built")));
    assert!(slot.set_endpoints(came(Bytes::from_static(b"\xff"))).is_err());
    assert_eq!(slot.endpoints(), Some(assignment(2)));
}

#[test]
fn many_threads_build_one_cluster() {
    let slot = slot();
    slot.set_endpoints(came(assignment(1))).expect("a good assignment");
    let clusters: Vec<_> = std::thread::scope(|scope| {
        let build = || {
            let cluster = slot.cluster().expect("a good cluster");
            assert_eq!(port(&cluster), 1);
            cluster
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(build)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert!(clusters.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
}

/// Ten thousand unused clusters have to cost little more than their bytes.
#[test]
fn an_unused_slot_is_small() {
    assert!(size_of::<ClusterSlot>() <= 160, "{}", size_of::<ClusterSlot>());
}

/// Stale after a minute.
fn aging() -> Bytes {
    let mut assignment = epb::ClusterLoadAssignment::decode(assignment(1)).expect("an assignment");
    assignment.policy = Some(epb::cluster_load_assignment::Policy {
        endpoint_stale_after: Some(remora_proto::pb::google::protobuf::Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    });
    assignment.encode_to_vec().into()
}

#[test]
fn endpoints_age_from_their_arrival_and_not_from_their_first_use() {
    let after = |ago| {
        let now = clock::now();
        let arrived = now.checked_sub(Duration::from_secs(ago)).expect("the clock is older");
        let slot = slot();
        let resource = resource(aging(), "1", 1);
        slot.set_endpoints(Assignment { resource, arrived })
            .expect("a good assignment");
        (slot.cluster().expect("a good cluster"), now)
    };
    let (cluster, now) = after(20);
    assert_eq!(cluster.next_tick(), Some(now + Duration::from_secs(40)));
    assert_eq!(port(&cluster), 1);
    let (cluster, _) = after(61);
    assert!(cluster.pick(&PickContext::default()).is_err());
    assert_eq!(cluster.stats.assignment_stale.value(), 1);
}

#[test]
fn endpoints_that_age_are_young_again_when_they_are_sent_again() {
    let aging = aging();
    let slot = slot();
    slot.set_endpoints(came(aging.clone())).expect("a good assignment");
    let cluster = slot.cluster().expect("a good cluster");
    let first = cluster.next_tick().expect("they will be stale");
    slot.set_endpoints(came(aging.clone())).expect("a good assignment");
    assert!(cluster.next_tick().expect("they will be stale") > first);
    let late = cluster.next_tick().expect("due");
    cluster.tick(late, &mut || 0);
    assert!(cluster.pick(&PickContext::default()).is_err());
    slot.set_endpoints(came(aging)).expect("a good assignment");
    assert_eq!(port(&cluster), 1);
}

#[test]
fn other_bytes_that_leave_the_hosts_as_they_are_change_nothing() {
    let slot = slot();
    slot.set_endpoints(came(assignment(1))).expect("a good assignment");
    let cluster = slot.cluster().expect("a good cluster");
    let counters = cluster.stats.subscription().counters.clone();
    let unchanged = |bytes: Bytes| {
        slot.set_endpoints(came(bytes)).expect("a good assignment");
        counters.update_no_rebuild.value()
    };
    assert_eq!(unchanged(aging()), 1);
    // The same bytes are the client's to count.
    assert_eq!(unchanged(aging()), 1);
    assert_eq!(unchanged(assignment(2)), 1);
    assert_eq!(unchanged(assignment(2)), 1);
}

#[test]
fn what_came_before_the_first_use_is_counted_then_and_nothing_twice() {
    let slot = slot();
    slot.set_endpoints(Assignment::new(resource(assignment(1), "one", 1)))
        .expect("a good assignment");
    let cluster = slot.cluster().expect("a good cluster");
    let counters = cluster.stats.subscription().counters.clone();
    let counted = || {
        (
            counters.update_attempt.value(),
            counters.update_success.value(),
            counters.update_time.value(),
            counters.version_text().to_string(),
        )
    };
    assert_eq!(counted(), (2, 1, 1000, "one".to_owned()));
    // The client has counted what it publishes, unless it did so before anybody watched.
    slot.set_endpoints(Assignment::new(resource(assignment(2), "two", 2)))
        .expect("a good assignment");
    assert_eq!(counted(), (3, 2, 2000, "two".to_owned()));
    slot.set_endpoints(Assignment::new(resource(assignment(3), "late", 2)))
        .expect("a good assignment");
    assert_eq!(counted(), (3, 2, 2000, "two".to_owned()));
}
