//! Delta.

use std::collections::HashMap;

use control_plane_mock::resources::{cluster_eds, cluster_static, endpoints, secret_ca};
use control_plane_mock::{ControlPlane, Snapshot, What};
use remora_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use remora_proto::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Delta, added, channel, delta};

fn two_clusters() -> Snapshot {
    Snapshot::new()
        .with(cluster_static("a", [("127.0.0.1", 1)]))
        .with(cluster_static("b", [("127.0.0.1", 2)]))
}

#[tokio::test]
async fn only_what_changed_is_sent_and_what_is_gone_is_named() {
    let control_plane = ControlPlane::builder().snapshot(&two_clusters()).start().await.unwrap();
    let mut client = Delta::open(&control_plane).await;
    client.subscribe("cds", &[]).await;
    let first = client.next().await;
    assert_eq!(added(&first), ["a", "b"]);
    client.ack(&first).await;
    let version = control_plane.push_cluster(cluster_static("b", [("127.0.0.1", 3)]));
    let second = client.next().await;
    assert_eq!(added(&second), ["b"]);
    assert_ne!(first.resources[1].version, second.resources[0].version);
    client.nack(&second, "b: no").await;
    assert_eq!(control_plane.wait_nack("cds").await.unwrap(), "b: no");
    let nack = control_plane.transcript().pop().unwrap();
    assert_eq!((nack.what, &nack.version), (What::Nack, &version));
    control_plane.remove("cds", "a");
    let third = client.next().await;
    assert_eq!(
        (added(&third), third.removed_resources.as_slice()),
        (vec![], ["a".to_owned()].as_slice())
    );
}

#[tokio::test]
async fn a_requested_name_that_does_not_exist_is_removed_until_it_comes() {
    let control_plane = ControlPlane::start().await.unwrap();
    let mut client = Delta::open(&control_plane).await;
    client.subscribe("eds", &["a", "b"]).await;
    assert_eq!(client.next().await.removed_resources, ["a", "b"]);
    control_plane.push(endpoints("b", [("127.0.0.1", 1)]));
    assert_eq!(added(&client.next().await), ["b"]);
    control_plane.remove("eds", "b");
    assert_eq!(client.next().await.removed_resources, ["b"]);
}

#[tokio::test]
async fn initial_versions_spare_what_the_client_has() {
    let control_plane = ControlPlane::builder().snapshot(&two_clusters()).start().await.unwrap();
    let mut client = Delta::open(&control_plane).await;
    client.subscribe("cds", &[]).await;
    let first = client.next().await;
    let mut held: HashMap<String, String> = first
        .resources
        .iter()
        .map(|resource| (resource.name.clone(), resource.version.clone()))
        .collect();
    held.insert("gone".to_owned(), "1".to_owned());

    let control_plane = control_plane.restart().await.unwrap();
    control_plane.push_cluster(cluster_static("b", [("127.0.0.1", 3)]));
    let mut client = Delta::open(&control_plane).await;
    client
        .send(DeltaDiscoveryRequest {
            initial_resource_versions: held,
            ..delta("cds")
        })
        .await;
    let response = client.next().await;
    assert_eq!(added(&response), ["b"]);
    assert_eq!(response.removed_resources, ["gone"]);
    let request = &control_plane.transcript()[1];
    assert_eq!(request.initial_versions.len(), 3);
}

#[tokio::test]
async fn wildcard_rules_hold() {
    let control_plane = ControlPlane::builder().snapshot(&two_clusters()).start().await.unwrap();
    let mut client = Delta::open(&control_plane).await;
    client.subscribe("cds", &["*"]).await;
    assert_eq!(added(&client.next().await), ["a", "b"]);
    client.subscribe("cds", &["a"]).await;
    assert_eq!(added(&client.next().await), ["a"], "what is subscribed is sent again");
    client.unsubscribe("cds", &["a"]).await;
    assert_eq!(
        added(&client.next().await),
        ["a"],
        "a name the wildcard still covers is sent, so that the client knows"
    );
    client.subscribe("cds", &["b"]).await;
    assert_eq!(added(&client.next().await), ["b"]);
    client.unsubscribe("cds", &["*"]).await;
    client.subscribe("cds", &["new"]).await;
    assert_eq!(client.next().await.removed_resources, ["new"]);
    control_plane.push_all(&two_clusters());
    assert_eq!(added(&client.next().await), ["b"], "only the name that is left");
}

#[tokio::test]
async fn a_wildcard_on_nothing_is_greeted_with_an_empty_response() {
    let control_plane = ControlPlane::start().await.unwrap();
    let mut client = Delta::open(&control_plane).await;
    client.subscribe("lds", &[]).await;
    let response = client.next().await;
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
}

#[tokio::test]
async fn a_changed_cluster_brings_its_endpoints_again() {
    let first = Snapshot::new()
        .with(cluster_eds("a"))
        .with(endpoints("a", [("127.0.0.1", 1)]));
    let control_plane = ControlPlane::builder().snapshot(&first).start().await.unwrap();
    let mut client = Delta::open(&control_plane).await;
    client.subscribe("cds", &[]).await;
    client.next().await;
    client.subscribe("eds", &["a"]).await;
    let assignment = client.next().await;
    control_plane.push_cluster(cluster_eds("a").http2());
    assert!(client.next().await.type_url.ends_with("Cluster"));
    assert_eq!(client.next().await.resources, assignment.resources);

    let held = |name: &str, version: &str| HashMap::from([(name.to_owned(), version.to_owned())]);
    let mut client = Delta::open(&control_plane).await;
    client
        .send(DeltaDiscoveryRequest {
            initial_resource_versions: held("a", "old"),
            ..delta("cds")
        })
        .await;
    assert_eq!(added(&client.next().await), ["a"]);
    client
        .send(DeltaDiscoveryRequest {
            resource_names_subscribe: vec!["a".to_owned()],
            initial_resource_versions: held("a", &assignment.resources[0].version),
            ..delta("eds")
        })
        .await;
    assert_eq!(client.next().await.resources, assignment.resources);
}

#[tokio::test]
async fn the_secret_service_speaks_delta_too() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.push(secret_ca("ca", "pem"));
    let (requests, receiver) = mpsc::channel(4);
    let mut service = SecretDiscoveryServiceClient::new(channel(control_plane.listen()).await);
    let responses = service
        .delta_secrets(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut client = Delta::from_parts(requests, responses);
    client.subscribe("sds", &["ca"]).await;
    assert_eq!(added(&client.next().await), ["ca"]);
}
