//! Scenario files.

use std::path::Path;

use control_plane_mock::scenario::Scenario;
use control_plane_mock::{ControlPlane, PATIENCE, What};
use prost::Message;
use remora_proto::pb::envoy::service::discovery::v3::Resource;
use remora_proto::pb::google::protobuf::Any;
use tonic::Code;

use crate::client::{Sotw, names};

const TROUBLE: &str = r#"
resources:
- {"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a}
steps:
- {do: withhold, type: eds}
- {at: on-connect, do: push, resources: [{"@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: a}]}
- {at: "after-ack: cds", do: bad, type: cds, fault: undecodable}
- {do: push, resources: [{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: b}]}
- {at: {after-nack: cds}, do: release, type: eds}
- {at: "after-ack: eds", do: remove, type: cds, name: b}
- {at: 1, do: end-after, responses: 4, ending: unavailable}
"#;

#[tokio::test]
async fn steps_follow_what_the_client_does() {
    let scenario = Scenario::parse(TROUBLE, Path::new(".")).unwrap();
    let control_plane = ControlPlane::builder()
        .snapshot(&scenario.initial)
        .start()
        .await
        .unwrap();
    let handle = control_plane.handle();
    let playing = tokio::spawn(async move { scenario.play(&handle).await });
    let mut client = Sotw::open(&control_plane).await;
    client.ask("cds", &[]).await;
    let first = client.next().await;
    assert_eq!(names(&first.resources), ["a"]);
    client.ask("eds", &["a"]).await;
    client.ack(&first, &[]).await;
    let second = client.next().await;
    assert_eq!(names(&second.resources), ["a", "b", ""]);
    client.nack(&second, "1", "undecodable").await;
    let endpoints = client.next().await;
    assert_eq!(names(&endpoints.resources), ["a"]);
    client.ack(&endpoints, &["a"]).await;
    let last = client.next().await;
    assert_eq!(names(&last.resources), ["a"]);
    assert_eq!(client.end().await.unwrap().code(), Code::Unavailable);
    playing.await.unwrap();
}

#[tokio::test]
async fn a_control_plane_can_go_down_and_come_up_again() {
    let text = "steps:\n- {at: \"after-request: cds\", do: down}\n- {at: 20, do: up}\n";
    let scenario = Scenario::parse(text, Path::new(".")).unwrap();
    let control_plane = ControlPlane::start().await.unwrap();
    let handle = control_plane.handle();
    let playing = tokio::spawn(async move { scenario.play(&handle).await });
    let mut client = Sotw::open(&control_plane).await;
    client.ask("cds", &[]).await;
    assert!(client.end().await.is_some());
    playing.await.unwrap();
    let client = Sotw::open(&control_plane).await;
    client.ask("lds", &[]).await;
    control_plane
        .wait_for(|entry| entry.what == What::Response && entry.is_of("lds"), PATIENCE)
        .await
        .unwrap();
}

#[test]
fn what_is_not_understood_is_named() {
    let reason = |text: &str| Scenario::parse(text, Path::new(".")).unwrap_err().to_string();
    assert!(reason("steps: [{do: dance}]").contains("steps[0]"));
    assert!(reason("steps: [{do: resend, type: cds, twice: true}]").contains("twice"));
    assert!(reason("steps: [{at: at-noon, do: up}]").contains("at-noon"));
    assert!(reason("steps: [{at: after-ack, do: up}]").contains("needs a type"));
    assert!(reason("steps: [{do: push, files: [none.yaml]}]").contains("none.yaml"));
    assert!(reason("stairs: []").contains("stairs"));
    let place = reason("steps: [{do: up}, {do: resend, type: cdx}]");
    assert!(
        place.contains("steps[1]: type: \"cdx\" is none of the types cds, eds"),
        "{place}"
    );
    let place = reason("steps: [{do: order, types: [cds, envoy.config.core.v3.Node]}]");
    assert!(
        place.contains("steps[0]: type: \"envoy.config.core.v3.Node\""),
        "{place}"
    );
    assert!(reason("steps: [{at: \"after-ack: cdx\", do: up}]").contains("steps[0]: at: \"cdx\""));
    assert!(reason("steps: [{do: push, ttl_ms: soon}]").contains("steps[0]"));
    let field = "{\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a, nmae: b}";
    let place = reason(&format!("steps: [{{do: push, resources: [{field}]}}]"));
    assert!(
        place.contains("steps[0]: resources[0]") && place.contains("nmae"),
        "{place}"
    );
}

/// A resource with a time to live of its own, and one that gets it from the step.
const MORTALS: &str = r#"
resources:
- "@type": type.googleapis.com/envoy.service.discovery.v3.Resource
  ttl: 5s
  resource: {"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a}
steps:
- at: "after-ack: cds"
  do: push
  ttl_ms: 1500
  resources: [{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: b}]
- {at: "after-ack: cds", do: report, type: cds, name: c, code: 5, message: no such service}
"#;

#[tokio::test]
async fn resources_have_times_to_live_and_errors_are_reported() {
    let scenario = Scenario::parse(MORTALS, Path::new(".")).unwrap();
    let control_plane = ControlPlane::builder()
        .snapshot(&scenario.initial)
        .start()
        .await
        .unwrap();
    let handle = control_plane.handle();
    let playing = tokio::spawn(async move { scenario.play(&handle).await });
    let mut client = Sotw::open(&control_plane).await;
    client.ask("cds", &[]).await;
    let first = client.next().await;
    assert_eq!(lives(&first.resources), [("a".to_owned(), 5000)]);
    client.ack(&first, &[]).await;
    let second = client.next().await;
    let both = [("a".to_owned(), 5000), ("b".to_owned(), 1500)];
    assert_eq!(lives(&second.resources), both);
    assert!(second.resource_errors.is_empty());
    client.ack(&second, &[]).await;
    let third = client.next().await;
    assert_eq!(lives(&third.resources), both);
    let error = &third.resource_errors[0];
    assert_eq!(error.resource_name.as_ref().unwrap().name, "c");
    let detail = error.error_detail.as_ref().unwrap();
    assert_eq!((detail.code, detail.message.as_str()), (5, "no such service"));
    playing.await.unwrap();
}

/// Name and milliseconds to live of wrapped resources.
fn lives(resources: &[Any]) -> Vec<(String, i64)> {
    let life = |any: &Any| {
        let wrapper = Resource::decode(any.value.as_slice()).unwrap();
        let ttl = wrapper.ttl.unwrap();
        (wrapper.name, ttl.seconds * 1000 + i64::from(ttl.nanos) / 1_000_000)
    };
    resources.iter().map(life).collect()
}
