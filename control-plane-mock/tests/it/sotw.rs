//! State of the world.

use control_plane_mock::resources::{cluster_eds, cluster_static, endpoints, route_config};
use control_plane_mock::{ControlPlane, Manner, PATIENCE, Snapshot, What};
use prost::Message;
use remora_proto::pb::envoy::service::discovery::v3::DiscoveryRequest;
use remora_proto::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Sotw, ack, channel, names, request};

#[tokio::test]
async fn clusters_are_full_state_and_endpoints_only_what_was_asked_for() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.set(
        &Snapshot::new()
            .with(cluster_eds("a"))
            .with(cluster_eds("b"))
            .with(endpoints("a", [("127.0.0.1", 1)]))
            .with(endpoints("b", [("127.0.0.1", 2)])),
    );
    let mut client = Sotw::open(&control_plane).await;
    client.ask("cds", &[]).await;
    let clusters = client.next().await;
    assert_eq!(names(&clusters.resources), ["a", "b"]);
    assert_eq!(
        clusters.control_plane.as_ref().unwrap().identifier,
        "control-plane-mock"
    );
    client.ack(&clusters, &[]).await;
    client.ask("eds", &["a", "missing"]).await;
    let assignments = client.next().await;
    assert_eq!(names(&assignments.resources), ["a"]);
    client.ack(&assignments, &["a", "missing"]).await;
    control_plane.wait_ack("eds", &assignments.version_info).await.unwrap();

    assert_eq!(control_plane.remove("cds", "b").as_deref(), Some("2"));
    let clusters = client.next().await;
    assert_eq!(
        (names(&clusters.resources), clusters.version_info.as_str()),
        (vec!["a".to_owned()], "2")
    );
    control_plane.push(endpoints("missing", [("127.0.0.1", 3)]));
    assert_eq!(names(&client.next().await.resources), ["missing"]);
}

#[tokio::test]
async fn nothing_is_served_as_an_empty_response_to_wildcards_only() {
    let control_plane = ControlPlane::start().await.unwrap();
    let mut client = Sotw::open(&control_plane).await;
    client.ask("rds", &["r"]).await;
    client.ask("cds", &[]).await;
    let response = client.next().await;
    assert!(response.type_url.ends_with("Cluster") && response.resources.is_empty());
}

#[tokio::test]
async fn the_transcript_tells_acks_from_nacks_and_shows_the_reason() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.push_cluster(cluster_static("a", [("127.0.0.1", 1)]));
    let mut client = Sotw::open(&control_plane).await;
    client.ask("cds", &[]).await;
    let first = client.next().await;
    client.ack(&first, &[]).await;
    control_plane.wait_ack("cds", "1").await.unwrap();
    control_plane.push_raw("cds", "bad", [0x0a, 0x7f]);
    let second = client.next().await;
    client.nack(&second, "1", "bad: truncated").await;
    assert_eq!(control_plane.wait_nack("cds").await.unwrap(), "bad: truncated");

    let seen: Vec<(What, String, String)> = control_plane
        .transcript()
        .into_iter()
        .map(|entry| (entry.what, entry.version, entry.nonce))
        .collect();
    let expected = [
        (What::Open, "", ""),
        (What::Request, "", ""),
        (What::Response, "1", "1"),
        (What::Ack, "1", "1"),
        (What::Response, "2", "2"),
        (What::Nack, "1", "2"),
    ];
    assert_eq!(
        seen,
        expected.map(|(what, version, nonce)| (what, version.to_owned(), nonce.to_owned()))
    );
    let first_request = &control_plane.transcript()[1];
    assert_eq!(first_request.node.as_deref(), Some("node-1"));
    assert_eq!(first_request.to_string(), "#1 -> Request cds node=node-1");
}

#[tokio::test]
async fn asking_again_with_the_same_names_is_answered_again() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.push(endpoints("a", [("127.0.0.1", 1)]));
    let mut client = Sotw::open(&control_plane).await;
    client.ask("eds", &["a"]).await;
    let first = client.next().await;
    client.ack(&first, &["a"]).await;
    client.send(ack(&first, &["a"])).await;
    let second = client.next().await;
    assert_eq!(first.resources, second.resources);
    assert_ne!(first.nonce, second.nonce);
}

#[tokio::test]
async fn go_control_plane_answers_only_lists_that_name_everything_and_fresh_nonces() {
    let control_plane = ControlPlane::builder()
        .manner(Manner::GoControlPlane)
        .start()
        .await
        .unwrap();
    control_plane.set(
        &Snapshot::new()
            .with(endpoints("a", [("::1", 1)]))
            .with(endpoints("b", [("::1", 1)])),
    );
    let mut client = Sotw::open(&control_plane).await;
    client.ask("eds", &["a"]).await;
    control_plane.wait_subscribed("eds", "a").await.unwrap();
    client.ask("eds", &["a", "b"]).await;
    let both = client.next().await;
    assert_eq!(
        (names(&both.resources), both.nonce.as_str()),
        (vec!["a".to_owned(), "b".to_owned()], "1")
    );
    let mark = control_plane.mark();
    client
        .send(DiscoveryRequest {
            response_nonce: "17".to_owned(),
            ..request("eds", &["c"])
        })
        .await;
    client.ack(&both, &["a", "b"]).await;
    control_plane
        .wait_from(mark, |entry| entry.what == What::Ack, PATIENCE)
        .await
        .unwrap();
    control_plane.push(endpoints("a", [("::1", 2)]));
    assert_eq!(names(&client.next().await.resources), ["a", "b"]);
    let stale: Vec<bool> = control_plane
        .transcript()
        .iter()
        .filter(|entry| entry.is_request())
        .map(|entry| entry.stale)
        .collect();
    assert_eq!(stale, [false, false, true, false]);
}

#[tokio::test]
async fn the_secret_service_serves_secrets_alone_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sds.sock");
    let control_plane = ControlPlane::builder().unix(&path).start().await.unwrap();
    control_plane.push_secret(control_plane_mock::resources::secret_ca("ca", "pem"));
    let (requests, receiver) = mpsc::channel(4);
    let mut service = SecretDiscoveryServiceClient::new(channel(control_plane.listen()).await);
    let responses = service
        .stream_secrets(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut client = Sotw::from_parts(requests, responses);
    client
        .send(DiscoveryRequest {
            type_url: String::new(),
            ..request("sds", &["ca"])
        })
        .await;
    assert_eq!(names(&client.next().await.resources), ["ca"]);
    client.ask("cds", &[]).await;
    let status = client.end().await.unwrap();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    control_plane.shutdown().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_resource_with_a_ttl_comes_wrapped_and_its_heartbeat_empty() {
    use remora_proto::pb::envoy::service::discovery::v3::Resource;
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.push_with_ttl(route_config("r").vhost(["*"]), std::time::Duration::from_millis(1500));
    let mut client = Sotw::open(&control_plane).await;
    client.ask("rds", &["r"]).await;
    let response = client.next().await;
    let wrapped = Resource::decode(response.resources[0].value.as_slice()).unwrap();
    assert_eq!(
        (wrapped.name.as_str(), wrapped.ttl.as_ref().map(|ttl| ttl.nanos)),
        ("r", Some(500_000_000))
    );
    assert!(wrapped.resource.is_some());
    control_plane.heartbeat("rds", "r");
    let beat = client.next().await;
    assert_eq!(beat.version_info, response.version_info);
    assert!(
        Resource::decode(beat.resources[0].value.as_slice())
            .unwrap()
            .resource
            .is_none()
    );
}
