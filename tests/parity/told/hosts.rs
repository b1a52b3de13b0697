//! Of endpoints: which updates of them change something.

use control_plane_mock::What;
use control_plane_mock::resources::Variant;
use remora_proto::pb::envoy::config::core::v3::{HealthStatus, Metadata};
use remora_proto::pb::envoy::config::endpoint::v3 as pb;
use remora_proto::pb::envoy::config::endpoint::v3::cluster_load_assignment::{Policy, policy::DropOverload};
use remora_proto::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use remora_proto::pb::envoy::r#type::v3::FractionalPercent;
use remora_proto::pb::google::protobuf::{Duration, UInt32Value};

use super::refusals::{Scene, Step, compare, shown, step};

/// Two hosts, changed.
fn push(scene: &Scene, change: impl FnOnce(&mut pb::ClusterLoadAssignment)) {
    let mut assignment = scene.endpoints("a", 1);
    change(&mut assignment);
    scene.plane.push(assignment);
}

fn policy(scene: &Scene, change: impl FnOnce(&mut Policy)) {
    push(scene, |assignment| change(assignment.policy.get_or_insert_default()));
}

fn host(scene: &Scene, change: impl FnOnce(&mut pb::LbEndpoint)) {
    push(scene, |assignment| change(&mut assignment.endpoints[0].lb_endpoints[0]));
}

fn changed(name: &'static str, act: fn(&Scene)) -> [Step; 2] {
    let heard = &[("eds", What::Ack)];
    [
        step(name, heard, act),
        step("as before", heard, |scene| push(scene, |_| {})),
    ]
}

#[tokio::test]
async fn updates_that_leave_the_hosts_as_they_are() {
    let steps = [
        changed("the order of the hosts", |scene| {
            push(scene, |assignment| assignment.endpoints[0].lb_endpoints.reverse());
        }),
        changed("overprovisioning", |scene| {
            policy(scene, |policy| {
                policy.overprovisioning_factor = Some(UInt32Value { value: 150 })
            });
        }),
        changed("a time limit", |scene| {
            policy(scene, |policy| {
                policy.endpoint_stale_after = Some(Duration { seconds: 600, nanos: 0 })
            });
        }),
        changed("what is dropped", |scene| {
            let percent = FractionalPercent {
                numerator: 0,
                denominator: 0,
            };
            policy(scene, |policy| {
                policy.drop_overloads.push(DropOverload {
                    category: "c".to_owned(),
                    drop_percentage: Some(percent),
                });
            });
        }),
        changed("a host's weight", |scene| {
            host(scene, |host| {
                host.load_balancing_weight = Some(UInt32Value { value: 3 })
            });
        }),
        changed("a locality's weight", |scene| {
            push(scene, |assignment| {
                assignment.endpoints[0].load_balancing_weight = Some(UInt32Value { value: 3 })
            });
        }),
        changed("a locality's name", |scene| {
            push(scene, |assignment| {
                assignment.endpoints[0].locality.get_or_insert_default().zone = "z".to_owned()
            });
        }),
        changed("a host's health", |scene| {
            host(scene, |host| host.health_status = HealthStatus::Degraded as i32);
        }),
        changed("a host's metadata", |scene| {
            host(scene, |host| {
                let fields = [("a".to_owned(), Default::default())].into();
                let metadata = Metadata {
                    filter_metadata: [("m".to_owned(), remora_proto::pb::google::protobuf::Struct { fields })].into(),
                    ..Default::default()
                };
                host.metadata = Some(metadata);
            });
        }),
        changed("a host's name", |scene| {
            host(scene, |host| {
                if let Some(HostIdentifier::Endpoint(endpoint)) = &mut host.host_identifier {
                    endpoint.hostname = "told.test".to_owned();
                }
            });
        }),
        changed("its priority", |scene| {
            push(scene, |assignment| assignment.endpoints[0].priority = 1);
        }),
        changed("an empty locality", |scene| {
            push(scene, |assignment| {
                assignment.endpoints.push(pb::LocalityLbEndpoints {
                    locality: Some(Default::default()),
                    priority: 0,
                    ..Default::default()
                })
            });
        }),
        changed("a host", |scene| scene.plane.push(scene.endpoints("a", 2)).truncate(0)),
    ];
    let steps: Vec<_> = steps.into_iter().flatten().collect();
    compare("hosts-stay", Variant::Delta, &steps, &shown).await;
}
