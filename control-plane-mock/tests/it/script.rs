//! What goes wrong on purpose.

use std::time::Duration;

use control_plane_mock::resources::{cluster_static, endpoints, route_config};
use control_plane_mock::{ControlPlane, Ending, Fault, PATIENCE, Pace, Snapshot, What};
use remora_proto::pb::envoy::config::cluster::v3::Cluster;
use remora_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use tonic::Code;

use crate::client::{Delta, Sotw, added, names, try_channel};

fn cluster(name: &str) -> Cluster {
    cluster_static(name, [("127.0.0.1", 1)]).build()
}

async fn with_cluster() -> (ControlPlane, Sotw) {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.push(cluster("a"));
    let client = Sotw::open(&control_plane).await;
    (control_plane, client)
}

async fn first_with(fault: Fault) -> (ControlPlane, Sotw, DiscoveryResponse) {
    let (control_plane, mut client) = with_cluster().await;
    control_plane.fault("cds", fault);
    client.ask("cds", &[]).await;
    let response = client.next().await;
    (control_plane, client, response)
}

#[tokio::test]
async fn a_withheld_type_waits_and_the_others_do_not() {
    let (control_plane, mut client) = with_cluster().await;
    control_plane.push(route_config("r").vhost(["*"]));
    control_plane.withhold("cds");
    client.ask("cds", &[]).await;
    client.ask("rds", &["r"]).await;
    assert_eq!(names(&client.next().await.resources), ["r"]);
    control_plane.release("cds");
    assert_eq!(names(&client.next().await.resources), ["a"]);
}

#[tokio::test]
async fn one_name_can_be_withheld() {
    let (control_plane, mut client) = with_cluster().await;
    control_plane.withhold_name("cds", "a");
    control_plane.push(cluster("b"));
    client.ask("cds", &[]).await;
    assert_eq!(names(&client.next().await.resources), ["b"]);
    control_plane.release("cds");
    assert_eq!(names(&client.next().await.resources), ["a", "b"]);
}

#[tokio::test]
async fn a_delay_lets_other_types_overtake() {
    let (control_plane, mut client) = with_cluster().await;
    control_plane.push(route_config("r").vhost(["*"]));
    control_plane.delay("cds", Duration::from_millis(50));
    client.ask("cds", &[]).await;
    client.ask("rds", &["r"]).await;
    assert_eq!(names(&client.next().await.resources), ["r"]);
    assert_eq!(names(&client.next().await.resources), ["a"]);
}

#[tokio::test]
async fn spoiled_content() {
    let (_control_plane, _client, response) = first_with(Fault::Undecodable).await;
    assert!(<Cluster as prost::Message>::decode(response.resources[1].value.as_slice()).is_err());
    let (_control_plane, _client, response) = first_with(Fault::WrongType).await;
    assert_ne!(response.resources[1].type_url, response.type_url);
    let (_control_plane, _client, response) = first_with(Fault::Duplicate).await;
    assert_eq!(names(&response.resources), ["a", "a"]);
}

#[tokio::test]
async fn spoiled_nonces() {
    let (control_plane, mut client, first) = first_with(Fault::StaleNonce).await;
    client.ack(&first, &[]).await;
    let entry = control_plane
        .wait_for(|entry| entry.is_request() && entry.stale, PATIENCE)
        .await
        .unwrap();
    assert_eq!(entry.nonce, "stale-1");
    control_plane.push(cluster("b"));
    let second = client.next().await;
    control_plane.fault("cds", Fault::DuplicateNonce);
    control_plane.push(cluster("c"));
    assert_eq!(client.next().await.nonce, second.nonce);
}

#[tokio::test]
async fn garbage_breaks_the_clients_stream() {
    let (control_plane, mut client) = with_cluster().await;
    control_plane.fault("cds", Fault::Garbage);
    client.ask("cds", &[]).await;
    assert_eq!(client.end().await.unwrap().code(), Code::Internal);
}

#[tokio::test]
async fn a_message_can_be_cut_short_and_a_response_lost() {
    let (control_plane, mut client) = with_cluster().await;
    control_plane.fault("cds", Fault::CutShort(Ending::Connection));
    client.ask("cds", &[]).await;
    assert!(client.end().await.is_some());
    let (control_plane, mut client) = with_cluster().await;
    control_plane.fault("cds", Fault::Lost);
    client.ask("cds", &[]).await;
    control_plane
        .wait_for(|entry| entry.note == "Lost", PATIENCE)
        .await
        .unwrap();
    control_plane.push(cluster("b"));
    assert_eq!(client.next().await.nonce, "2");
}

#[tokio::test]
async fn streams_end_as_told() {
    for (ending, code) in [(Ending::Ok, None), (Ending::Unavailable, Some(Code::Unavailable))] {
        let (control_plane, mut client) = with_cluster().await;
        client.ask("cds", &[]).await;
        client.next().await;
        control_plane.disconnect(ending);
        assert_eq!(client.end().await.map(|status| status.code()), code);
    }
    for ending in [Ending::Reset, Ending::Connection] {
        let (control_plane, mut client) = with_cluster().await;
        client.ask("cds", &[]).await;
        client.next().await;
        control_plane.disconnect(ending);
        assert!(client.end().await.is_some(), "{ending:?} is no orderly end");
        let close = control_plane
            .wait_for(|entry| entry.what == What::Close, PATIENCE)
            .await
            .unwrap();
        assert_eq!(close.note, format!("scripted: {ending:?}"));
    }
}

#[tokio::test]
async fn one_stream_can_be_ended_alone() {
    let (control_plane, mut first) = with_cluster().await;
    let mut second = Sotw::open(&control_plane).await;
    control_plane.disconnect_stream(1, Ending::Ok);
    assert!(first.end().await.is_none());
    second.ask("cds", &[]).await;
    assert_eq!(names(&second.next().await.resources), ["a"]);
}

#[tokio::test]
async fn streams_end_after_so_many_responses() {
    let (control_plane, mut client) = with_cluster().await;
    control_plane.end_after(Some((2, Ending::Unavailable)));
    client.ask("cds", &[]).await;
    client.next().await;
    control_plane.push(cluster("b"));
    client.next().await;
    assert_eq!(client.end().await.unwrap().code(), Code::Unavailable);
}

#[tokio::test]
async fn connections_and_streams_can_be_refused() {
    let (control_plane, mut client) = with_cluster().await;
    control_plane.refuse_streams(Some(14));
    let (_requests, receiver) = tokio::sync::mpsc::channel(1);
    let channel = try_channel(control_plane.listen()).await.unwrap();
    let mut service = remora_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient::new(channel);
    let status = service
        .stream_aggregated_resources(tokio_stream::wrappers::ReceiverStream::new(receiver))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    control_plane.refuse_connections(true);
    let socket = tokio::net::TcpStream::connect(control_plane.addr().unwrap())
        .await
        .unwrap();
    let mut socket = tokio::io::BufReader::new(socket);
    let read = tokio::io::AsyncReadExt::read(&mut socket, &mut [0; 16]).await;
    assert!(
        matches!(read, Ok(0) | Err(_)),
        "the connection is closed without a byte"
    );
    client.ask("cds", &[]).await;
    assert_eq!(
        names(&client.next().await.resources),
        ["a"],
        "streams that were open stay"
    );
}

#[tokio::test]
async fn the_order_of_types_is_the_scripts() {
    let (control_plane, mut client) = with_cluster().await;
    for (type_name, wanted) in [("cds", vec![]), ("rds", vec!["r"]), ("eds", vec!["a"])] {
        client.ask(type_name, &wanted).await;
    }
    client.next().await;
    control_plane
        .wait_for(|entry| entry.is_of("eds"), PATIENCE)
        .await
        .unwrap();
    control_plane.order(&["rds", "eds"]);
    control_plane.push_all(
        &Snapshot::new()
            .with(cluster("b"))
            .with(endpoints("a", [("127.0.0.1", 1)]))
            .with(route_config("r").vhost(["*"])),
    );
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(control_plane_mock::types::short(&client.next().await.type_url).to_owned());
    }
    assert_eq!(order, ["rds", "eds", "cds"]);
}

#[tokio::test]
async fn slow_delivery_is_still_whole() {
    let (control_plane, mut client) = with_cluster().await;
    control_plane.pace(Some(Pace {
        chunk: 3,
        gap: Duration::from_millis(1),
    }));
    client.ask("cds", &[]).await;
    assert_eq!(names(&client.next().await.resources), ["a"]);
}

#[tokio::test]
async fn resent_and_unsolicited_responses() {
    let (control_plane, mut client) = with_cluster().await;
    client.ask("cds", &[]).await;
    let first = client.next().await;
    control_plane.resend("cds");
    let second = client.next().await;
    assert_eq!(
        (first.resources, first.version_info),
        (second.resources, second.version_info)
    );
    control_plane.push(endpoints("a", [("127.0.0.1", 1)]));
    control_plane.unsolicited("eds");
    assert_eq!(names(&client.next().await.resources), ["a"]);
    let mut client = Delta::open(&control_plane).await;
    client.subscribe("cds", &[]).await;
    client.next().await;
    control_plane.resend("cds");
    assert_eq!(added(&client.next().await), ["a"]);
}

#[tokio::test]
async fn a_restart_keeps_port_and_resources() {
    let (control_plane, mut client) = with_cluster().await;
    let address = control_plane.addr();
    client.ask("cds", &[]).await;
    client.next().await;
    let control_plane = control_plane.restart().await.unwrap();
    assert!(client.end().await.is_some());
    assert_eq!(control_plane.addr(), address);
    let mut client = Sotw::open(&control_plane).await;
    client.ask("cds", &[]).await;
    assert_eq!(names(&client.next().await.resources), ["a"]);
    control_plane.shutdown().await;
    assert!(tokio::net::TcpStream::connect(address.unwrap()).await.is_err());
}

#[tokio::test]
async fn waiting_in_vain_shows_what_there_was() {
    let (control_plane, _client) = with_cluster().await;
    let error = control_plane
        .wait_for(|entry| entry.what == What::Nack, Duration::from_millis(5))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("Open"), "{error}");
}
